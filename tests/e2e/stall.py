"""Drills of the guard. drills: a rank of a real run is made to misbehave (TPO_FAULT), and standard error must name it,
the operation and the tensor within 5 s; by hand --faults 80 (and --kinds, --layouts). box: what a black box holds.
early: notes of slow phases and first steps. stops: several stopped ranks, also of two hosts. healthy: --steps without a word.

The oracle is a run without a fault that logs every collective: number n of a group is the same operation in every run.
The rank must be late in the first collective that it had not issued when the fault came, or stand still in one that it had. Who
leaves out one of several equal operations is late in the last of them.
"""
import argparse
import glob
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import e2e

LIMIT_S = 5.0  # of the issue, from the fault to the line
KINDS = ("kill", "sigstop", "delay", "skip", "size", "loader", "crash", "throw")
ZERO, TENSOR = "layout.zero=3", "layout.tensor=2"
BOTH = (TENSOR, ZERO, "layout.sequence_parallel=true")
# name: ranks, hosts, settings
LAYOUTS = {"two": (2, "", ()), "three": (3, "", ()), "zero": (2, "", (ZERO,)), "tensor": (2, "", (TENSOR,)),
           "both": (4, "", BOTH), "hosts": (4, "2,2", ()), "hosts_zero": (4, "2,2", (ZERO,))}
PHASES = ("load", "forward", "backward", "reduce", "optimizer")
LATE = re.compile(r"rank (\d+) \(.*?\) (has not entered|stands still in) (\w+) #(\d+) of '(.*?)' of group (\S+), (?:where|which)")
ODD = re.compile(r"ranks disagree in group (\S+): rank (\d+) .*?is in \w+ #(\d+) of .* but ranks? [\d, -]+ (?:is|are) in (\w+) #(\d+) of '(.*?)'")
FAULT = re.compile(r"tpo_dist fault: rank (\d+) step \d+ (\w+) (.*) at ([\d.]+); next:(.*)")


def rank_pids(folder):
    """Processes of the run: mpirun, ranks; not the guard, which has another command line."""
    out = subprocess.run(["pgrep", "-f", f"run.folder={folder}( |$)"], stdout=subprocess.PIPE, text=True).stdout
    return [int(p) for p in out.split()]


def kill_all(folder):
    for pid in rank_pids(folder):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


class Run:
    """A run in the background whose standard error is read line by line, with the time of each."""

    def __init__(self, b, name, ranks, sets, fault=None, hosts=""):
        self.folder = f"{b.folder}/{name}"
        env = dict(e2e.ENV, **({"TPO_FAULT": fault} if fault else {}))
        words = b.train(name, ["log.every=100000", "eval.samples=1", "eval.pictures=0"] + sets)
        command = [b.source + "/scripts/hosts.sh", hosts, "mpirun", b.exe] + words if hosts else b.command(words, ranks)
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True)
        self.lines = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stderr:
            self.lines.append((time.time(), line.rstrip()))

    def find(self, condition, seconds):
        """The first line for which condition gives something, as (time, that); None after so long."""
        end = time.time() + seconds
        while True:
            over = time.time() > end or (self.process.poll() is not None and not self.reader.is_alive())
            for at, line in list(self.lines):
                if found := condition(line):
                    return at, found
            if over:
                return None
            time.sleep(0.02)

    def stop(self):
        kill_all(self.folder)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join(5)

    def text(self):
        return "\n".join(line for _, line in self.lines)


def record(b, layout):
    """Of a healthy run of a layout, for each rank: (group, number) -> (operation, name, size). None: not here."""
    ranks, hosts, sets = LAYOUTS[layout]
    log = f"{b.folder}/ops_{layout}"
    run = Run(b, f"healthy_{layout}", ranks, ["train.steps=20", *sets], f"kind=none,log={log}", hosts)
    try:
        run.process.wait(100)
        run.reader.join(5)
    finally:
        run.stop()
    if run.process.returncode == 77:
        return None
    assert run.process.returncode == 0 and alarms(run) == [], run.text()
    ops = []
    for rank in range(ranks):
        with open(f"{log}.{rank}") as f:
            rows = [line.rstrip("\n").split("\t") for line in f]
        ops.append({(group, int(seq)): (op, what, int(count)) for group, seq, op, what, count in rows})
    return ops


def verdict(line):
    """(rank, group, number, operation, name, whether the rank had entered) of a line of the guard."""
    if m := LATE.search(line):
        return int(m[1]), m[6], int(m[4]), m[3], m[5], m[2] == "stands still in"
    if m := ODD.search(line):
        return int(m[2]), m[1], int(m[5]), m[4], m[6], False
    return None


