#!/usr/bin/env python3
"""Writes steps_lm.golden and steps_region.golden: 200 steps of AdamW of the authors' whole model at small widths, as
videochat_tpo_golden.py makes it, from the weights and batches of the test. Formula, schedule, decay and its exceptions
are those of our trainer; the clipping norm is about the median, so that some steps are clipped and others not.

  steps_lm       loss of the language model; adapters and Q-Former are trained, the encoder is frozen
  steps_region   losses of the language model and of the region head; all but the base language model is trained

The reference is float64. VARIANTS are the same run in float32, which differ in nothing but how numbers are rounded, and
in bfloat16 autocast. A file has the losses and trained parameters of the reference, and how far variants went from it:
  band_lm, band_region   per step, the furthest float32 variant up to that step
  bf16_lm, bf16_region   the same of bfloat16
  final_band             per trained parameter, in the order of names: maximum of |difference|
WRONG are runs with a constant that is wrong by 1 to 10 %, printed to show that the band is far narrower than that.
Biases of keys are left out at the end: they move all scores of a query alike, so their gradients are rounding, which
Adam makes as large as any.

Made with TPO ed733bd8ce0b, transformers 4.46.3, peft 0.13.2, timm 0.4.12, torch 2.8.0, torchvision 0.23.0:
  python3 videochat_tpo_steps.py --tpo CHECKOUT
"""
import argparse
import contextlib
import math
import sys

import numpy as np
import torch
import transformers

from make_golden import noise, write
from videochat_tpo_golden import QFORMER, VERSIONS, WIDTH, Batch, in_our_shape, load, make_model, parameters_of

STEPS, SIZE, PATCH = 200, 32, 8
LR, WARMUP, FLOOR = 1e-3, 40, 0.05  # core/optim/lr_schedule.h
# As float32 holds them, as in core/optim/adamw.h: the 1.3e-8 by which that moves 0.999 shows at the end of the runs.
BETA1, BETA2, DECAY = (float(np.float32(x)) for x in (0.9, 0.999, 0.02))

# Step k takes batch k modulo their number. The shorthand is that of videochat_tpo_golden.CASES.
RUNS = {
    "lm": dict(clip=2.0, frozen=("vision.",), batches=[
        dict(frames=1, samples=[[2, "v", 3, "|", 6], [1, "v", 1, "|", 4], [6, "|", 3]]),
        dict(frames=2, samples=[[3, "v", 2, "|", 5], [4, "|", 8]]),
        dict(frames=0, samples=[[5, "|", 4], [2, "|", 9]])]),
    "region": dict(clip=5.0, frozen=(), batches=[
        dict(frames=1, samples=[[1, "v", 2, "|", "b", 1], [2, "v", 3, "|", 3, "b", "b"], [5, "|", 2]]),
        dict(frames=2, samples=[[1, "v", "t", 2, "|", "b"], [3, "v", "t", 1, "|", 2]]),
        dict(frames=0, samples=[[4, "|", 1, "b", 2], [3, "|", "b", "b"]]),
        dict(frames=0, samples=[[6, "|", 5]])]),
}
VARIANTS = {"plain": {}, "reversed": dict(reverse=True), "eager": dict(eager=True), "threads": dict(threads=2),
            "no_mkldnn": dict(mkldnn=False)} | {f"ulp{i}": dict(ulp=i) for i in range(4)}
BF16 = {"bf16": dict(autocast=True), "bf16_reversed": dict(autocast=True, reverse=True)}
WRONG = {"beta2": dict(beta2=0.9989), "decay": dict(decay=0.019), "clip": dict(clip_factor=1.01)}


