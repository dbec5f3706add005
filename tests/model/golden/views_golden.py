#!/usr/bin/env python3
"""Writes views.golden: the views of pictures of any size as 8-bit pixels of Pillow (bicubic): the base picture and the
tiles of the picture between black edges, after the description in arXiv:2408.03326. A line a picture: width, height,
number of values, values. The function stripes() of mlp_connector_test.cpp makes the same pictures: steps between dark
and bright, where cubic weights overshoot. Made with Pillow 11.3.0; Pillow 13.0.0 takes the cheaper pass first.
Run by hand: python3 views_golden.py
"""
import math
import pathlib

import numpy as np
from PIL import Image

TILE, MAX_SIDE = 12, 3
SIZES = [(30, 17), (5, 40), (1, 9), (24, 24), (100, 37)]


def picture(w, h):
    y, x, c = np.meshgrid(np.arange(h), np.arange(w), np.arange(3), indexing="ij")
    return Image.fromarray(np.where((x * 5 + y * 3 + c * 7) % 11 < 5, 3 * c, 255 - 2 * c).astype(np.uint8))


def grid(w, h):
    """(columns, rows) that show most pixels, then have least black."""
    def quality(g):
        s = min(g[0] * TILE / w, g[1] * TILE / h)
        shown = min(int(w * s) * int(h * s), w * h)
        return shown, shown - g[0] * g[1] * TILE**2
    return max(((c, r) for c in range(1, MAX_SIDE + 1) for r in range(1, MAX_SIDE + 1)), key=quality)


def views(image):
    columns, rows = grid(*image.size)
    width, height = columns * TILE, rows * TILE
    across, down = width / image.size[0], height / image.size[1]
    if across < down:
        size = width, min(math.ceil(image.size[1] * across), height)
    else:
        size = min(math.ceil(image.size[0] * down), width), height
    canvas = Image.new("RGB", (width, height))
    canvas.paste(image.resize(size, Image.BICUBIC), ((width - size[0]) // 2, (height - size[1]) // 2))
    tiles = [canvas.crop((c * TILE, r * TILE, (c + 1) * TILE, (r + 1) * TILE)) for r in range(rows) for c in range(columns)]
    return np.stack([np.asarray(v) for v in [image.resize((TILE, TILE), Image.BICUBIC)] + tiles])


with open(pathlib.Path(__file__).parent / "views.golden", "w") as out:
    for w, h in SIZES:
        v = views(picture(w, h))
        print(w, h, v.size, *v.flatten(), file=out)