def drill(b, number, rng, kind, layout, ops):
    """One fault; returns (seconds or None, why it is wrong or empty)."""
    ranks, hosts, sets = LAYOUTS[layout]
    rank, step = rng.randrange(ranks), rng.randrange(4, 9)
    fault = f"rank={rank},step={step},kind={kind},seconds=7,op={rng.randrange(40 if sets else 8)}"
    if kind not in ("skip", "size", "loader"):
        fault += f",phase={rng.choice(PHASES)}"
    run = Run(b, f"fault{number}", ranks, ["train.steps=1000000", *sets], fault, hosts)
    ops = ops[rank]
    fault = f"{layout} {fault}"
    try:
        begun = run.find(FAULT.search, 60)
        if not begun:
            return fault, None, "no fault: " + run.text()
        match = begun[1]
        told = run.find(lambda line: verdict(line) if "tpo_dist guard" in line else None, 12)
        if not told:
            return fault, None, "nothing was told: " + run.text()
        seconds = told[0] - float(match[4])
        who, group, seq, op, what, inside = told[1]
        where = dict((g, int(n)) for g, n in re.findall(r"(\S+) #(\d+)", match[5]))
        wrong = []
        if who != rank:
            wrong.append(f"rank {who}")
        at = where.get(group, -1)
        while kind == "skip" and (group, at + 1) in ops and ops[group, at] == ops[group, at + 1]:
            at += 1
        if kind != "loader" and not (at - 10 < seq < at if inside else seq == at):
            wrong.append(f"#{seq} of {group}, next were {where}")
        known = ops.get((group, seq))
        if known is not None and (known[0] != op or known[1][:87] != what):
            wrong.append(f"{op} '{what}', it is {known}")
        if kind == "loader" and "data loader" not in run.text():
            wrong.append("not in the loader")
        if seconds > LIMIT_S:
            wrong.append(f"after {seconds:.1f} s")
        # A collective left out ends in a stall if the next one is of another group.
        ended = kind in ("kill", "crash", "throw", "size") or "disagree" in run.text()
        if ended and not run.find(lambda x: "black box: " in x, 10):
            wrong.append("no black box")
        return fault, seconds, (", ".join(wrong) + "\n" + run.text()) if wrong else ""
    finally:
        run.stop()
        shutil.rmtree(run.folder, ignore_errors=True)


def drills(b, args):
    rng = random.Random(args.seed)
    ops = {}
    failed, times = 0, []
    for number in range(args.faults):
        kind, layout = args.kinds[number % len(args.kinds)], args.layouts[number % len(args.layouts)]
        if layout not in ops:
            ops[layout] = record(b, layout)
        if ops[layout] is None:
            print("skipped", layout, "which this machine cannot run")
            continue
        fault, seconds, wrong = drill(b, number, rng, kind, layout, ops[layout])
        print("wrong" if wrong else "right", fault, "-" if seconds is None else f"{seconds:.2f} s", wrong, flush=True)
        failed += bool(wrong)
        if seconds is not None:
            times.append(seconds)
    print(f"{args.faults - failed} of {args.faults} named within {LIMIT_S} s; slowest {max(times):.2f} s", flush=True)
    assert failed <= args.faults * 0.05, "fewer than 95 % were named"


def alarms(run):
    return [line for _, line in run.lines if "tpo_dist guard: " in line and "guard: note: " not in line]


def early(b, args):
    """Where an alarm comes after minutes, a note says within 5 s what is waited for: once, and that it is over."""
    for phase, step, sets in (("forward", 1, []), ("checkpoint", 3, ["checkpoint.every=3"]), ("evaluation", 2, ["eval.every=2"])):
        fault = f"rank=1,step={step},kind=delay,phase={phase},seconds=6.5"
        run = Run(b, "early_" + phase, 2, ["train.steps=40", *sets], fault)
        try:
            run.process.wait(100)
            run.reader.join(5)
        finally:
            run.stop()
        assert run.process.returncode == 0 and alarms(run) == [], run.text()
        begun = run.find(FAULT.search, 0)
        told = re.compile(rf"note: rank 1 \(.*, step {step}, {phase}\) has not entered .*rank 0 waits")
        notes = [(at - float(begun[1][4]), line) for at, line in run.lines if told.search(line)]
        over = re.search(r"note: over after ([\d.]+) s: rank 1", run.text())
        assert len(notes) == 1 and notes[0][0] < LIMIT_S and over and float(over[1]) > 6, run.text()
        print("note after %.2f s:" % notes[0][0], notes[0][1])


