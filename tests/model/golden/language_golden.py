#!/usr/bin/env python3
"""Writes the golden files of the language model from transformers and peft. Run by hand, never by the tests.

Small odd widths, float64 arithmetic, dropout 0. All sequences of a case go through the oracle as one batch padded on
the right, with an attention mask; tpo_dist runs them packed. Rows have labels of their own, so that a sequence of one
row counts too.
  mistral*.golden, qwen2*.golden   MistralForCausalLM and Qwen2ForCausalLM: logits, loss, every gradient
  *lora*.golden                    the same wrapped by peft (all eight targets): logits, loss, the gradients of the
                                   adapters, and the logits with the adapters merged

Made with transformers 4.46.3, peft 0.13.2, torch 2.8.0:
  python3 language_golden.py

Names, weights, inputs and the file format are those of make_golden.py.
"""
import sys

import numpy as np
import peft
import torch
import torch.nn.functional as F
import transformers
from make_golden import noise, weight, write_case
from public_names import language as ours

VERSIONS = f"transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__}"

# The table kCases of language_golden_test.cpp. rows: of both vocabulary tables, all of them.
CASES = {
    "mistral": dict(rows=36, width=32, heads=4, kv_heads=2, head_dim=8, mlp=48, theta=1e4, eps=1e-5, lengths=[13, 8]),
    "mistral_odd": dict(rows=41, width=27, heads=3, kv_heads=1, head_dim=10, mlp=35, theta=1e6, eps=1e-5,
                        lengths=[1, 16, 5]),
    "qwen2": dict(rows=43, width=30, heads=5, kv_heads=1, head_dim=6, mlp=37, theta=1e6, eps=1e-6, lengths=[9, 1, 4]),
    "mistral_lora": dict(rows=36, width=32, heads=4, kv_heads=2, head_dim=8, mlp=48, theta=1e4, eps=1e-5, rank=4,
                         alpha=8, lengths=[13, 8]),
    "qwen2_lora": dict(rows=43, width=28, heads=14, kv_heads=2, head_dim=2, mlp=19, theta=1e6, eps=1e-6, rank=3,
                       alpha=7, lengths=[17]),
    "qwen2_one_row": dict(rows=36, width=12, heads=2, kv_heads=2, head_dim=6, mlp=5, theta=1e4, eps=1e-6, rank=1,
                          alpha=1, lengths=[1]),
}


def make_model(arch, c, dtype=torch.float64, rounded=False):
    common = dict(vocab_size=c["rows"], hidden_size=c["width"], intermediate_size=c["mlp"], num_hidden_layers=2,
                  num_attention_heads=c["heads"], num_key_value_heads=c["kv_heads"], rms_norm_eps=c["eps"],
                  rope_theta=c["theta"], max_position_embeddings=256, tie_word_embeddings=False,
                  attn_implementation="eager")
    if arch == "mistral":
        config = transformers.MistralConfig(head_dim=c["head_dim"], sliding_window=None, **common)
        model = transformers.MistralForCausalLM(config)
    else:
        assert c["head_dim"] * c["heads"] == c["width"]
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**common))
    if "rank" in c:
        model = peft.get_peft_model(model, peft.LoraConfig(
            r=c["rank"], lora_alpha=c["alpha"], lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]))
    model = model.to(dtype)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(weight(ours(name), tuple(p.shape), rounded))
    return model


def forward_and_gradients(name, c, dtype, rounded):
    model = make_model(name.split("_")[0], c, dtype, rounded)
    n = sum(c["lengths"])
    ids = torch.from_numpy(((noise("tokens", (n,)) + 1) * (c["rows"] / 2)).astype(np.int64))
    labels = torch.from_numpy(((noise("targets", (n,)) + 1) * (c["rows"] / 2)).astype(np.int64))
    labels[labels % 5 == 3] = -100
    padded = torch.zeros(len(c["lengths"]), max(c["lengths"]), dtype=torch.int64)
    mask = torch.zeros_like(padded)
    begin = 0
    for row, length in enumerate(c["lengths"]):
        padded[row, :length] = ids[begin:begin + length]
        mask[row, :length] = 1
        begin += length

    def logits_of(m):
        logits = m(input_ids=padded, attention_mask=mask).logits[mask.bool()]
        return logits.float() if dtype == torch.bfloat16 else logits  # the loss of the public code

    logits = logits_of(model)
    loss = F.cross_entropy(logits, labels, reduction="sum") / n
    loss.backward()
    arrays = {"loss": loss.reshape(1), "logits": logits}
    arrays |= {"grad." + ours(k): p.grad for k, p in model.named_parameters() if p.grad is not None}
    if "rank" in c:
        arrays["merged"] = logits_of(model.merge_and_unload())
    return arrays


def main():
    torch.manual_seed(0)
    for name, c in CASES.items():
        write_case(name, VERSIONS, lambda dtype, rounded: forward_and_gradients(name, c, dtype, rounded))


if __name__ == "__main__":
    sys.exit(main())
