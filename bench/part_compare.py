#!/usr/bin/env python3
"""Forward and backward of the parts of the nano model, ours in turns with PyTorch's, as step_compare.py does for steps.

For every part, batch and thread count each setting of PyTorch below runs alone first; the fastest --finalists of them
and ours then stay loaded and take turns for --rounds rounds of about --turn_ms. A ratio is the peer's median over ours
in the same round; the row's is the median over rounds against the finalist for which it is smallest.

  bench/part_compare.py --part_bench build/bench/part_bench --torch2 ../torch2/bin/python --out bench/results/parts.json

For machines that several people measure on: every --lock FILE is held while sides take turns, the first also while
they start and compile.
"""
import argparse
import contextlib
import fcntl
import json
import os
import statistics
import sys
import tempfile

from step_compare import HERE, MALLOC, Runner, build_shim, joined, machine, spread

PARTS = "vision,connector,language_lora,language_full,region,model"


def settings(args, part, threads, shim):
    """(name, words, environment) of every setting of PyTorch that may be the strongest."""
    base = joined({"LD_PRELOAD": shim} if shim else {}, MALLOC["jemalloc"])
    bound = joined({"LD_PRELOAD": shim} if shim else {}, MALLOC["malloc"], {"OMP_PROC_BIND": "true"} if threads > 1 else {})
    wrapper = joined(base, {"TORCHINDUCTOR_CPP_WRAPPER": "1"})
    found = [("eager", ["--impl", "eager"], base), ("compile", ["--impl", "compile"], base),
             ("compile C++ wrapper", ["--impl", "compile"], wrapper), ("autotune", ["--impl", "autotune"], base),
             ("compile zero in place", ["--impl", "compile", "--zero", "fill"], base),
             ("compile malloc bound", ["--impl", "compile"], bound)]
    if "language" in part or part == "model":
        found += [(name + " gqa", words + ["--gqa"], environment) for name, words, environment in found[:3]]
    return [s for s in found if not args.only or any(o in s[0] for o in args.only.split(","))]


def words_of(part, batch, threads):
    return ["--part", part, "--batch", str(batch), "--threads", str(threads)]


def start_ours(args, part, batch, threads):
    return Runner("tpo_dist", [args.part_bench] + words_of(part, batch, threads), {}, threads)


def start_peer(args, setting, part, batch, threads):
    name, words, environment = setting
    script = os.path.join(HERE, "peers", "parts.py")
    return Runner(name, [args.torch2, script] + words_of(part, batch, threads) + words, environment, threads)


def steps_of(args, runner):
    """Steps of about turn_ms."""
    return max(1, min(2000, round(args.turn_ms / min(runner.turn(5) for _ in range(2)))))


@contextlib.contextmanager
def held(files):
    with contextlib.ExitStack() as stack:
        for name in files:
            fcntl.flock(stack.enter_context(open(name, "a")), fcntl.LOCK_EX)
        yield


def screen(args, part, batch, threads, shim):
    found = []
    for setting in settings(args, part, threads, shim):
        try:
            runner = start_peer(args, setting, part, batch, threads)
        except RuntimeError as e:  # one that does not run here is no peer
            print("  " + str(e).splitlines()[-1], file=sys.stderr, flush=True)
            continue
        steps = steps_of(args, runner)
        found.append((min(runner.turn(steps) for _ in range(3)), setting))
        runner.end()
        print("  %-52s %9.3f ms" % (setting[0], found[-1][0]), file=sys.stderr, flush=True)
    return [s for _, s in sorted(found, key=lambda f: f[0])][:args.finalists]


