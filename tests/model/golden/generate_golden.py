#!/usr/bin/env python3
"""Writes generate.golden: what transformers generates with small random models, 50 prompts a case. Run by hand.

Made with transformers 4.46.3, torch 2.8.0:
  python3 generate_golden.py

Names, weights and the file format are those of make_golden.py, with these changes on both sides: rows of lm_head of
the seven added ids are 0, so that they are never chosen, and that of the end token, id 2, is 1.5 times as long, so that
answers end. Prompt p of a case has 1 + 3 p mod 14 ids from noise("prompt p of CASE"). Prompts are given as embeddings, as the
released code does, unless the case says `ids`: the rules then see them.
The file holds for each case "<case>.lengths" (50) and "<case>.tokens", all answers one after the other, the end token
included; beams have "<case>.scores" too. An answer counts only if it is the same in float64, in float32, and with
weights moved by up to 1e-6 of themselves; another prompt takes its place otherwise, and "<case>.prompts" says which.
"""
import sys

import numpy as np
import torch
import transformers
from language_golden import make_model
from make_golden import noise, write

PROMPTS, NEW = 50, 20
SIZES = dict(rows=97, width=32, heads=4, kv_heads=2, head_dim=8, mlp=48, theta=1e4)
MODELS = {"mistral": SIZES | dict(eps=1e-5), "qwen2": SIZES | dict(eps=1e-6)}

# The table kCases of generate_golden_test.cpp.
CASES = {
    "greedy": ("mistral", dict()),
    "greedy_rules": ("qwen2", dict(repetition_penalty=1.3, no_repeat_ngram_size=2, min_new_tokens=5)),
    "greedy_ids": ("mistral", dict(ids=True, repetition_penalty=1.7, no_repeat_ngram_size=3)),
    "beam": ("qwen2", dict(num_beams=4)),
    "beam_early": ("mistral", dict(num_beams=3, length_penalty=0.4, early_stopping=True)),
    "beam_never": ("qwen2", dict(num_beams=5, length_penalty=0.8, early_stopping="never", repetition_penalty=1.2,
                                 no_repeat_ngram_size=2, min_new_tokens=3)),
    "beam_ids": ("mistral", dict(ids=True, num_beams=2, length_penalty=-1.0, repetition_penalty=0.8)),
}


def load(arch, dtype, moved):
    model = make_model(arch, MODELS[arch], dtype).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.lm_head.weight[90:] = 0
        model.lm_head.weight[2] *= 1.5
        for p in model.parameters():
            p.mul_(1 + moved * (2 * torch.rand(p.shape, generator=generator, dtype=p.dtype) - 1))
    return model


def answer(model, prompt, ids=False, **options):
    inputs = {"input_ids": prompt} if ids else {"inputs_embeds": model.get_input_embeddings()(prompt)}
    out = model.generate(**inputs, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW, do_sample=False,
                         eos_token_id=2, pad_token_id=0, return_dict_in_generate=True, output_scores=True, **options)
    tokens = out.sequences[0][prompt.shape[1] if ids else 0:].tolist()
    if 2 in tokens:
        tokens = tokens[:tokens.index(2) + 1]
    return tokens, out.sequences_scores[0].item() if "num_beams" in options else 0.0


def main():
    torch.set_num_threads(1)
    arrays = {}
    for case, (arch, options) in CASES.items():
        models = [load(arch, torch.float64, 0), load(arch, torch.float32, 0), load(arch, torch.float64, 1e-6)]
        kept, lengths, tokens, scores = [], [], [], []
        p = -1
        while len(kept) < PROMPTS:
            p += 1
            name = f"prompt {p} of {case}"
            prompt = ((noise(name, (1 + 3 * p % 14,)) + 1) * 45).astype(np.int64)
            answers = [answer(m, torch.from_numpy(prompt)[None], **options) for m in models]
            if answers[1][0] != answers[0][0] or answers[2][0] != answers[0][0]:
                continue
            assert max(answers[0][0]) < 90
            kept.append(p)
            lengths.append(len(answers[0][0]))
            tokens += answers[0][0]
            scores.append(answers[0][1])
        print(case, "left out", p + 1 - PROMPTS, "ended early", sum(n < NEW for n in lengths), "distinct",
              len(set(tokens)))
        for key, v in dict(prompts=kept, lengths=lengths, tokens=tokens).items():
            arrays[f"{case}.{key}"] = np.array(v, dtype=np.float32)
        if "num_beams" in options:
            arrays[f"{case}.scores"] = np.array(scores, dtype=np.float32)
    write("generate.golden", f"transformers {transformers.__version__}, torch {torch.__version__}", arrays)


if __name__ == "__main__":
    sys.exit(main())
