"""What both peers share: options, the timing of a step, memory and the JSON line. Same fields as step_bench."""
import argparse
import json
import os
import statistics
import sys
import time

BASELINE_MIB = None  # resident memory when PyTorch is loaded and warm, and no model exists


def process_mib(field):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) / 1024 for line in f if line.startswith(field + ":"))


def options(description):
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--model", required=True)
    p.add_argument("--batch", type=int, default=0, help="0: the model's own")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--steps", type=int, default=9)
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--impl", choices=("eager", "sdpa", "compile"), default="eager",
                   help="eager: plain ops; sdpa: fused attention (PyTorch 2); compile: sdpa under torch.compile")
    p.add_argument("--optimizer", choices=("default", "foreach", "fused"), default="default")
    p.add_argument("--serve", action="store_true",
                   help="for every line N of standard input run N steps and print their milliseconds; --steps is unused")
    return p.parse_args()


def prepare(args):
    """Threads and a fixed seed; to be called before the model exists."""
    global BASELINE_MIB
    import torch
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    tiny = torch.nn.Linear(8, 8)  # what a first step loads is PyTorch's size, not the model's
    tiny(torch.ones(8, 8)).sum().backward()
    adamw(tiny, args).step()
    BASELINE_MIB = process_mib("VmRSS")


def adamw(model, args):
    import torch
    how = {} if args.optimizer == "default" else {args.optimizer: True}
    return torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, **how)


class Stepper:
    """Steps `model`, which maps a batch to its loss."""

    def __init__(self, args, model, next_batch):
        import torch
        self.optimizer, self.next_batch = adamw(model, args), next_batch
        self.loss_of = torch.compile(model) if args.impl == "compile" else model
        self.losses, self.parts = [], []  # milliseconds of forward, backward, optimizer

    def step(self):
        inputs = self.next_batch()
        t = [time.perf_counter()]
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss_of(*inputs)
        t.append(time.perf_counter())
        loss.backward()
        t.append(time.perf_counter())
        self.optimizer.step()
        t.append(time.perf_counter())
        self.parts.append([1e3 * (b - a) for a, b in zip(t, t[1:])])
        self.losses.append(loss.item())
        return sum(self.parts[-1])


def run(args, name, batch, items, unit, model, next_batch):
    """Warm up, time and print the line. `items` of a step make the rate `unit`."""
    import torch
    stepper = Stepper(args, model, next_batch)
    for _ in range(args.warmup):
        stepper.step()
    stepper.parts.clear()
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # the peak of resident memory starts again: what compiling took is not the step's
    if args.serve:
        print("[]", flush=True)  # ready
        for line in sys.stdin:
            print(json.dumps([round(stepper.step(), 3) for _ in range(int(line))]), flush=True)
    else:
        for _ in range(args.steps):
            stepper.step()
    steps = [sum(parts) for parts in stepper.parts]
    forward, backward, optimizer = (round(statistics.median(part), 3) for part in zip(*stepper.parts))
    print(json.dumps({
        "impl": "torch " + torch.__version__ + " " + args.impl + " " + args.optimizer, "model": name, "batch": batch,
        "threads": torch.get_num_threads(), "steps": len(steps),
        "parameters": sum(p.numel() for p in model.parameters()),
        "step_ms": [round(f(steps), 3) for f in (statistics.median, min, max)],
        "forward_ms": forward, "backward_ms": backward, "optimizer_ms": optimizer,
        unit + "_per_s": round(1e3 * items / statistics.median(steps), 3),
        "loss_first": stepper.losses[0], "loss_last": stepper.losses[-1],
        "process_start_mib": round(BASELINE_MIB, 1), "process_peak_mib": round(process_mib("VmHWM"), 1)}), flush=True)
    os._exit(0)  # compile workers and thread pools take seconds to leave on their own
