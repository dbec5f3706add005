"""Compares our tokenizers with the public ones, token for token, on generated lines. Not part of build or tests.

usage: tokenizer_oracle.py --tpo_dist BIN [--lines 9000] [--seed 1] [--only PART,..] [--data FOLDER] [--golden FOLDER]

Needs transformers 4.x (its BertTokenizer and LlamaTokenizer in Python are the ones that public weights were trained
with), tokenizers, tiktoken, dashscope (ships qwen.tiktoken) and sentencepiece; the vocabularies of --data, of which
cl100k.tiktoken may be absent. Lines cover scripts, emoji sequences, combining marks, controls, digits, mixed spaces,
long words, and text of every assigned code point. Prints one line per tokenizer and the first differences.
--golden writes the small vocabularies and the ids that the C++ tests read, and compares nothing.
"""
import argparse
import base64
import json
import os
import random
import subprocess
import sys
import tempfile
import unicodedata

QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K_JSON = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")
TASK = ["<box_begin>", "<time_begin>", "<temp>", "<boxes>", "<track_begin>", "<tracking>", "<track_box>"]

WORDS = ["the", "Hello", "world's", "DON'T", "we'LL", "I'd", "Stra\u00dfe", "na\u00efve",
         "\u041f\u0420\u0418\u0412\u0415\u0422", "\u043c\u0438\u0440", "\u0395\u03bb\u03bb\u03ac\u03b4\u03b1\u03c2",
         "\u039f\u0394\u03a5\u03a3\u03a3\u0395\u03a5\u03a3", "\u6771\u4eac\u90fd",
         "\u65e5\u672c\u8a9e\u30c6\u30b9\u30c8", "\ud55c\uad6d\uc5b4", "\uc548\ub155",
         "\u0645\u0631\u062d\u0628\u0627", "\u05e9\u05dc\u05d5\u05dd", "\u0939\u093f\u0928\u094d\u0926\u0940",
         "\u0ba4\u0bae\u0bbf\u0bb4\u0bcd", "\u0e44\u0e17\u0e22", "\u10e5\u10d0\u10e0\u10d7\u10e3\u10da\u10d8",
         "\u0540\u0561\u0575\u0565\u0580\u0565\u0576", "\u12a0\u121b\u122d\u129b", "\u0130stanbul", "e\u0301",
         "\u1100\u1161\u11a8", "\u01c6", "\ufb01n", "\u2460\u2461", "\u00bd", "\u0967\u0968\u0969", "\u0663\u0664",
         "3.14159", "1234567", "2024-01-31", "x=y+1;", "foo_bar", "http://a.b/c?d=e",
         "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f3f3\ufe0f\u200d\U0001f308",
         "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7", "\u2764\ufe0f", "'\u017f", "`'\u00b4",
         "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "[CLS]", "[SEP]", "[MASK]", "<boxes>",
         "<box_begin>", "[INST]", "[/INST]", "<Video>", "\u00c5\u030a", "q\u0323\u0307", "\u0344", "\u03a9", "\u2103",
         "\u9f9c", "\u2126", "\U0001d4b3"]
SPACES = [" ", " ", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\u00a0", "\u3000", "\u2028", "\u200b",
          "\x0b", "\x1c", "\x85", ""]