def rate(step):
    if step < WARMUP:
        return LR * (step + 1) / WARMUP
    return LR * 0.5 * ((1 + FLOOR) + (1 - FLOOR) * math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def decays(name, p):
    return in_our_shape(name, p).dim() == 2 and not name.startswith("task_tokens.") and "queries" not in name


def arguments(batch, dtype, reverse):
    """The batch of one precision; reversed: its rows the other way round."""
    def convert(v):
        if isinstance(v, list):
            return [convert(x) for x in (v[::-1] if reverse and len(v) > 1 else v)]
        return v.to(dtype) if v.is_floating_point() else v
    out = {k: convert(v) for k, v in batch.arguments.items()}
    if reverse:
        for k, v in out.items():
            if torch.is_tensor(v):
                out[k] = v.flip(0)
        if "input_boxes" in out:  # at most one a row
            out["input_boxes"] = [out["input_boxes"][0].flip(0)]
    return out


def train(peer, name, dtype, reverse=False, eager=False, threads=1, mkldnn=True, ulp=None, autocast=False,
          beta2=BETA2, decay=DECAY, clip_factor=1.0):
    """Losses (STEPS, 2), trained parameters and how far they moved, by our names."""
    torch.set_num_threads(threads)
    batches = batches_of(name)
    model = make_model(peer, 2, gain=0.5, size=SIZE, patch=PATCH).to(dtype)
    named = parameters_of(model)
    for n, p in named:
        if n.startswith(RUNS[name]["frozen"]):
            p.requires_grad_(False)
        if ulp is not None and p.requires_grad:
            p.data *= 1 + 2.0**-24 * torch.from_numpy(noise(f"{n}{ulp}", tuple(p.shape))).to(dtype).sign()
    if eager:
        model.lm.base_model.model.config._attn_implementation = "eager"
        for layer in model.lm.base_model.model.model.layers:
            layer.self_attn.__class__ = transformers.models.mistral.modeling_mistral.MistralAttention
    parts = {}
    language, box_loss = model.lm.forward, model.box_loss

    def lm_forward(*a, **k):
        out = language(*a, **k)
        parts["lm"] = out.loss.item()
        return out

    def region(boxes, targets):
        b = torch.cat(boxes)
        assert torch.all(b[:, 2:] >= b[:, :2])
        loss = box_loss(boxes, targets)
        parts["region"] = loss.item()
        return loss

    model.lm.forward, model.box_loss = lm_forward, region
    trained = [(n, p) for n, p in named if p.requires_grad]
    optimizer = torch.optim.AdamW([
        dict(params=[p for n, p in trained if decays(n, p)], weight_decay=decay),
        dict(params=[p for n, p in trained if not decays(n, p)], weight_decay=0.0)], betas=(BETA1, beta2), eps=1e-8)
    losses, starts = [], {n: p.detach().clone() for n, p in trained}
    with torch.backends.mkldnn.flags(enabled=mkldnn):
        for step in range(STEPS):
            parts.clear()
            optimizer.zero_grad(set_to_none=True)
            batch = batches[step % len(batches)]
            with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
                out = model(**arguments(batch, dtype, reverse))
            out.loss.backward()
            norm = math.sqrt(sum(p.grad.double().square().sum().item() for _, p in trained if p.grad is not None))
            for _, p in trained:
                if p.grad is not None:
                    p.grad *= min(1.0, RUNS[name]["clip"] * clip_factor / norm)
            for group in optimizer.param_groups:
                group["lr"] = float(np.float32(rate(step)))
            optimizer.step()
            losses.append([parts["lm"], parts.get("region", 0.0)])
    final = {n: in_our_shape(n, p).detach().double().numpy() for n, p in trained
             if not n.endswith(".k.bias") and not torch.equal(p, starts[n])}
    moved = {n: np.abs(v - in_our_shape(n, starts[n]).double().numpy()).max() for n, v in final.items()}
    return np.array(losses), final, moved


def batches_of(name):
    return [Batch(f"{name}{i}", size=SIZE, **b) for i, b in enumerate(RUNS[name]["batches"])]


def run(peer, name):
    losses, final, moved = train(peer, name, torch.float64)
    print(name, "losses at the begin and at the end", losses[:4].tolist(), losses[-4:].tolist())

    def distances(variants):
        """Of each step's losses and of parameters: the maximum over variants."""
        of_losses, of_final = np.zeros((STEPS, 2)), {n: 0.0 for n in final}
        for variant, options in variants.items():
            l, f, _ = train(peer, name, torch.float32, **options)
            d = {n: np.abs(f[n] - final[n]).max() for n in final}
            worst = max(final, key=lambda n: d[n] / moved[n])
            print(f"{name} {variant}: losses {np.abs(l - losses).max():.1e}, parameters {d[worst] / moved[worst]:.1e} "
                  f"of their way in {worst}", flush=True)
            of_losses = np.maximum(of_losses, np.abs(l - losses))
            of_final = {n: max(of_final[n], d[n]) for n in final}
        return np.maximum.accumulate(of_losses), of_final

    band, final_band = distances(VARIANTS)
    bf16, _ = distances(BF16)
    distances(WRONG)
    arrays = {f"{i}.{k}": v for i, b in enumerate(batches_of(name)) for k, v in b.arrays.items() if len(v)}
    arrays |= {f"{i}.frames": [b["frames"]] for i, b in enumerate(RUNS[name]["batches"])}
    arrays |= {"clip": [RUNS[name]["clip"]], "lm": losses[:, 0], "band_lm": band[:, 0], "bf16_lm": bf16[:, 0]}
    if name == "region":
        arrays |= {"region": losses[:, 1], "band_region": band[:, 1], "bf16_region": bf16[:, 1]}
    arrays |= {"final." + n: v for n, v in final.items()} | {"final_band": [final_band[n] for n in sorted(final)]}
    write(f"steps_{name}.golden", VERSIONS, {k: np.asarray(v, np.float64) for k, v in arrays.items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tpo", required=True, help="a checkout of OpenGVLab/TPO")
    peer = load(parser.parse_args().tpo, WIDTH, QFORMER)
    for name in RUNS:
        run(peer, name)


if __name__ == "__main__":
    sys.exit(main())
