#!/usr/bin/python3
"""Data-parallel efficiency on one machine: 2 ranks x 1 thread against two independent processes that do not talk.

Both run at the same time slices, in turns, so that a drifting machine hits both. Each pair trains STEPS steps of the same
configuration; the independent processes take half the microbatches each. Prints one line a pair and the median ratio
(time of a step without communication / time of a step with it). usage:
  bench/dp_efficiency.py --tpo_dist build/launcher/tpo_dist --config examples/quickstart.textproto [--pairs 9] [--steps 60]
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile

p = argparse.ArgumentParser()
p.add_argument("--tpo_dist", required=True)
p.add_argument("--config", required=True)
p.add_argument("--pairs", type=int, default=9)
p.add_argument("--steps", type=int, default=60)
p.add_argument("--set", action="append", default=[])
args = p.parse_args()
env = dict(os.environ, OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
folder = tempfile.mkdtemp(prefix="tpo_dp_")


def words(run, microbatches):
    # One dataset, so that both ranks have the same work in each step.
    sets = [f"run.folder={folder}/{run}", f"train.steps={args.steps}", f"train.microbatches_per_step={microbatches}",
            "run.threads=1", "log.every=1", "log.peak_gflops=100", "checkpoint.every=0", "eval.samples=1", "eval.pictures=0"]
    return [args.tpo_dist, "train", "--config", args.config] + [w for s in sets + args.set for w in ("--set", s)]


def step_seconds(run):
    with open(f"{folder}/{run}/log.jsonl") as f:
        steps = [json.loads(line)["step_s"] for line in f if '"kind":"train"' in line]
    return statistics.median(steps[len(steps) // 4:])  # after warm-up


ratios = []
for pair in range(args.pairs):
    subprocess.run(["mpirun", "-n", "2", "--bind-to", "core"] + words(f"dp{pair}", 2), env=env, check=True,
                   stdout=subprocess.DEVNULL)
    alone = [subprocess.Popen(["taskset", "-c", str(k)] + words(f"alone{pair}_{k}", 1), env=env, stdout=subprocess.DEVNULL)
             for k in range(2)]
    for q in alone:
        assert q.wait() == 0
    together = step_seconds(f"dp{pair}")
    apart = statistics.mean(step_seconds(f"alone{pair}_{k}") for k in range(2))
    ratios.append(apart / together)
    print(f"pair {pair}: together {1e3 * together:.2f} ms, apart {1e3 * apart:.2f} ms, ratio {ratios[-1]:.3f}", flush=True)
shutil.rmtree(folder)
print(f"median ratio {statistics.median(ratios):.3f} of {args.pairs} pairs (min {min(ratios):.3f}, max {max(ratios):.3f})")
