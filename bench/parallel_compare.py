#!/usr/bin/env python3
"""Training steps that ranks share, compared in pairs within one run: ours against ours under another layout, and ours
against PyTorch's DistributedDataParallel and fully sharded data parallel over gloo.

Both sides of a comparison stay loaded (under mpirun, rank k on core k, one thread a rank) and take turns of --steps
steps; the order changes from round to round. The ratio of a round is the rate of the first over the rate of the second,
each the median of its turn. For PyTorch every setting below runs alone first, and the fastest --finalists of them take
turns with ours; the strongest is the finalist with the smallest ratio. Prints a table in markdown; --results appends it,
with machine and command, to a file; --json keeps everything.

  bench/parallel_compare.py --parallel_bench build/bench/parallel_bench --torch2 ../torch2/bin/python \\
      --results bench/results/parallel.md
"""
import argparse
import json
import os
import statistics
import sys
import tempfile

from step_compare import HERE, MALLOC, Runner, build_shim, joined, machine, spread

OURS = {  # name: (ranks, batches of the model in a step, words)
    "one rank": (1, 1, ["--independent"]),
    "two ranks that do not talk": (2, 2, ["--independent"]),
    "dp 2": (2, 2, ["--data"]),
    "ZeRO-1": (2, 2, ["--zero", "1"]),
    "ZeRO-2": (2, 2, ["--zero", "2"]),
    "ZeRO-3": (2, 2, ["--zero", "3"]),
    "tp 2": (2, 1, ["--tensor"]),
    "tp 2 with cut sequences": (2, 1, ["--sequence"]),
}
PEERS = {"PyTorch DDP": "ddp", "PyTorch FSDP": "fsdp"}  # the strongest setting of these
COMPARISONS = [  # first, second, least ratio or None
    ("dp 2", "two ranks that do not talk", 0.97),
    ("tp 2", "one rank", 1.6),
    ("tp 2 with cut sequences", "one rank", None),
    ("ZeRO-3", "dp 2", 0.93),
    ("ZeRO-1", "dp 2", None),
    ("ZeRO-2", "dp 2", None),
    ("dp 2", "PyTorch DDP", 1.25),
    ("ZeRO-3", "PyTorch FSDP", None),
]


class Side(Runner):
    """N ranks under mpirun that run steps when told to."""
    port = 29600 + os.getpid() % 1000

    def __init__(self, name, ranks, batches, command, environment):
        self.batches = batches
        Side.port += 1
        words = ["%s=%s" % e for e in joined(environment, {"MASTER_PORT": str(Side.port)}).items()]
        launch = ["mpirun", "-n", str(ranks), "--map-by", "core", "--bind-to", "core"]
        super().__init__(name, launch + ["env"] + words + command,
                         {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}, 1)

    def read(self):
        while True:  # libraries print lines of their own
            line = self.process.stdout.readline()
            try:
                return json.loads(line)
            except ValueError:
                if not line:
                    self.process.wait()
                    self.errors.seek(0)
                    raise RuntimeError(self.name + " ended: " + self.errors.read().strip()[-2000:])

    def rate(self, steps):
        """Batches per second in a turn."""
        return 1e3 * self.batches / self.turn(steps)


def ours(args, name):
    ranks, batches, words = OURS[name]
    return Side(name, ranks, batches, [args.parallel_bench, "--model", args.model, "--serve"] + words, {})


def peer_settings(kind):
    """(name, words) of every setting of PyTorch that may be the strongest."""
    if kind == "ddp":
        found = [("ddp sdpa 25 MiB", ["--impl", "sdpa", "--bucket_mb", "25"])]
        for mb in ("1", "4", "25"):
            for static in ([], ["--static_graph"]):
                name = "ddp compile %s MiB%s" % (mb, " static" if static else "")
                found.append((name, ["--impl", "compile", "--bucket_mb", mb] + static))
        return [(name, ["--wrap", "ddp"] + words) for name, words in found]
    return [("%s %s" % (wrap, impl), ["--wrap", wrap, "--impl", impl]) for wrap in ("fsdp1", "fsdp2")
            for impl in ("sdpa", "blocks", "compile")]


def peer(args, setting, shim):
    name, words = setting
    environment = joined(MALLOC["jemalloc"], {"LD_PRELOAD": shim} if shim else {})
    command = [args.torch2, os.path.join(HERE, "peers", "ddp.py"), "--model", args.model, "--serve"] + words
    return Side(name, 2, 2, command, environment)


