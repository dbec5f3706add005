#!/usr/bin/env python3
"""A training step of a Mistral-style decoder in PyTorch: RMS norm, rotary positions, grouped queries, SwiGLU, untied
head, AdamW, fp32. The models and the maths of bench/step_models.cpp.
usage: decoder.py --model small|medium|nano_decoder [--threads N] [--impl eager|sdpa|compile] [--optimizer fused] ..."""
import timing

CONFIGS = {
    "small": dict(width=256, layers=4, heads=4, kv_heads=2, head_dim=64, hidden=768, vocab=8192, tokens=256, batch=8),
    "medium": dict(width=512, layers=8, heads=8, kv_heads=4, head_dim=64, hidden=1408, vocab=8192, tokens=512, batch=4),
    "nano_decoder": dict(width=128, layers=3, heads=8, kv_heads=4, head_dim=32, hidden=352, vocab=512, tokens=64,
                         batch=1),
}

args = timing.options(__doc__) if __name__ == "__main__" else None
import torch  # noqa: E402  after the options, so that --help needs no PyTorch
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.gain


def rotated(x, cos, sin):
    """x (B, heads, T, D): pairs (i, i + D/2) turned by the angles of their row."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Block(nn.Module):
    def __init__(self, c, impl):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.impl = c["heads"], c["kv_heads"], c["head_dim"], impl
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.norm1, self.norm2 = RmsNorm(c["width"]), RmsNorm(c["width"])
        for name, rows, cols in (("q", q, c["width"]), ("k", kv, c["width"]), ("v", kv, c["width"]),
                                 ("o", c["width"], q), ("gate", c["hidden"], c["width"]),
                                 ("up", c["hidden"], c["width"]), ("down", c["width"], c["hidden"])):
            setattr(self, name, nn.Linear(cols, rows, bias=False))

    def attention(self, x, cos, sin, mask):
        B, T, _ = x.shape

        def split(y, heads):
            return y.view(B, T, heads, self.head_dim).transpose(1, 2)

        q, k = rotated(split(self.q(x), self.heads), cos, sin), rotated(split(self.k(x), self.kv_heads), cos, sin)
        v = split(self.v(x), self.kv_heads)
        copies = self.heads // self.kv_heads
        k, v = k.repeat_interleave(copies, dim=1), v.repeat_interleave(copies, dim=1)
        if self.impl == "eager":
            scores = torch.matmul(q * self.head_dim ** -0.5, k.transpose(-1, -2)) + mask
            y = torch.matmul(torch.softmax(scores, dim=-1), v)
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(B, T, self.heads * self.head_dim))

    def forward(self, x, cos, sin, mask):
        x = x + self.attention(self.norm1(x), cos, sin, mask)
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    def __init__(self, c, impl):
        super().__init__()
        T, D = c["tokens"], c["head_dim"]
        self.embed = nn.Embedding(c["vocab"], c["width"])
        self.blocks = nn.ModuleList(Block(c, impl) for _ in range(c["layers"]))
        self.norm, self.head = RmsNorm(c["width"]), nn.Linear(c["width"], c["vocab"], bias=False)
        angles = torch.arange(T).float()[:, None] * 10000.0 ** (-torch.arange(0, D, 2).float() / D)
        angles = torch.cat((angles, angles), dim=1)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        self.register_buffer("mask", torch.full((T, T), float("-inf")).triu(1))
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids, targets):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin, self.mask)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def batches(config, batch, seed=1):
    """A function that draws the next ids and targets, (batch, T) each."""
    draw = torch.Generator().manual_seed(seed)
    return lambda: torch.randint(0, config["vocab"], (2, batch, config["tokens"]), generator=draw).unbind()


if args:
    timing.prepare(args)
    config = CONFIGS[args.model]
    batch = args.batch or config["batch"]
    timing.run(args, args.model, batch, batch * config["tokens"], "tokens", Decoder(config, args.impl),
               batches(config, batch))
