#!/usr/bin/env python3
"""Writes mlp_*.golden: the connector of LLaVA-OneVision after the description in arXiv:2408.03326, in float64: slots and
every gradient for clips, whole pictures and pictures in tiles. And tiles.golden: resolutions and slots of 400 sizes.

With --peer CHECKOUT, a checkout of LLaVA-VL/LLaVA-NeXT, its functions are compared with those below, over all sizes.
Made with torch 2.15.0, compared with LLaVA-NeXT df17966. Run by hand:
  python3 mlp_golden.py [--peer CHECKOUT]
"""
import argparse
import ast
import math
import pathlib
import re
import sys
import textwrap
import types

import numpy as np
import torch
import torch.nn.functional as F
from make_golden import given, noise, weight, write, write_case

# The table kMlp of mlp_connector_test.cpp: side of the token grid, frames, sizes of tiled pictures.
VISION, WIDTH = 5, 7
CASES = {
    "mlp_clip": dict(side=5, media=2, frames=3, pictures=[]),
    "mlp_picture": dict(side=3, media=2, frames=1, pictures=[]),
    "mlp_tiles": dict(side=3, media=0, frames=1, pictures=[(30, 20), (7, 64), (12, 12)], max_side=3, max_tiles=9),
    "mlp_shrunk": dict(side=3, media=0, frames=1, pictures=[(90, 61), (20, 20), (400, 90)], max_side=4, max_tiles=3),
}
TILE = 12  # pixels


def best(size, tile, max_side):
    """(columns, rows) of the resolution that shows most pixels, then has least black."""
    def quality(grid):
        w, h = grid[0] * tile, grid[1] * tile
        scale = min(w / size[0], h / size[1])
        shown = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        return shown, shown - w * h
    grids = [(c, r) for c in range(1, max_side + 1) for r in range(1, max_side + 1)]
    return max(grids, key=quality)  # the first of equal ones


def kept(size, rows, columns):
    """Slices of a grid of tokens that are not black."""
    if size[0] / size[1] > columns / rows:
        pad = (rows - int(size[1] * (columns / size[0]))) // 2
        return slice(pad, rows - pad), slice(0, columns)
    pad = (columns - int(size[0] * (rows / size[1]))) // 2
    return slice(0, rows), slice(pad, columns - pad)


