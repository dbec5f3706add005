#!/usr/bin/env python3
"""The parts of bench/part_models.h in PyTorch: forward and backward, no optimizer, fp32, no dropout.
usage: parts.py --part NAME [--batch N] [--threads N] [--impl eager|compile|autotune] [--zero none|fill] [--gqa]
Serves as part_bench does: [] when warm, then for every line N the milliseconds of N steps, at the end a JSON object.
--zero: gradients dropped before a step, or zeroed in place; --gqa: the attention's own sharing of keys."""
import argparse
import json
import os
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

ROWS, FRAMES, SIDE, PATCH, VISUAL, BOX_IN, BOXES = 160, 4, 64, 8, slice(1, 17), 20, 150
VISION, HEADS, BLOCKS, HIDDEN = 128, 4, 3, 512
WIDTH, LAYERS, Q_HEADS, KV_HEADS, HEAD, SWIGLU, VOCAB, RANK, ALPHA = 256, 4, 8, 2, 32, 704, 1031, 8, 16
TOKENS = FRAMES * (SIDE // PATCH) ** 2

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("--part", required=True)
p.add_argument("--batch", type=int, default=1)
p.add_argument("--threads", type=int, default=1)
p.add_argument("--impl", choices=("eager", "compile", "autotune"), default="eager")
p.add_argument("--zero", choices=("none", "fill"), default="none")
p.add_argument("--gqa", action="store_true")
args = p.parse_args()
torch.set_num_threads(args.threads)
torch.manual_seed(0)


def heads(x, n):
    """(B, T, n D) -> (B, n, T, D)"""
    return x.unflatten(-1, (n, -1)).transpose(1, 2)


def attend(q, k, v, n):
    y = F.scaled_dot_product_attention(heads(q, n), heads(k, n), heads(v, n))
    return y.transpose(1, 2).flatten(2)


class VisionBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(VISION, eps=1e-6), nn.LayerNorm(VISION, eps=1e-6)
        self.qkv, self.proj = nn.Linear(VISION, 3 * VISION, bias=False), nn.Linear(VISION, VISION)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(VISION)), nn.Parameter(torch.zeros(VISION))
        self.fc1, self.fc2 = nn.Linear(VISION, HIDDEN), nn.Linear(HIDDEN, VISION)
        self.register_buffer("k_bias", torch.zeros(VISION))

    def forward(self, x):
        qkv = F.linear(self.norm1(x), self.qkv.weight, torch.cat((self.q_bias, self.k_bias, self.v_bias)))
        x = x + self.proj(attend(*qkv.chunk(3, dim=-1), HEADS))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Vision(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Linear(3 * PATCH * PATCH, VISION)
        self.blocks = nn.ModuleList(VisionBlock() for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(VISION, eps=1e-12)
        self.register_buffer("positions", torch.randn(TOKENS, VISION))

    def forward(self, images):  # (B, T, H, W, 3)
        x = images.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH)).transpose(3, 4)
        x = self.patch(x.reshape(images.shape[0], TOKENS, -1)) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class BertAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(VISION, VISION) for _ in range(4))

    def forward(self, x, source):
        return self.o(attend(self.q(x), self.k(source), self.v(source), HEADS))


class QFormerLayer(nn.Module):
    def __init__(self, cross):
        super().__init__()
        self.attn, self.attn_norm = BertAttention(), nn.LayerNorm(VISION, eps=1e-12)
        if cross:
            self.cross, self.cross_norm = BertAttention(), nn.LayerNorm(VISION, eps=1e-12)
        self.is_cross = cross
        self.fc1, self.fc2, self.norm = nn.Linear(VISION, HIDDEN), nn.Linear(HIDDEN, VISION), nn.LayerNorm(VISION, eps=1e-12)

    def forward(self, x, vision):
        x = self.attn_norm(x + self.attn(x, x))
        if self.is_cross:
            x = self.cross_norm(x + self.cross(x, vision))
        return self.norm(x + self.fc2(F.gelu(self.fc1(x))))


