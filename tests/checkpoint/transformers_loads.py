#!/usr/bin/env python3
"""Weights through tpo_dist and back into transformers. Run by hand, where it is; never by the tests.

usage: transformers_loads.py TPO_DIST

Small random models of transformers are saved, imported, exported without a base and loaded again: no key is missing or
unexpected (but those listed), and the outputs are the same bits.
"""
import os
import subprocess
import sys
import tempfile

import torch
import transformers

SOURCE = os.path.dirname(os.path.abspath(__file__)) + "/../.."
LANGUAGE = dict(hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                tie_word_embeddings=False)


def cases():
    t = transformers
    ids, text = dict(input_ids=torch.arange(12)[None] + 5), dict(input_ids=torch.arange(9)[None] + 3)
    yield "mistral", t.MistralForCausalLM, t.MistralConfig(vocab_size=400, sliding_window=None, **LANGUAGE), ids, set()
    yield "qwen2", t.Qwen2ForCausalLM, t.Qwen2Config(vocab_size=896, **LANGUAGE), ids, set()
    # The tower here ends one layer early, and has no pooling head.
    vision = t.SiglipVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                                  image_size=32, patch_size=8)
    yield ("siglip", t.SiglipVisionModel, vision, dict(pixel_values=torch.randn(2, 3, 32, 32), output_hidden_states=True),
           {"vision_model.encoder.layers.1.", "vision_model.head."})
    bert = t.BertConfig(vocab_size=30, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
                        max_position_embeddings=16)
    yield "bert", t.BertModel, bert, text, {"pooler.", "bert.pooler."}


def output(model, inputs):
    with torch.no_grad():
        out = model.eval()(**inputs)
    if "logits" in out:
        return out.logits
    return out.hidden_states[1] if out.hidden_states else out.last_hidden_state


class Run:
    def __init__(self, exe, folder):
        self.exe, self.folder = exe, folder
        self.tpo("data", "synth", "--out", folder + "/world", "--split", "train=8")
        tokenizers = {"official_nano": folder + "/world/tokenizer.model",
                      "official_nano_llava": SOURCE + "/tests/data/fixtures/tokenizers/qwen2.json"}
        for name, tokenizer in tokenizers.items():
            if tokenizer.endswith(".json"):
                os.makedirs(folder + "/qwen2")
                os.symlink(os.path.abspath(tokenizer), folder + "/qwen2/tokenizer.json")
                tokenizer = folder + "/qwen2"
            with open(f"{SOURCE}/tests/checkpoint/{name}.textproto") as f, open(f"{folder}/{name}", "w") as out:
                out.write(f'{f.read()} data {{ tokenizer: "{tokenizer}" sets {{ path: "{folder}/world/region-train" }} }}')

    def tpo(self, *words):
        done = subprocess.run([self.exe, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, (words, done.stdout)
        return done.stdout

    def through(self, layout, public):
        """Imports a public folder and exports it again; the new folder."""
        config = "official_nano_llava" if layout in ("qwen2", "siglip") else "official_nano"
        made, out = f"{self.folder}/{layout}_in", f"{self.folder}/{layout}_out"
        self.tpo("ckpt", "import", "--from", public, "--layout", layout, "--config", f"{self.folder}/{config}",
                 "--allow-missing", "*", "--out", made)
        self.tpo("ckpt", "export", "--from", made, "--layout", layout, "--out", out)
        return out

    def whole(self, layout, kind, config, inputs, absent):
        model = kind(config)
        public = f"{self.folder}/{layout}"
        model.save_pretrained(public)
        if layout == "bert":  # token types are nobody's here
            with torch.no_grad():
                model.embeddings.token_type_embeddings.weight.zero_()
        out = self.through(layout, public)
        config.save_pretrained(out)
        back, info = kind.from_pretrained(out, output_loading_info=True)
        left = [k for k in info["missing_keys"] if not k.startswith(tuple(absent) or ("-",))]
        assert not left and not info["unexpected_keys"] and not info["mismatched_keys"], info
        assert torch.equal(output(model, inputs), output(back, inputs)), layout
        print(f"{layout}: loads whole, same bits")


def main():
    torch.manual_seed(0)
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        run = Run(os.path.abspath(sys.argv[1]), folder)
        for layout, kind, config, inputs, absent in cases():
            run.whole(layout, kind, config, inputs, absent)


if __name__ == "__main__":
    sys.exit(main())
