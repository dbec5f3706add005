#!/usr/bin/env python3
"""A training step of a vision transformer in PyTorch: patches, class token, learned positions, LayerNorm, GELU by erf,
AdamW, fp32. The models and the maths of bench/step_models.cpp.
usage: vit.py --model vit|nano_vit [--threads N] [--impl eager|sdpa|compile] [--optimizer fused] ..."""
import timing

CONFIGS = {
    "vit": dict(width=384, layers=6, heads=6, hidden=1536, classes=1000, image=224, patch=16, batch=8),
    "nano_vit": dict(width=96, layers=2, heads=4, hidden=288, classes=10, image=72, patch=12, batch=2),
}

args = timing.options(__doc__)
import torch  # noqa: E402  after the options, so that --help needs no PyTorch
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402


class Block(nn.Module):
    def __init__(self, c, impl):
        super().__init__()
        self.heads, self.impl = c["heads"], impl
        self.norm1, self.norm2 = nn.LayerNorm(c["width"]), nn.LayerNorm(c["width"])
        self.qkv, self.proj = nn.Linear(c["width"], 3 * c["width"]), nn.Linear(c["width"], c["width"])
        self.fc1, self.fc2 = nn.Linear(c["width"], c["hidden"]), nn.Linear(c["hidden"], c["width"])

    def attention(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        if self.impl == "eager":
            scores = torch.matmul(q * (C // self.heads) ** -0.5, k.transpose(-1, -2))
            y = torch.matmul(torch.softmax(scores, dim=-1), v)
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Vit(nn.Module):
    def __init__(self, c, impl):
        super().__init__()
        self.patch = nn.Conv2d(3, c["width"], c["patch"], c["patch"])
        self.cls = nn.Parameter(torch.zeros(1, 1, c["width"]))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (c["image"] // c["patch"]) ** 2 + 1, c["width"]))
        self.blocks = nn.ModuleList(Block(c, impl) for _ in range(c["layers"]))
        self.norm, self.head = nn.LayerNorm(c["width"]), nn.Linear(c["width"], c["classes"])

    def forward(self, images, targets):
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls.expand(x.shape[0], -1, -1), x), dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x[:, 0])), targets)


timing.prepare(args)
config = CONFIGS[args.model]
batch = args.batch or config["batch"]
images = 2 * torch.rand(batch, 3, config["image"], config["image"]) - 1


def next_batch():
    return images, torch.randint(0, config["classes"], (batch,))


timing.run(args, args.model, batch, batch, "images", Vit(config, args.impl), next_batch)