class Connector(nn.Module):
    def __init__(self):
        super().__init__()
        self.queries, self.extra_queries = nn.Parameter(0.02 * torch.randn(8, VISION)), nn.Parameter(torch.zeros(8, VISION))
        self.embed_norm = nn.LayerNorm(VISION, eps=1e-12)
        self.layers = nn.ModuleList(QFormerLayer(i % 2 == 0) for i in range(4))
        self.project_up = nn.Linear(VISION, WIDTH)

    def forward(self, vision):
        x = self.embed_norm(torch.cat((self.queries, self.extra_queries))).expand(vision.shape[0], -1, -1)
        for layer in self.layers:
            x = layer(x, vision)
        return self.project_up(x)


class Linear(nn.Module):
    """Without bias; with an adapter the weight is frozen."""

    def __init__(self, cols, rows, lora):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(rows, cols) / cols ** 0.5, requires_grad=not lora)
        self.lora = lora
        if lora:
            self.a, self.b = nn.Parameter(torch.randn(RANK, cols) / cols ** 0.5), nn.Parameter(torch.zeros(rows, RANK))

    def forward(self, x):
        y = F.linear(x, self.weight)
        if not self.lora:
            return y
        low = F.linear(x, self.a) * (ALPHA / RANK)
        return torch.addmm(y.flatten(0, 1), low.flatten(0, 1), self.b.t()).view_as(y)


class RmsNorm(nn.Module):
    def __init__(self, train):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(WIDTH), requires_grad=train)

    def forward(self, x):
        return F.rms_norm(x, (WIDTH,), self.gain, 1e-5)


