#!/usr/bin/env python3
"""Our training step against PyTorch's, in turns within one run.

For every model and thread count: each variant of PyTorch below runs a few steps alone (the screen); the fastest
--finalists of them and ours then stay loaded and take turns, a few steps each, for --rounds rounds. The ratio of a
round is the peer's median step over ours in it; the strongest peer is the finalist with the smallest median. At the end
step_bench times our step in turns with its own products. Prints a table in markdown; --out keeps everything as JSON.

  bench/step_compare.py --step_bench build/bench/step_bench --torch2 ../torch2/bin/python --out bench/results/step.json
"""
import argparse
import glob
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
MALLOC = {  # glibc told to keep what it has: no mmap and munmap of large tensors in every step;
    # hugetlb=1 asks for transparent huge pages
    "malloc": {"MALLOC_MMAP_THRESHOLD_": str(8 << 30), "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
               "MALLOC_TOP_PAD_": str(256 << 20), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    "tcmalloc": {"LD_PRELOAD": "libtcmalloc_minimal.so.4"},
    "jemalloc": {"LD_PRELOAD": "libjemalloc.so.2",
                 "MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always"},
}
# Words of these beginnings in the caller's environment are dropped: a BLAS told to use the kernels of an older processor
# would halve the speed of one side.
DROPPED = ("OPENBLAS_", "MKL_", "NVPL_BLAS_", "OMP_", "GOMP_", "KMP_", "MALLOC_", "GLIBC_TUNABLES", "TORCH", "LD_PRELOAD")
STEPS_A_TURN = {"small": 3, "medium": 1, "vit": 2, "nano_decoder": 40, "nano_vit": 60}


def joined(*environments):
    """Environments merged; libraries to preload add up."""
    out = {}
    for e in environments:
        for k, v in e.items():
            out[k] = out[k] + " " + v if k == "LD_PRELOAD" and k in out else v
    return out


def clean_environment():
    return {k: v for k, v in os.environ.items() if not k.startswith(DROPPED)}


def cpu_flags():
    with open("/proc/cpuinfo") as f:
        return next((line.split(":")[1].split() for line in f if line.startswith("flags")), [])


def variants(args, threads, shim):
    """(name, interpreter, words, environment) of every setting of PyTorch that may be the strongest."""
    found = []
    mkl = {"LD_PRELOAD": shim} if shim else {}
    bind = {"OMP_PROC_BIND": "true"}

    def add(name, interpreter, impl, optimizer, *environments):
        if interpreter:
            found.append((name, interpreter, ["--impl", impl, "--optimizer", optimizer], joined(*environments)))

    add("torch2 as installed", args.torch2, "eager", "default")
    add("torch2 compile fused malloc, MKL as installed", args.torch2, "compile", "fused", MALLOC["malloc"])
    for allocator, environment in MALLOC.items():
        add("torch2 sdpa fused " + allocator, args.torch2, "sdpa", "fused", mkl, environment)
        add("torch2 compile fused " + allocator, args.torch2, "compile", "fused", mkl, environment)
        add("torch1 " + allocator, args.torch1, "eager", "default", environment)
    add("torch2 compile fused tcmalloc, C++ wrapper", args.torch2, "compile", "fused", mkl, MALLOC["tcmalloc"],
        {"TORCHINDUCTOR_CPP_WRAPPER": "1"})
    add("torch1 as installed", args.torch1, "eager", "default")
    add("torch1 foreach malloc", args.torch1, "eager", "foreach", MALLOC["malloc"])
    if threads > 1:
        add("torch2 sdpa fused malloc bound", args.torch2, "sdpa", "fused", mkl, MALLOC["malloc"], bind)
        add("torch2 compile fused malloc bound", args.torch2, "compile", "fused", mkl, MALLOC["malloc"], bind)
        add("torch1 malloc bound", args.torch1, "eager", "default", MALLOC["malloc"], bind)
    return [v for v in found if not args.only or args.only in v[0]]


class Runner:
    """A process that runs N steps when told to."""

    def __init__(self, name, command, environment, threads):
        self.name, self.command = name, command
        self.environment = dict(environment, **{k: str(threads) for k in (
            "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")})
        self.turns = []  # milliseconds of the steps of each turn
        self.errors = tempfile.TemporaryFile("w+", errors="replace")
        self.process = subprocess.Popen(command, env=dict(clean_environment(), **self.environment), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.read()  # warm

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            raise RuntimeError(self.name + " ended: " + self.errors.read().strip()[-2000:])
        return json.loads(line)

    def turn(self, steps):
        self.process.stdin.write("%d\n" % steps)
        self.process.stdin.flush()
        self.turns.append(self.read())
        return statistics.median(self.turns[-1])

    def end(self):
        self.process.stdin.close()
        result = self.read()
        self.process.wait()
        return result


def steps_a_turn(model):
    return STEPS_A_TURN[model.split(":")[0]]


def words_of(model):
    """Flags of "name" or "name:batch"."""
    name, _, batch = model.partition(":")
    return ["--model", name] + (["--batch", batch] if batch else [])


def start_ours(args, model, threads):
    command = [args.step_bench] + words_of(model) + ["--threads", str(threads), "--serve", "--json", "--pairs", "0",
               "--warmup", "3"]
    return Runner("tpo_dist", command, dict(s.split("=", 1) for s in args.ours_env), threads)


def start_peer(args, variant, model, threads):
    name, interpreter, words, environment = variant
    script = os.path.join(HERE, "peers", "vit.py" if "vit" in model else "decoder.py")
    command = [interpreter, script] + words_of(model) + ["--threads", str(threads), "--serve", "--warmup", "3"] + words
    return Runner(name, command, environment, threads)


def spread(values):
    return [round(f(values), 4) for f in (statistics.median, min, max)]


def screen(args, model, threads, all_variants):
    """Milliseconds of every variant alone, the fastest first."""
    found, steps = [], steps_a_turn(model)
    for v in all_variants:
        try:
            runner = start_peer(args, v, model, threads)
            ms = min(runner.turn(steps) for _ in range(3))
            runner.end()
        except RuntimeError as e:  # one that does not run here is no peer, and is listed as such
            print("  " + str(e).splitlines()[-1], file=sys.stderr, flush=True)
            found.append((float("inf"), v))
            continue
        print("  %-48s %9.2f ms" % (v[0], ms), file=sys.stderr, flush=True)
        found.append((ms, v))
    return sorted(found, key=lambda f: f[0])


def compare(args, model, threads, shim):
    print("%s, %d threads" % (model, threads), file=sys.stderr, flush=True)
    screened = screen(args, model, threads, variants(args, threads, shim))
    finalists = [v for ms, v in screened if ms < float("inf")][:args.finalists]
    if not finalists:
        raise SystemExit("no variant of PyTorch runs here")
    ours = start_ours(args, model, threads)
    peers = [start_peer(args, v, model, threads) for v in finalists]
    ratios = {p.name: [] for p in peers}
    for _ in range(args.rounds):
        mine = ours.turn(steps_a_turn(model))
        for p in peers:
            ratios[p.name].append(p.turn(steps_a_turn(model)) / mine)
    results = {p.name: p.end() for p in peers}
    strongest = min(ratios, key=lambda n: statistics.median(ratios[n]))
    row = {"model": model, "threads": threads, "rounds": args.rounds, "ours": ours.end(), "strongest": strongest,
           "ratio": spread(ratios[strongest]), "ratios": {n: spread(r) for n, r in ratios.items()}, "peers": results,
           "environments": {p.name: p.environment for p in peers},
           "screen_ms": {v[0]: round(ms, 3) if ms < float("inf") else None for ms, v in screened}}
    command = [args.step_bench] + words_of(model) + ["--threads", str(threads), "--steps", "1", "--warmup", "3",
                                                     "--pairs", str(args.pairs), "--json"]
    row["products"] = json.loads(subprocess.check_output(command, env=dict(clean_environment(), **ours.environment), text=True))
    return row


def machine():
    lscpu = dict(line.split(":", 1) for line in subprocess.check_output("lscpu", text=True).splitlines() if ":" in line)
    wanted = ("Model name", "CPU family", "Model", "CPU(s)", "L1d cache", "L2 cache", "L3 cache", "Hypervisor vendor")
    return dict({k: lscpu[k].strip() for k in wanted if k in lscpu},
                flags=[f for f in cpu_flags() if f.startswith(("avx", "fma"))], kernel=os.uname().release,
                load_at_start=os.getloadavg()[0], date=time.strftime("%Y-%m-%d"))


def table(rows):
    """The figures in markdown, one row a model and thread count."""
    heads = ("model", "threads", "ours, ms", "PyTorch, ms", "PyTorch / ours (min..max)", "step / GEMM (min..max)",
             "step / all products", "share of FMA peak executed / nominal", "step memory ours / PyTorch, MiB",
             "process ours / PyTorch, MiB", "strongest PyTorch")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for r in rows:
        o, p, g = r["ours"], r["peers"][r["strongest"]], r["products"]
        memory = ["%.0f / %.0f" % tuple(x["process_peak_mib"] - start * x["process_start_mib"] for x in (o, p))
                  for start in (1, 0)]
        cells = (r["model"], r["threads"], "%.2f" % o["step_ms"][0], "%.2f" % p["step_ms"][0],
                 "**%.2f** (%.2f..%.2f)" % tuple(r["ratio"]), "**%.2f** (%.2f..%.2f)" % tuple(g["step_over_gemm"]),
                 "%.2f" % g["step_over_products"][0],
                 "%.2f / %.2f" % (o["share_of_peak_executed"], o["share_of_peak_nominal"]), *memory, r["strongest"])
        lines.append("| " + " | ".join(str(c) for c in cells) + " |")
    return "\n".join(lines)


def build_shim(folder):
    """The path of the compiled preload for MKL, or None where there is no compiler."""
    path = os.path.join(folder, "mkl_any_processor.so")
    source = os.path.join(HERE, "peers", "mkl_any_processor.c")
    done = subprocess.run(["cc", "-shared", "-fPIC", "-o", path, source], check=False)
    return path if done.returncode == 0 else None


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--step_bench", required=True)
    p.add_argument("--torch2", default="", help="Python of a virtual environment with PyTorch 2")
    p.add_argument("--torch1", default="/usr/bin/python3" if glob.glob("/usr/lib/python3/dist-packages/torch") else "",
                   help="Python with Debian's PyTorch 1.13; empty: leave it out")
    p.add_argument("--models", default="small,medium,vit,nano_decoder,nano_decoder:2,nano_vit:1,nano_vit",
                   help="names, each with :BATCH if not the model's own")
    p.add_argument("--threads", default="1,2")
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--pairs", type=int, default=9, help="of our step and its products")
    p.add_argument("--finalists", type=int, default=3)
    p.add_argument("--only", default="", help="part of the names of the variants to try")
    p.add_argument("--ours_env", action="append", default=[], metavar="NAME=VALUE", help="environment of ours")
    p.add_argument("--out", default="")
    args = p.parse_args()
    about, rows = machine(), []
    with tempfile.TemporaryDirectory(prefix="step_compare_") as folder:
        shim = build_shim(folder)
        for model in args.models.split(","):
            for threads in (int(t) for t in args.threads.split(",")):
                rows.append(compare(args, model, threads, shim))
                if args.out:
                    with open(args.out, "w") as f:
                        json.dump({"machine": about, "command": " ".join(sys.argv), "rows": rows}, f, indent=1)
    print("%(Model name)s, %(CPU(s))s processors, %(date)s, load %(load_at_start).1f; `" % about + " ".join(sys.argv) +
          "`\n")
    print(table(rows))


if __name__ == "__main__":
    main()