def stops(b, args):
    """A stopped rank is told once, by one supervisor, and resolved once it runs on; on one host and on two."""
    for ranks, hosts in ((3, ""), (4, "2,2")):
        run = Run(b, f"stops{ranks}", ranks, ["train.steps=1000000"], f"rank={ranks - 1},step=4,kind=sigstop,phase=forward", hosts)
        try:
            begun = run.find(FAULT.search, 60)
            if not begun and run.process.poll() == 77:
                print("skipped", hosts, "which this machine cannot run")
                continue
            told = run.find(lambda line: re.search(r"guard: rank (\d+) .*; it is stopped.* -CONT (\d+)", line), 8)
            assert told and int(told[1][1]) == ranks - 1, run.text()
            assert told[0] - float(begun[1][4]) < LIMIT_S, run.text()
            time.sleep(4)
            assert len(alarms(run)) == 1, run.text()
            os.kill(int(told[1][2]), signal.SIGCONT)
            assert run.find(lambda line: f"guard: resolved after" in line and f"rank {ranks - 1}," in line, 8), run.text()
            time.sleep(1)
            assert len(alarms(run)) == 2, run.text()
        finally:
            run.stop()


def box(b, args):
    """What a black box holds after an error of one rank; none after a normal end and a clean stop."""
    sets = ["optimizer.lr=0.25", "train.samples_per_microbatch=16"]
    run = Run(b, "error", 2, sets, "rank=1,step=6,kind=throw,phase=backward")
    run.process.wait(60)
    run.reader.join(5)
    assert run.process.returncode == 3 and "step 6, backward: a drill" in run.text(), run.text()
    boxes = glob.glob(b.folder + "/error/blackbox_*")
    assert len(boxes) == 1 and "black box: " + boxes[0] in run.text(), run.text()
    for rank in (0, 1):
        path = f"{boxes[0]}/rank_{rank}.txt"
        with open(path) as f:
            text = f.read()
        assert os.path.getsize(path) <= 200000
        ids = {}
        for step, line in re.findall(r"^step (\d+): (.*)$", text.split("samples of the last steps")[1], re.M):
            ids.setdefault(int(step), []).extend(line.split(", "))
        for step in range(1, 7):  # two microbatches of 16 a rank, each id whole
            assert len(ids[step]) == 32 and all(re.fullmatch(r"train-(region|conversation)-\d+", i) for i in ids[step]), ids[step]
        assert "issued all_reduce #" in text
    with open(boxes[0] + "/config.textproto") as f:
        assert "lr: 0.25" in f.read()
    b.ok(b.train("good"), 2)
    process = subprocess.Popen(b.command(b.train("stopped", ["train.steps=1000000"]), 2), env=e2e.ENV,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    e2e.wait_for(lambda: os.path.exists(b.folder + "/stopped/log.jsonl"), "start")
    process.send_signal(signal.SIGUSR1)
    assert process.communicate(timeout=60) and process.returncode == 75
    assert not glob.glob(b.folder + "/good/blackbox_*") + glob.glob(b.folder + "/stopped/blackbox_*")
    private = f"/dev/shm/tpo_guard.{os.getuid()}"
    e2e.wait_for(lambda: not os.path.isdir(private) or not os.listdir(private), "the rings are gone", 10)


def healthy(b, args):
    """Many fast steps without a word from the guard."""
    small = ["train.microbatches_per_step=2", "train.samples_per_microbatch=1", "eval.samples=1", "guard.stall_seconds=4"]
    run = Run(b, "healthy", 2, [f"train.steps={args.steps}"] + small)
    try:
        run.process.wait(args.steps * 0.2 + 60)
        run.reader.join(5)
    finally:
        run.stop()
    assert run.process.returncode == 0 and alarms(run) == [], run.text()
    print(args.steps, "steps without an alarm")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("test", choices=("drills", "early", "stops", "box", "healthy"))
    p.add_argument("--tpo_dist", required=True)
    p.add_argument("--source", required=True)
    p.add_argument("--faults", type=int, default=8)
    p.add_argument("--steps", type=int, default=1000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    p.add_argument("--layouts", nargs="*", default=list(LAYOUTS), choices=LAYOUTS)
    args = p.parse_args()
    b = e2e.Bench(args)
    try:
        {"drills": drills, "early": early, "stops": stops, "box": box, "healthy": healthy}[args.test](b, args)
    finally:
        kill_all(b.folder + "/[a-z0-9]*")
        b.close()


if __name__ == "__main__":
    main()