def assigned():
    """Code points that Python's tables and utf8proc's, which are newer, agree to have: no surrogates."""
    return [c for c in range(1, 0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Co", "Cs")]


def lines_of(count, seed):
    rng, points = random.Random(seed), assigned()
    marks = [c for c in points if unicodedata.combining(chr(c))]
    low = [c for c in points if c < 0x3000]
    lines = ["", " ", "\n", "a", "\u0301", "\ufeff", "\x01", "'", "a" * 3000, "ab" * 5000, "\u00e9" * 2000, " " * 3000,
             "\n \n" * 500, "9" * 700, "\u0301" * 600, "\U0001f642" * 500, "\u4e2d" * 900, "x" * 101,
             "x" * 100, "'s" * 300]
    lines += ["".join(chr(c) for c in points[i:i + 64]) for i in range(0, len(points), 64)]         # all of them
    lines += [" ".join("x" + chr(c) + "1" for c in points[i:i + 64]) for i in range(0, 0x33FF, 64)]  # and each alone
    kinds = [lambda: rng.choice(WORDS), lambda: rng.choice(WORDS).upper(), lambda: chr(rng.choice(points)),
             lambda: "".join(chr(rng.choice(low)) for _ in range(rng.randint(1, 8))),
             lambda: chr(rng.choice(low)) + "".join(chr(rng.choice(marks)) for _ in range(rng.randint(1, 5))),
             lambda: str(rng.randint(0, 10 ** rng.randint(1, 9))),
             lambda: "".join(rng.choice("abcdefghijklmnopqrstuvwxyzABCDEFGH") for _ in range(rng.randint(1, 25))),
             lambda: rng.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") * rng.randint(1, 4)]
    while len(lines) < count:
        lines.append("".join(rng.choice(kinds)() + rng.choice(SPACES) for _ in range(rng.randint(1, 40))))
    return lines


ADDED = [{"content": "lstrip!", "lstrip": True},
         {"content": "<both>", "lstrip": True, "rstrip": True, "normalized": False},
         {"content": "word", "single_word": True}, {"content": "e\u0301lan", "normalized": True}]


def added_lines(count):
    rng = random.Random(5)
    parts = ["lstrip!", "<both>", "word", "\u00e9lan", "e\u0301lan", "<|im_end|>", "<boxes>", "a", "_", "\u0301", " ",
             "  ", "\n", "!", "\u4e2d"]
    return ["".join(rng.choice(parts) for _ in range(rng.randint(1, 12))) for _ in range(count)]


def without(lines, strings):
    """Lines without these strings in any case: such as what one of two versions does not know yet."""
    for string in strings:
        lines = [line.replace(string, "").replace(string.upper(), "") for line in lines]
    return lines


class Ours:
    def __init__(self, binary, path, *flags):
        self.words = [binary, "data", "tokenize", "--json", "--tokenizer", path, *flags]

    def __call__(self, lines):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        done = subprocess.run(self.words, input=text, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit("ours failed: " + done.stderr)
        return [[int(i) for i in line.split()] for line in done.stdout.split("\n")[:-1]]


def compare(name, ours, theirs, lines, show=3):
    got = ours(lines)
    assert len(got) == len(lines), (len(got), len(lines))
    want = [theirs(line) for line in lines]
    bad = [i for i in range(len(lines)) if got[i] != want[i]]
    print(f"{name:52s} lines {len(lines):5d}  tokens {sum(map(len, want)):8d}  differ {len(bad)}", flush=True)
    for i in bad[:show]:
        at = next((k for k, (a, b) in enumerate(zip(got[i], want[i])) if a != b), min(len(got[i]), len(want[i])))
        print("    line", i, json.dumps(lines[i])[:120], "token", at, "ours", got[i][at:at + 6], "theirs",
              want[i][at:at + 6])
    return bad


def alphabet():
    """GPT-2's printable character of each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = iter(range(256, 512))
    return {b: chr(b if b in plain else next(other)) for b in range(256)}


def merges_of(ranks):
    """The one pair that makes each token of a tiktoken file, found by merging its bytes with the lower ranks only."""
    found = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [bytes([b]) for b in token]
        while len(parts) > 2:
            pairs = [(ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1)]
            lowest, i = min(pairs)
            if lowest >= rank:
                break
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) == 2:
            found.append(tuple(parts))
    return found


def train_json(path, regex, lines, size=9000):
    """A small BPE whose merges lie along the seams of this regular expression, so that a wrong seam shows."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    t = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex is None)
    t.pre_tokenizer = byte_level if regex is None else pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(regex), "isolated"), byte_level])
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  special_tokens=["<|endoftext|>"], show_progress=False)
    t.train_from_iterator(lines, trainer)
    t.save(path)
    return t