def screened(args, kind, shim):
    """The fastest settings, and milliseconds of all alone."""
    found = {}
    settings = [s for s in peer_settings(kind) if args.only in s[0]]
    for setting in settings:
        try:
            side = peer(args, setting, shim)
            found[setting[0]] = min(side.turn(args.steps) for _ in range(2))
            side.end()
        except RuntimeError as e:  # one that does not run here is no peer, and is listed as such
            found[setting[0]] = None
            print("  " + str(e).splitlines()[-1], file=sys.stderr, flush=True)
        print("  %-28s %s ms" % (setting[0], found[setting[0]]), file=sys.stderr, flush=True)
    runs = sorted((s for s in settings if found[s[0]]), key=lambda s: found[s[0]])
    return runs[:args.finalists], found


def compare(args, comparison, shim):
    first, second, aim = comparison
    title = first + " / " + second
    print(title, file=sys.stderr, flush=True)
    row = {"title": title, "aim": aim, "model": args.model, "rounds": args.rounds, "steps_a_turn": args.steps}
    if second in OURS:
        others = [ours(args, second)]
    else:
        finalists, row["alone_ms"] = screened(args, PEERS[second], shim)
        others = [peer(args, f, shim) for f in finalists]
        if not others:
            raise SystemExit("no setting of PyTorch runs here")
    mine = ours(args, first)
    ratios = {o.name: [] for o in others}
    for side in [mine] + others:
        side.turn(1)  # its memory is warm again
    for i in range(args.rounds):
        for other in others:
            order = (mine, other) if i % 2 == 0 else (other, mine)
            rates = {side.name: side.rate(args.steps) for side in order}
            ratios[other.name].append(rates[mine.name] / rates[other.name])
        print("  " + ", ".join("%s %.3f" % (n, r[-1]) for n, r in ratios.items()), file=sys.stderr, flush=True)
    strongest = min(ratios, key=lambda n: statistics.median(ratios[n]))
    row.update(second=strongest, ratio=spread(ratios[strongest]), ratios={n: spread(r) for n, r in ratios.items()},
               first_result=mine.end(), other_results={o.name: o.end() for o in others})
    return row


def table(rows):
    lines = ["| model | comparison | rounds | ratio, median (min..max) | least | ms a step, first / second | exposed ms | second |",
             "|---" * 8 + "|"]
    for r in rows:
        a, b = r["first_result"], r["other_results"][r["second"]]
        lines.append("| %s | %s | %d x %d | **%.3f** (%.3f..%.3f) | %s | %.1f / %.1f | %.1f | %s |" % (
            r["model"], r["title"], r["rounds"], r["steps_a_turn"], *r["ratio"], r["aim"] or "", a["step_ms"][0],
            b["step_ms"][0], a["exposed_ms"][0], r["second"]))
    return "\n".join(lines)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--parallel_bench", required=True)
    p.add_argument("--torch2", default="", help="Python with PyTorch 2; empty: no peers")
    p.add_argument("--model", default="medium")
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--steps", type=int, default=2, help="of a turn")
    p.add_argument("--finalists", type=int, default=2)
    p.add_argument("--comparisons", default="", help="part of the titles to run")
    p.add_argument("--only", default="", help="part of the names of PyTorch's settings to try")
    p.add_argument("--results", default="", help="file of markdown that receives machine, command and table")
    p.add_argument("--json", default="")
    args = p.parse_args()
    about, rows = machine(), []
    command = " ".join(sys.argv)
    with tempfile.TemporaryDirectory(prefix="parallel_compare_") as folder:
        shim = build_shim(folder)
        for c in COMPARISONS:
            if args.comparisons not in c[0] + " / " + c[1] or (c[1] in PEERS and not args.torch2):
                continue
            rows.append(compare(args, c, shim))
            if args.json:
                with open(args.json, "w") as f:
                    json.dump({"machine": about, "command": command, "rows": rows}, f, indent=1)
    text = "%(date)s, %(Model name)s, %(CPU(s))s processors, load %(load_at_start).1f\n\n    " % about + command + "\n\n"
    text += table(rows)
    print(text)
    if args.results:
        with open(args.results, "a") as f:
            f.write("\n" + text + "\n")


if __name__ == "__main__":
    main()