def shrunk(h, w, side, max_tiles):
    times = math.sqrt(h * w / (max_tiles * side**2))
    return (int(h // times), int(w // times)) if times > 1.1 else (h, w)


def picture_slots(views, size, grid, newline, side, max_tiles):
    """views (1 + tiles, side^2, C) -> (slots, C)."""
    columns, rows = grid
    image = views[1:].reshape(rows, columns, side, side, -1).permute(0, 2, 1, 3, 4)
    image = image.reshape(rows * side, columns * side, -1)[kept(size, rows * side, columns * side)]
    h, w = shrunk(*image.shape[:2], side, max_tiles)
    if (h, w) != tuple(image.shape[:2]):
        image = F.interpolate(image.permute(2, 0, 1)[None], [h, w], mode="bilinear")[0].permute(1, 2, 0)
    lines = torch.cat([image, newline.expand(h, 1, -1)], 1)
    return torch.cat([views[0], lines.flatten(0, 1)])


def clip_slots(frames, newline, side):
    """frames (T, side^2, C) -> (slots, C)."""
    x = frames.reshape(-1, side, side, frames.shape[-1]).permute(0, 3, 1, 2)
    x = F.interpolate(x, [(side + 1) // 2] * 2, mode="bilinear").permute(0, 2, 3, 1)
    return torch.cat([x.flatten(0, 2), newline[None]])


def case(side, media, frames, pictures, dtype, rounded, max_side=0, max_tiles=0):
    grids = [best(p, TILE, max_side) for p in pictures]
    views = [1 + c * r for c, r in grids]
    rows = (sum(views) if pictures else media * frames) * side * side
    x = given("vision", (rows, VISION), rounded).to(dtype).requires_grad_()
    shapes = {"fc1.weight": (WIDTH, VISION), "fc1.bias": (WIDTH,), "fc2.weight": (WIDTH, WIDTH), "fc2.bias": (WIDTH,),
              "newline": (WIDTH,)}
    p = {n: weight("connector." + n, s, rounded).to(dtype).requires_grad_() for n, s in shapes.items()}
    y = F.linear(F.gelu(F.linear(x, p["fc1.weight"], p["fc1.bias"])), p["fc2.weight"], p["fc2.bias"])
    y = y.reshape(-1, side * side, WIDTH)
    if pictures:
        out = [picture_slots(v, s, g, p["newline"], side, max_tiles)
               for v, s, g in zip(y.split(views), pictures, grids)]
    elif frames > 1:
        out = [clip_slots(v, p["newline"], side) for v in y.split(frames)]
    else:
        out = [torch.cat([v, p["newline"][None]]) for v in y]
    slots = torch.cat(out)
    slots.backward(given("dy", tuple(slots.shape), rounded).to(dtype))
    return {"output": slots, "vision_grad": x.grad} | {"grad.connector." + n: t.grad for n, t in p.items()}


def sizes():
    """400 sizes from 1 x 1 to some thousand pixels."""
    u = noise("sizes", (400, 2)).astype(np.float64)
    return np.floor(2.0 ** (6 + 6 * u)).astype(int)


def table():
    """Of SigLIP's 384 pixels and 27 x 27 tokens, 1x1 to 6x6, 9 tiles: size -> columns, rows, slots."""
    rows = []
    for w, h in sizes().tolist():
        c, r = best((w, h), 384, 6)
        rows_kept, columns_kept = kept((w, h), 27 * r, 27 * c)
        a, b = rows_kept.stop - rows_kept.start, columns_kept.stop - columns_kept.start
        a, b = shrunk(a, b, 27, 9)
        rows.append([w, h, c, r, 729 + a * (b + 1)])
    write("tiles.golden", "arXiv:2408.03326: width, height, columns, rows, slots", {"tiles": np.array(rows, "f4")})


def functions_of(text, names):
    """Of a module, without what it imports."""
    tree = ast.parse(text)
    body = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in names]
    scope = {"math": math, "re": re, "ast": ast}
    exec(compile(ast.Module(body, []), "peer", "exec"), scope)
    return [scope[n] for n in names]


def compare(peer):
    grid_shape, select = functions_of((peer / "llava/mm_utils.py").read_text(),
                                      ["get_anyres_image_grid_shape", "select_best_resolution"])
    grid_shape.__globals__["select_best_resolution"] = select
    arch = (peer / "llava/model/llava_arch.py").read_text()
    unpad, = functions_of(arch, ["unpad_image"])
    # The lines of a method: the tokens of tiles -> slots.
    lines = arch.split('"anyres_max" in image_aspect_ratio and matched_anyres_max_num_patches:\n')[1]
    assemble = textwrap.dedent(lines.split('                        elif "unpad"')[0])
    newline = torch.from_numpy(noise("newline", (2,)))
    peers = types.SimpleNamespace(model=types.SimpleNamespace(image_newline=newline))
    for w, h in sizes().tolist():
        c, r = best((w, h), 384, 6)
        assert (c, r) == grid_shape((w, h), "(1x1),(2x2),(6x6)", 384), (w, h)
        tokens = torch.arange(27 * r * 27 * c).reshape(1, 27 * r, 27 * c)
        assert torch.equal(unpad(tokens, (w, h))[0], tokens[0][kept((w, h), 27 * r, 27 * c)]), (w, h)
        views = torch.from_numpy(noise("views", (1 + c * r, 729, 2)))
        scope = {"self": peers, "image_feature": views[1:].view(r, c, 27, 27, 2), "max_num_patches": 9,
                 "image_sizes": [(w, h)], "image_idx": 0, "unpad_image": unpad, "torch": torch, "nn": torch.nn,
                 "math": math}
        exec(assemble, scope)
        slots = picture_slots(views, (w, h), (c, r), newline, 27, 9)
        assert torch.equal(slots, torch.cat([views[0], scope["image_feature"]])), (w, h)
    print(len(sizes()), "sizes: resolution, black edges and slots as in", peer)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=pathlib.Path)
    peer = parser.parse_args().peer
    if peer:
        compare(peer)
    for name, c in CASES.items():
        write_case(name, f"arXiv:2408.03326, torch {torch.__version__}",
                   lambda dtype, rounded: case(dtype=dtype, rounded=rounded, **c))
    table()


if __name__ == "__main__":
    sys.exit(main())