def compare(args, part, batch, threads, finalists):
    print("%s, batch %d, %d threads" % (part, batch, threads), file=sys.stderr, flush=True)
    with held(args.lock[:1]):
        ours, peers = start_ours(args, part, batch, threads), [start_peer(args, s, part, batch, threads) for s in finalists]
    with held(args.lock):
        everyone = [ours] + peers
        steps = {r.name: steps_of(args, r) for r in everyone}
        ms, ratios = {r.name: [] for r in everyone}, {p.name: [] for p in peers}
        for _ in range(args.rounds):
            for r in everyone:
                ms[r.name].append(r.turn(steps[r.name]))
            for p in peers:
                ratios[p.name].append(ms[p.name][-1] / ms[ours.name][-1])
        facts = [r.end() for r in everyone]
    for f in facts[1:]:
        if f["trained"] != facts[0]["trained"]:
            raise SystemExit("ours trains %d parameters, PyTorch %d: not the same work" % (facts[0]["trained"], f["trained"]))
    strongest = min(ratios, key=lambda n: statistics.median(ratios[n]))
    return dict(facts[0], torch=facts[1]["torch"], ours_ms=spread(ms[ours.name]), torch_ms=spread(ms[strongest]),
                ratio=spread(ratios[strongest]), strongest=strongest, ratios={n: spread(r) for n, r in ratios.items()})


def table(rows):
    heads = ("part", "batch", "threads", "launches", "MFLOP", "MB", "ours, ms", "PyTorch, ms",
             "PyTorch / ours (min..max)", "ours / floor", "PyTorch / floor", "strongest PyTorch")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for r in rows:
        cells = (r["part"], r["batch"], r["threads"], r["launches"], "%.4g" % (1e3 * r["gflop"]), "%.3g" % (1e3 * r["gbyte"]),
                 "%.4g" % r["ours_ms"][0], "%.4g" % r["torch_ms"][0], "**%.2f** (%.2f..%.2f)" % tuple(r["ratio"]),
                 "%.2f" % (r["ours_ms"][0] / r["floor_ms"]), "%.2f" % (r["torch_ms"][0] / r["floor_ms"]), r["strongest"])
        lines.append("| " + " | ".join(str(c) for c in cells) + " |")
    return "\n".join(lines)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--part_bench", required=True)
    p.add_argument("--torch2", required=True, help="Python of a virtual environment with PyTorch 2")
    p.add_argument("--parts", default=PARTS)
    p.add_argument("--batches", default="1,8")
    p.add_argument("--threads", default="1,2")
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--turn_ms", type=float, default=60)
    p.add_argument("--finalists", type=int, default=2)
    p.add_argument("--only", default="", help="parts of names, by commas: settings of PyTorch to try")
    p.add_argument("--settings", default="", help="JSON file: finalists of an earlier run; those of this run are added")
    p.add_argument("--lock", action="append", default=[])
    p.add_argument("--out", default="")
    args = p.parse_args()
    about, rows = machine(), []
    known = {}
    if args.settings and os.path.exists(args.settings):
        with open(args.settings) as f:
            known = json.load(f)
    with tempfile.TemporaryDirectory(prefix="part_compare_") as folder:
        shim = build_shim(folder)
        for part in args.parts.split(","):
            for batch in (int(b) for b in args.batches.split(",")):
                for threads in (int(t) for t in args.threads.split(",")):
                    key = "%s %d %d" % (part, batch, threads)
                    if key not in known:
                        known[key] = [s[0] for s in screen(args, part, batch, threads, shim)]
                        if args.settings:
                            with open(args.settings, "w") as f:
                                json.dump(known, f, indent=1)
                    finalists = [s for s in settings(args, part, threads, shim) if s[0] in known[key]]
                    rows.append(compare(args, part, batch, threads, finalists))
                    if args.out:
                        with open(args.out, "w") as f:
                            json.dump({"machine": about, "command": " ".join(sys.argv), "rows": rows}, f, indent=1)
    print("%(Model name)s, %(CPU(s))s processors, %(date)s, load %(load_at_start).1f; `" % about + " ".join(sys.argv) + "`\n")
    print(table(rows))


if __name__ == "__main__":
    main()