def qwen(run, work, lines):
    import dashscope
    import tiktoken
    from dashscope.tokenizers.qwen_tokenizer import QwenTokenizer
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
    source = os.path.join(os.path.dirname(dashscope.__file__), "resources", "qwen.tiktoken")
    theirs = QwenTokenizer(source)
    run("qwen.tiktoken | dashscope", [source], theirs.encode, lines)
    ranks = theirs._mergeable_ranks
    raw = tiktoken.Encoding("q", pat_str=QWEN, mergeable_ranks=ranks, special_tokens={})
    run("qwen.tiktoken --plain | tiktoken, NFC of Python", [source, "--plain"],
        lambda s: raw.encode(unicodedata.normalize("NFC", s), disallowed_special=()), lines)
    letters = alphabet()
    spell = lambda token: "".join(letters[b] for b in token)
    vocab = {spell(t): r for t, r in ranks.items()}
    merges = [(spell(a), spell(b)) for a, b in merges_of(ranks)]
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    t.normalizer = normalizers.NFC()
    young = {c for c in map(chr, assigned()) for s in (c + "\u0301", "e\u0301" + c, "e" + c + "\u0323", c + "\u0327")
             if t.normalizer.normalize_str(s) != unicodedata.normalize("NFC", s)}
    print("characters that tokenizers' tables of NFC are too old for, left out below:", len(young))
    lines = without(lines, young)
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    t.add_special_tokens([AddedToken(m, normalized=False, special=True) for m in marks])
    path = os.path.join(work, "tokenizer.json")
    t.save(path)
    run("qwen2 tokenizer.json | tokenizers", [path], lambda s: t.encode(s, add_special_tokens=False).ids, lines)
    t.add_tokens([AddedToken(**a) for a in ADDED])
    t.add_special_tokens([AddedToken(m, normalized=False, special=True) for m in TASK])
    path = os.path.join(work, "added.json")
    t.save(path)
    run("qwen2 with added tokens of all kinds | tokenizers", [path],
        lambda s: t.encode(s, add_special_tokens=False).ids, added_lines(4000))
    folder = os.path.join(work, "qwen2")
    os.makedirs(folder, exist_ok=True)
    json.dump(vocab, open(folder + "/vocab.json", "w"))
    open(folder + "/merges.txt", "w").write("#version: 0.2\n" + "".join(a + " " + b + "\n" for a, b in merges))
    entry = {str(151643 + i): {"content": m, "special": True, "normalized": False} for i, m in enumerate(marks)}
    config = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": entry}
    json.dump(config, open(folder + "/tokenizer_config.json", "w"))
    from transformers import Qwen2Tokenizer
    slow = Qwen2Tokenizer.from_pretrained(folder)
    few = [s for s in lines if len(s) < 400][:1500]  # it is slow
    run("qwen2 vocab.json + merges.txt | transformers, slow", [folder], lambda s: slow.encode(s), few)


def small_bpe(run, work, lines):
    for name, regex in (("gpt2", None), ("qwen2", QWEN), ("cl100k", CL100K_JSON)):
        path = os.path.join(work, name + ".json")
        t = train_json(path, regex, lines)
        run(f"small BPE along {name}'s expression | tokenizers", [path], lambda s: t.encode(s).ids, lines)


def cl100k(run, work, lines, data):
    import tiktoken
    from tiktoken_ext import openai_public
    path = os.path.join(data, "cl100k.tiktoken")
    if not os.path.exists(path):
        print("no", path)
        return
    ranks = {base64.b64decode(a): int(b) for a, b in (row.split() for row in open(path, "rb").read().splitlines())}
    openai_public.load_tiktoken_bpe = lambda *_, **__: ranks
    t = tiktoken.Encoding(**openai_public.cl100k_base())
    run("cl100k.tiktoken | tiktoken", [path], lambda s: t.encode(s, allowed_special="all"), lines)


def wordpiece(run, work, lines, data):
    from transformers import BertTokenizer, BertTokenizerFast
    path = os.path.join(data, "bert-base-uncased-vocab.txt")
    slow, fast = BertTokenizer(path), BertTokenizerFast(path)
    for t in (slow, fast):
        t.add_special_tokens({"bos_token": "[DEC]"})
    young = {c for c in map(chr, assigned())
             if slow.encode("x" + c + "1 " + c + " 1") != fast.encode("x" + c + "1 " + c + " 1")}
    print("characters on which BertTokenizer and BertTokenizerFast differ:", len(young))
    with_dec = [s + (" [DEC] x" if i % 7 == 0 else "") for i, s in enumerate(lines)]
    run("bert-base-uncased + [DEC] | transformers, slow", [path, "--add", "[DEC]"],
        lambda s: slow.encode(s, add_special_tokens=False), with_dec)
    run("bert-base-uncased + [DEC] | transformers, fast", [path, "--add", "[DEC]"],
        lambda s: fast.encode(s, add_special_tokens=False), without(with_dec, young))


