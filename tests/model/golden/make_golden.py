#!/usr/bin/env python3
"""Writes the golden files of tests/model from public PyTorch implementations. Run by hand, never by the tests.

Oracles, small widths, float64 arithmetic, dropout and drop-path 0:
  umt_*.golden     PretrainVisionTransformerEncoder of OpenGVLab/Ask-Anything, video_chat2/models/blip2/vit.py, and the
                   LayerNorm(eps 1e-12) that the public model puts after it: output and every gradient

Made with timm 0.4.12, torch 2.15.0, Ask-Anything 4dd8210b0303 (the language model: language_golden.py):
  python3 make_golden.py --vit CHECKOUT/video_chat2/models/blip2/vit.py

Beside each case, and likewise by the other scripts, case_bf16.golden: how far the same oracle in bfloat16 is from
itself in float64, weights and inputs rounded to bfloat16 in both and matrices at half the gain: of each array the
largest difference over the largest element.

Weights and inputs are not stored: both sides compute element i of the array `name` from a hash (value() below). A file
is text up to the line "data": "tpo-golden 1", comment lines with '#', one line "name extents..." per array; then the
arrays one after the other as little-endian float32. Names are those of tpo_dist.
"""
import argparse
import importlib.util
import pathlib
import sys

import numpy as np
import torch
from public_names import umt

DOUBLE, BF16 = torch.float64, torch.bfloat16
HERE = pathlib.Path(__file__).parent
MASK = (1 << 64) - 1


def mix64(z):
    z = (z + np.uint64(0x9E3779B97F4A7C15))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def noise(name, shape):
    """Uniform in [-1, 1), a function of the name and the element's index."""
    h = 0xCBF29CE484222325
    for c in name.encode():
        h = ((h ^ c) * 0x100000001B3) & MASK
    i = np.arange(int(np.prod(shape)), dtype=np.uint64)
    with np.errstate(over="ignore"):
        bits = mix64(np.uint64(h) + i) >> np.uint64(40)
    return (bits.astype(np.float32) * np.float32(2.0**-23) - np.float32(1)).reshape(shape)


def value(name, shape, gain=1):
    """The weight `name`: matrices have this gain, norm gains lie around 1, biases around 0."""
    u = noise(name, shape)
    if len(shape) == 2:
        return u * np.float32(gain) * np.float32(np.sqrt(np.float32(3.0) / np.float32(shape[1])))
    return np.float32(1) + np.float32(0.3) * u if name.endswith("weight") else np.float32(0.3) * u


def weight(name, shape, rounded):
    """As a tensor; rounded: to bfloat16, at half the gain."""
    w = torch.from_numpy(value(name, shape, 0.5 if rounded else 1))
    return w.to(BF16).double() if rounded else w.double()


def given(name, shape, rounded):
    """An input."""
    x = torch.from_numpy(noise(name, shape))
    return x.to(BF16).double() if rounded else x.double()


def write_case(name, comment, run):
    """run(dtype, rounded) -> arrays."""
    write(name + ".golden", comment, run(DOUBLE, False))
    exact, ours = ({k: v.detach().double() for k, v in run(t, True).items()} for t in (DOUBLE, BF16))
    errors = {k: (ours[k] - v).abs().max() / v.abs().max().clamp(min=1e-300) for k, v in exact.items()}
    write(name + "_bf16.golden", comment + ", bfloat16 against float64", {k: e.reshape(1) for k, e in errors.items()})


def write(file, comment, arrays):
    with open(HERE / file, "wb") as out:
        lines = ["tpo-golden 1", "# " + comment]
        arrays = {k: np.ascontiguousarray(v.detach().numpy() if torch.is_tensor(v) else v) for k, v in arrays.items()}
        lines += [" ".join([k] + [str(d) for d in v.shape]) for k, v in arrays.items()] + ["data", ""]
        out.write("\n".join(lines).encode())
        for v in arrays.values():
            out.write(v.astype("<f4").tobytes())
    print(file, (HERE / file).stat().st_size, "bytes")


def vision(path, media, frames, table_frames, tubelet, dtype, rounded):
    spec = importlib.util.spec_from_file_location("vit", path)
    vit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(vit)
    size, patch, width = 16, 4, 16
    encoder = vit.PretrainVisionTransformerEncoder(
        img_size=size, patch_size=patch, embed_dim=width, depth=3, num_heads=2, qkv_bias=True, init_values=0.0,
        norm_layer=lambda d: torch.nn.LayerNorm(d, eps=1e-6), num_frames=frames, tubelet_size=tubelet, with_ln=False,
        ckpt_num_frame=table_frames, return_index=-2)
    # The class uses this table when a picture has 224 pixels; it is the same function of the module here.
    patches, steps = encoder.patch_embed.num_patches, frames // tubelet
    encoder.pos_embed = vit.get_sinusoid_encoding_table(patches, width, table_frames, steps)
    encoder.img_pos_embed = vit.get_sinusoid_encoding_table(patches // steps, width)
    norm = torch.nn.LayerNorm(width, eps=1e-12)
    model = torch.nn.ModuleDict({"vision": encoder, "norm": norm}).to(dtype)

    def to_rows(w):  # (C, 3, t, p, p) -> (C, t*p*p*3)
        return w.permute(0, 2, 3, 4, 1).reshape(w.shape[0], -1)

    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 5:
                rows = weight(umt(name), tuple(to_rows(p).shape), rounded)
                p.copy_(rows.reshape(width, tubelet, patch, patch, 3).permute(0, 4, 1, 2, 3))
            else:
                p.copy_(weight(umt(name), tuple(p.shape), rounded))
    images = given("images", (media, frames, size, size, 3), rounded).to(dtype)
    y = norm(encoder(images.permute(0, 4, 1, 2, 3), use_image=frames == 1)).reshape(-1, width)
    y.backward(given("dy", tuple(y.shape), rounded).to(dtype))
    arrays = {"output": y}
    return arrays | {"grad." + umt(n): to_rows(p.grad) if p.dim() == 5 else p.grad
                     for n, p in model.named_parameters()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vit", required=True, help="vit.py of a checkout of OpenGVLab/Ask-Anything")
    vit = parser.parse_args().vit
    torch.manual_seed(0)
    comment = f"OpenGVLab/Ask-Anything video_chat2/models/blip2/vit.py, torch {torch.__version__}"
    for name, c in {"umt_image": dict(media=3, frames=1, table_frames=4, tubelet=1),
                    "umt_clip": dict(media=2, frames=6, table_frames=4, tubelet=1),
                    "umt_tubelet": dict(media=1, frames=4, table_frames=2, tubelet=2)}.items():
        write_case(name, comment, lambda dtype, rounded: vision(vit, dtype=dtype, rounded=rounded, **c))


if __name__ == "__main__":
    sys.exit(main())
