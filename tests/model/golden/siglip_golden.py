#!/usr/bin/env python3
"""Writes siglip*.golden: SiglipVisionModel of transformers at small odd widths, in float64: the states before its last
layer, which the public towers of LLaVA read, and every gradient. Pictures have pixels beyond the last whole patch.

Made with transformers 4.46.3, torch 2.15.0. Run by hand:
  python3 siglip_golden.py

Names, weights, inputs and the file format are those of make_golden.py.
"""
import sys

import torch
import transformers
from make_golden import given, weight, write_case
from public_names import siglip as ours

# The table kSiglip of golden_test.cpp.
CASES = {
    "siglip_picture": dict(size=17, patch=4, width=18, heads=3, mlp=23, depth=2, media=3, frames=1),
    "siglip_clip": dict(size=11, patch=3, width=15, heads=1, mlp=31, depth=1, media=2, frames=4),
    "siglip_16": dict(size=14, patch=7, width=8, heads=4, mlp=9, depth=3, media=1, frames=16),
}


def case(size, patch, width, heads, mlp, depth, media, frames, dtype, rounded):
    config = transformers.SiglipVisionConfig(
        hidden_size=width, intermediate_size=mlp, num_hidden_layers=depth + 1, num_attention_heads=heads,
        image_size=size, patch_size=patch, layer_norm_eps=1e-6, hidden_act="gelu_pytorch_tanh")
    config._attn_implementation = "sdpa"
    model = transformers.SiglipVisionModel(config).to(dtype)

    def to_rows(w):  # (C, 3, p, p) -> (C, p*p*3)
        return w.permute(0, 2, 3, 1).reshape(w.shape[0], -1)

    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 4:
                rows = weight(ours(name), tuple(to_rows(p).shape), rounded)
                p.copy_(rows.reshape(width, patch, patch, 3).permute(0, 3, 1, 2))
            else:
                p.copy_(weight(ours(name), tuple(p.shape), rounded))
    images = given("images", (media * frames, size, size, 3), rounded).to(dtype)
    y = model(images.permute(0, 3, 1, 2), output_hidden_states=True).hidden_states[-2].reshape(-1, width)
    y.backward(given("dy", tuple(y.shape), rounded).to(dtype))
    arrays = {"output": y}
    return arrays | {"grad." + ours(n): to_rows(p.grad) if p.dim() == 4 else p.grad
                     for n, p in model.named_parameters() if p.grad is not None}


def main():
    torch.manual_seed(0)
    for name, c in CASES.items():
        write_case(name, f"transformers {transformers.__version__}, torch {torch.__version__}",
                   lambda dtype, rounded: case(dtype=dtype, rounded=rounded, **c))


if __name__ == "__main__":
    sys.exit(main())