def task_tokens():
    from transformers import AddedToken
    return {"additional_special_tokens": [AddedToken(m, special=True, normalized=False) for m in TASK]}


def llama(run, work, lines, data):
    import sentencepiece
    from transformers import LlamaTokenizer
    path = os.path.join(data, "mistral-7b-instruct-v0.2.model")
    sp = sentencepiece.SentencePieceProcessor(path)
    run("mistral --plain | sentencepiece", [path, "--plain"], sp.encode, lines)
    for legacy in (True, False):
        t = LlamaTokenizer(path, legacy=legacy)
        t.add_special_tokens(task_tokens())
        run(f"mistral + task tokens | LlamaTokenizer(legacy={legacy})", [path],
            lambda s: t.encode(s, add_special_tokens=False), lines)


def golden(folder, data):
    from tokenizers import AddedToken, normalizers
    from transformers import BertTokenizer, LlamaTokenizer
    rng = random.Random(7)
    few = ["", " ", "\n", "'", "\u0301", "x" * 101, "'s" * 20, " " * 30 + "a", "\n \n" * 5, "1234567890" * 3]
    few += ["".join(rng.choice(WORDS) + rng.choice(SPACES) for _ in range(rng.randint(1, 7))) for _ in range(250)]
    with_task, few = few, without(few, TASK)

    def write(name, encode, some=few):
        with open(os.path.join(folder, name + ".ids.json"), "w") as f:
            f.write("[\n" + ",\n".join(json.dumps([s, encode(s)], separators=(",", ":")) for s in some) + "\n]\n")

    for name, regex in (("gpt2", None), ("qwen2", QWEN), ("cl100k", CL100K_JSON)):
        t = train_json(os.path.join(folder, name + ".json"), regex, few * 3, 900)
        if name == "qwen2":
            t.normalizer = normalizers.NFC()
            t.add_special_tokens([AddedToken(m, normalized=False) for m in ("<|im_start|>", "<|im_end|>")])
            t.add_tokens([AddedToken(**a) for a in ADDED])
        t.save(os.path.join(folder, name + ".json"), pretty=False)
        write(name, lambda s: t.encode(s).ids, few + (without(added_lines(120), TASK) if name == "qwen2" else []))
    bert = BertTokenizer(data + "/bert-base-uncased-vocab.txt")
    mistral = LlamaTokenizer(data + "/mistral-7b-instruct-v0.2.model", legacy=True)
    bert.add_special_tokens({"bos_token": "[DEC]"})
    mistral.add_special_tokens(task_tokens())
    write("bert", lambda s: bert.encode(s, add_special_tokens=False))
    write("mistral", lambda s: mistral.encode(s, add_special_tokens=False), with_task)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--tpo_dist")
    p.add_argument("--data", default=os.path.join(os.path.dirname(__file__), "../../../shared/data/tokenizers"))
    p.add_argument("--lines", type=int, default=9000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--only", default="qwen,small_bpe,cl100k,wordpiece,llama")
    p.add_argument("--golden")
    args = p.parse_args()
    lines = lines_of(args.lines, args.seed)
    if args.golden:
        return golden(args.golden, args.data)

    def run(name, flags, theirs, some):
        compare(name, Ours(args.tpo_dist, *flags), theirs, some)

    with tempfile.TemporaryDirectory() as work:
        for part in args.only.split(","):
            some = lines if part == "llama" else without(lines, TASK)  # only there, and in added.json, they are tokens
            extra = [args.data] if part in ("cl100k", "wordpiece", "llama") else []
            globals()[part](run, work, some, *extra)


if __name__ == "__main__":
    main()