def rotated(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class DecoderBlock(nn.Module):
    def __init__(self, lora):
        super().__init__()
        q, kv = Q_HEADS * HEAD, KV_HEADS * HEAD
        self.norm1, self.norm2 = RmsNorm(not lora), RmsNorm(not lora)
        self.q, self.k, self.v = Linear(WIDTH, q, lora), Linear(WIDTH, kv, lora), Linear(WIDTH, kv, lora)
        self.o = Linear(q, WIDTH, lora)
        self.gate, self.up, self.down = Linear(WIDTH, SWIGLU, lora), Linear(WIDTH, SWIGLU, lora), Linear(SWIGLU, WIDTH, lora)

    def forward(self, x, cos, sin):
        y = self.norm1(x)
        q, k = rotated(heads(self.q(y), Q_HEADS), cos, sin), rotated(heads(self.k(y), KV_HEADS), cos, sin)
        v = heads(self.v(y), KV_HEADS)
        if not args.gqa:
            k, v = (t.repeat_interleave(Q_HEADS // KV_HEADS, dim=1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=args.gqa)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Language(nn.Module):
    def __init__(self, lora):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.embed.weight.requires_grad_(not lora)
        self.blocks = nn.ModuleList(DecoderBlock(lora) for _ in range(LAYERS))
        self.norm, self.head = RmsNorm(not lora), Linear(WIDTH, VOCAB, lora)
        angles = torch.arange(ROWS).float()[:, None] * 1e6 ** (-torch.arange(0, HEAD, 2).float() / HEAD)
        angles = torch.cat((angles, angles), dim=1)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def states(self, x):
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.norm(x)

    def loss(self, states, targets):
        return F.cross_entropy(self.head(states).flatten(0, 1), targets.flatten())


class LoraLanguage(Language):
    def __init__(self):
        super().__init__(True)

    def forward(self, x, targets):
        return self.loss(self.states(x), targets)


class FullLanguage(Language):
    def __init__(self):
        super().__init__(False)

    def forward(self, ids, targets):
        return self.loss(self.states(self.embed(ids)), targets)


def mlp(*widths):
    return nn.Sequential(nn.Linear(*widths[:2]), nn.ReLU(), nn.Linear(*widths[1:]))


def region_loss(box, target):
    """2 times mean L1 and 0.2 times mean of 1 - GIoU; boxes with swapped corners count 2."""
    (ax, ay, bx, by), (cx, cy, dx, dy) = box.unbind(1), target.unbind(1)
    w, h = (torch.min(bx, dx) - torch.max(ax, cx)).clamp(min=0), (torch.min(by, dy) - torch.max(ay, cy)).clamp(min=0)
    union = (bx - ax) * (by - ay) + (dx - cx) * (dy - cy) - w * h
    hull = (torch.max(bx, dx) - torch.min(ax, cx)) * (torch.max(by, dy) - torch.min(ay, cy))
    loss = 1 - w * h / union + (hull - union) / hull
    valid = (bx >= ax) & (by >= ay)
    return 2 * F.l1_loss(box, target) + 0.2 * torch.where(valid, loss, 2.0).mean()


class Region(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.encoder = mlp(WIDTH, 128, 4), mlp(4, 128, WIDTH)

    def forward(self, states, target):
        return region_loss(self.head(states), target), self.encoder(target)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.vision, self.connector, self.region, self.language = Vision(), Connector(), Region(), LoraLanguage()
        self.box_token = nn.Parameter(0.02 * torch.randn(1, WIDTH))

    def forward(self, ids, targets, images, box_in, box):
        x = self.language.embed(ids)
        visual = self.connector(self.vision(images))
        given, token = self.region.encoder(box_in)[:, None], self.box_token.expand(x.shape[0], -1)[:, None]
        x = torch.cat((x[:, :1], visual, x[:, 17:BOX_IN], given, x[:, BOX_IN + 1:BOXES], token, x[:, BOXES + 1:]), dim=1)
        states = self.language.states(x)
        return self.language.loss(states, targets) + region_loss(self.region.head(states[:, BOXES]), box)


def boxes(batch):
    first = torch.rand(batch, 2) / 2
    return torch.cat((first, first + 0.1 + 0.4 * torch.rand(batch, 2)), dim=1)


def make(part, B):
    """(module, inputs, gradients of the results: None for a loss)"""
    ids, targets = torch.randint(0, 1024, (2, B, ROWS)).unbind()
    images = 2 * torch.rand(B, FRAMES, SIDE, SIDE, 3) - 1
    if part == "vision":
        return Vision(), (images,), [torch.randn(B, TOKENS, VISION)]
    if part == "connector":
        return Connector(), (torch.randn(B, TOKENS, VISION, requires_grad=True),), [torch.randn(B, 16, WIDTH)]
    if part == "language_lora":
        return LoraLanguage(), (torch.randn(B, ROWS, WIDTH, requires_grad=True), targets), [None]
    if part == "language_full":
        return FullLanguage(), (ids, targets), [None]
    if part == "region":
        return Region(), (torch.randn(B, WIDTH, requires_grad=True), boxes(B)), [None, torch.randn(B, WIDTH)]
    if part == "model":
        return Model(), (ids, targets, images, boxes(B), boxes(B)), [None]
    raise SystemExit("no part " + part)


module, inputs, seeds = make(args.part, args.batch)
trained = [q for q in module.parameters() if q.requires_grad]
leaves = [t for t in inputs if t.requires_grad]
run = module
if args.impl != "eager":
    run = torch.compile(module, mode="max-autotune-no-cudagraphs" if args.impl == "autotune" else None)


def step():
    begin = time.perf_counter()
    if args.zero == "fill" and trained[0].grad is not None:
        torch._foreach_zero_([q.grad for q in trained])
    elif args.zero == "none":
        for q in trained:
            q.grad = None
    for t in leaves:
        t.grad = None
    out = run(*inputs)
    if len(seeds) == 1 and seeds[0] is None:
        out.backward()
    else:
        torch.autograd.backward(out, seeds)
    return 1e3 * (time.perf_counter() - begin)


for _ in range(5):
    step()
unreached = [n for n, q in module.named_parameters() if q.requires_grad and q.grad is None and "embed.weight" not in n]
if unreached:
    raise SystemExit("no gradient for " + ", ".join(unreached))
print("[]", flush=True)
for line in sys.stdin:
    print(json.dumps([round(step(), 4) for _ in range(int(line))]), flush=True)
print(json.dumps({"part": args.part, "batch": args.batch, "threads": torch.get_num_threads(),
                  "trained": sum(q.numel() for q in trained), "torch": torch.__version__}), flush=True)
os._exit(0)  # compile workers and thread pools take seconds to leave on their own
