"""Whole runs of tpo_dist as a user starts it. One test per function; see CMakeLists.txt. Exit 77 means: not here."""
import argparse
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from layouts import eight_layouts, two_hosts  # noqa: F401  tests by name
from public_weights import public_weights_and_back  # noqa: F401

ENV = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
           OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_hwloc_base_binding_policy="none", OMP_NUM_THREADS="1")

CONFIG = """
run {{ folder: "{folder}/run" seed: 11 }}
model {{
  preset: "nano"
  vision {{ image_size: 32 patch: 8 width: 32 heads: 2 depth: 1 mlp_hidden: 64 }}
  connector {{ merge: 1 }}
  language {{ width: 48 layers: 2 heads: 4 kv_heads: 2 head_dim: 12 mlp_hidden: 64 lora_rank: 4 lora_dropout: 0.1 }}
  region {{ hidden: 32 }}
}}
data {{
  tokenizer: "{folder}/world/tokenizer.model"
  sets {{ path: "{folder}/world/region-train" weight: 2 }}
  sets {{ path: "{folder}/world/conversation-train" weight: 1 }}
  eval_sets {{ path: "{folder}/world/region-heldout" }}
}}
train {{ steps: 10 microbatches_per_step: 4 samples_per_microbatch: 2 }}
optimizer {{ lr: 1e-3 }}
log {{ every: 1 peak_gflops: 100 }}
eval {{ samples: 2 pictures: 1 max_new_tokens: 8 }}
"""


class Bench:
    """A scratch folder with a small world, and ways to start the binary."""

    def __init__(self, args, world=True):
        self.exe, self.source, self.env = args.tpo_dist, args.source, ENV
        self.folder = tempfile.mkdtemp(prefix="tpo_e2e_")
        self.config = self.folder + "/c.textproto"
        with open(self.config, "w") as f:
            f.write(CONFIG.format(folder=self.folder))
        if world:
            self.ok(["data", "synth", "--out", self.folder + "/world", "--split", "train=40", "--split", "heldout=4",
                     "--vocab", "400"])
            self.ok(["data", "index", "--config", self.config])

    def close(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, words, ranks=1):
        return (["mpirun", "-n", str(ranks)] if ranks > 1 else []) + [self.exe] + words

    def run(self, words, ranks=1, **more):
        return subprocess.run(self.command(words, ranks), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, timeout=110, **more)

    def ok(self, words, ranks=1):
        r = self.run(words, ranks)
        assert r.returncode == 0, f"{words}: exit {r.returncode}\n{r.stdout}\n{r.stderr}"
        return r.stdout

    def fails(self, words, code, *parts):
        """One line on stderr (apart from the launcher's own) that holds every part, and this exit code."""
        r = self.run(words)
        assert r.returncode == code, f"{words}: exit {r.returncode}, wanted {code}\n{r.stdout}\n{r.stderr}"
        for part in parts:
            assert part in r.stderr, f"{words}: no '{part}' in\n{r.stderr}"
        assert r.stderr.count("tpo_dist: ") == 1, r.stderr
        return r.stderr

    def train(self, run, sets=(), ranks=1):
        words = ["train", "--config", self.config, "--set", f"run.folder={self.folder}/{run}"]
        for s in sets:
            words += ["--set", s]
        return words

    def log(self, run):
        with open(f"{self.folder}/{run}/log.jsonl") as f:
            return [json.loads(line) for line in f]

    def hash(self, run):
        return self.log(run)[-1]["parameter_hash"]


def wait_for(condition, what, seconds=60):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, f"timed out: {what}"
        time.sleep(0.02)


def resume_after_kill(b):
    """10 steps, and 5 + SIGKILL after the checkpoint + 5, give the same parameter hash; at 1, 2 and 4 ranks."""
    for ranks in (1, 2, 4):
        b.ok(b.train(f"straight{ranks}"), ranks)
        # Checkpoint at 5; killed somewhere after it, while step 6 or later runs.
        process = subprocess.Popen(b.command(b.train(f"killed{ranks}", ["checkpoint.every=5"]), ranks), env=ENV,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        saved = f"{b.folder}/killed{ranks}/checkpoints/step_00000005"
        wait_for(lambda: os.path.exists(saved) or process.poll() is not None, "checkpoint at step 5")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pid in subprocess.run(["pgrep", "-f", f"{b.folder}/killed{ranks}"], stdout=subprocess.PIPE, text=True).stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)  # ranks have sessions of their own
            except ProcessLookupError:
                pass
        # If it was quicker than the kill, only the checkpoint of step 5 counts.
        later = f"{b.folder}/killed{ranks}/checkpoints/step_00000010"
        if os.path.exists(later):
            shutil.rmtree(later)
            with open(f"{b.folder}/killed{ranks}/checkpoints/latest", "w") as f:
                f.write("step_00000005\n")
        out = b.ok(b.train(f"killed{ranks}", ["checkpoint.every=5"]), ranks)
        assert "continuing from" in out, out
        straight, killed = b.hash(f"straight{ranks}"), b.hash(f"killed{ranks}")
        print(ranks, "ranks:", straight, killed)
        assert straight == killed
        steps = [r["step"] for r in b.log(f"killed{ranks}") if r["kind"] == "train"]
        assert steps == list(range(1, 11)), steps


def values(folder):
    """All parameters of a checkpoint as one float64 vector, read with h5py."""
    import h5py
    import numpy
    out = {}
    for path in sorted(glob.glob(folder + "/*.h5")):
        with h5py.File(path, "r") as f:
            for name in f:
                if not name.startswith("optim."):
                    out[name] = numpy.asarray(f[name], dtype=numpy.float64).ravel()
    assert out, f"no shards in {folder}"
    return numpy.concatenate([out[k] for k in sorted(out)])


def ranks_agree(b):
    """2, 3 and 4 ranks equal one. Only the order of fp32 additions differs: a relative difference of the gradient of
    about 1e-6 (some tens of additions of 2^-24 each). AdamW divides by the gradient's own size, so a weight moves by at
    most lr = 1e-3 per step and differs by about lr * 1e-6 per step: 1e-8 after ten, plus the rounding of weights of size
    about 1, 1e-7. Where a gradient is itself near rounding a single weight may differ more. So: mean 1e-8, single value
    1e-5, a hundredth of one step."""
    import numpy
    result = {}
    for ranks in (1, 2, 3, 4):
        b.ok(b.train(f"r{ranks}"), ranks)
        result[ranks] = values(f"{b.folder}/r{ranks}/checkpoints/step_00000010")
    for ranks in (2, 3, 4):
        d = numpy.abs(result[ranks] - result[1])
        print(ranks, "ranks: mean", d.mean(), "max", d.max())
        assert d.mean() < 1e-8 and d.max() < 1e-5
        one = [r["lm"] for r in b.log("r1") if r["kind"] == "train"]
        many = [r["lm"] for r in b.log(f"r{ranks}") if r["kind"] == "train"]
        assert max(abs(x - y) / x for x, y in zip(one, many)) < 1e-4
        # The norm before clipping shows a wrong scale of the gradient, which AdamW would hide.
        one, many = ([r["grad_norm"] for r in b.log(run) if r["kind"] == "train"] for run in ("r1", f"r{ranks}"))
        assert max(abs(x - y) / x for x, y in zip(one, many)) < 1e-3, (one, many)
    # A checkpoint of one world continues in another.
    shutil.copytree(b.folder + "/r4", b.folder + "/r4to1")
    out = b.ok(b.train("r4to1", ["train.steps=12"]))
    assert "continuing from" in out and "step 12/12" in out, out


def sigterm_saves_and_stops(b):
    """The profile of a run that is stopped is of the steps it did; the run that continues makes its own."""
    for ranks in (1, 2):
        run = f"term{ranks}"
        words = b.train(run, ["train.steps=100000", "profile.steps=1000", "profile.first_step=0"])
        process = subprocess.Popen(b.command(words, ranks), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True)
        path = f"{b.folder}/{run}/log.jsonl"
        wait_for(lambda: os.path.exists(path) and os.path.getsize(path) > 0, "first step")
        if ranks == 1:
            process.send_signal(signal.SIGTERM)
        else:
            process.send_signal(signal.SIGUSR1)  # mpirun forwards it to every rank
        out = process.communicate(timeout=60)[0]
        assert process.returncode == 75, (process.returncode, out)
        step = b.log(run)[-1]["step"]
        assert os.path.exists(f"{b.folder}/{run}/checkpoints/step_{step:08d}"), out
        profile = f"{b.folder}/{run}/profile"
        with open(profile + "/table.json") as f:
            assert json.load(f)["steps"] == min(step, 1000), out
        assert len(glob.glob(profile + "/trace_rank*.json")) == ranks
        again = b.ok(b.train(run, [f"train.steps={step + 2}", "profile.steps=1"]), ranks)
        with open(profile + "/table.json") as f:
            assert json.load(f)["first_step"] == step + 1, again
        assert again.count("profile of rank 0") == 1, again
        assert f"continuing from {b.folder}/{run}/checkpoints/step_{step:08d}" in again, again


def dead_rank_ends_the_world(b):
    """A rank that is killed, and one that fails by itself, end the others within seconds; never a hang."""
    process = subprocess.Popen(b.command(b.train("dead", ["train.steps=100000"]), 2), env=ENV, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    path = f"{b.folder}/dead/log.jsonl"
    wait_for(lambda: os.path.exists(path) and os.path.getsize(path) > 0, "first step")
    pids = subprocess.run(["pgrep", "-f", f"{b.exe} train.*{b.folder}/dead"], stdout=subprocess.PIPE, text=True).stdout.split()
    ranks = [int(p) for p in pids if int(p) != process.pid]
    os.kill(ranks[-1], signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode != 0
    # A damaged record that only one rank reads.
    shard = glob.glob(b.folder + "/world/region-train/*.h5")[0]
    with open(shard, "r+b") as f:
        f.seek(os.path.getsize(shard) // 2)
        byte = f.read(1)
        f.seek(-1, 1)
        f.write(bytes([byte[0] ^ 0xFF]))
    begin = time.time()
    r = b.run(b.train("damaged", ["train.steps=200"]), ranks=2)
    assert r.returncode == 3, (r.returncode, r.stderr)
    assert re.search(r"rank \d of 2: step \d+, load: .*record \d+", r.stderr), r.stderr
    assert time.time() - begin < 60


def bad_input_is_one_clear_error(b):
    e = b.fails(b.train("x", ["train.stepz=3", "optimizer.lr=-1", "train.steps=many"]), 2,
                "3 errors", "did you mean steps?", "optimizer.lr = -1 is out of range", "'many' is not a whole number")
    assert "legal" in e
    b.fails(["train", "--config", "/nonexistent"], 2, "/nonexistent")
    b.fails(["train"], 2, "--config")
    b.fails(["train", "--confg", "x"], 2, "--confg", "--config")
    b.fails(["trian"], 2, "did you mean train?")
    b.fails(b.train("x", ["data.tokenizer=/nonexistent.model"]), 3, "/nonexistent.model")
    b.fails(b.train("x", ["data.sets.0.path=/nonexistent"]), 3, "/nonexistent")
    b.fails(b.train("x", ["data.max_tokens=500"]), 3, "length index", "tpo_dist data index")
    b.fails(b.train("x", ["model.language.heads=5"]), 2, "heads")
    b.fails(b.train("x", ["train.freeze.0=nothing.*"]), 2, "nothing.*", "matches no parameter")
    b.fails(["plan", "--config", b.config, "--shape", "data", "--set", "data.max_tokens=500"], 3, "length index")
    b.fails(["plan", "--config", b.config, "--shape", "limits", "--media", "100"], 2, "--media", "data.max_tokens")
    b.fails(["plan", "--config", b.config, "--media", "2"], 2, "--media", "--shape limits")
    b.fails(["eval", "--checkpoint", b.folder], 3, b.folder)
    b.fails(["predict", "--checkpoint", b.folder, "--prompt", "x", "--out", "y.png"], 2, "--image")
    assert not os.path.exists(b.folder + "/x/checkpoints"), "an error must come before anything is made"
    b.ok(b.train("first", ["train.steps=2"]))
    b.fails(b.train("first", ["train.steps=4", "checkpoint.resume=never"]), 2, "checkpoint.resume")
    b.fails(b.train("first", ["train.steps=4", "model.language.layers=3"]), 2, "layers: 3", "checkpoint.init_from")
    shard = glob.glob(b.folder + "/first/checkpoints/step_00000002/*.h5")[0]
    with open(shard, "r+b") as f:
        f.seek(os.path.getsize(shard) // 2)
        byte = f.read(1)
        f.seek(-1, 1)
        f.write(bytes([byte[0] ^ 1]))
    b.fails(b.train("first", ["train.steps=4"]), 3, "step_00000002", "no other checkpoint of this run can be read")
    assert b.run(["ckpt", "verify", b.folder + "/first/checkpoints/step_00000002"]).returncode == 3
    b.ok(b.train("second", ["train.steps=4", "checkpoint.every=2"]))
    newest = b.folder + "/second/checkpoints/step_00000004"
    os.remove(glob.glob(newest + "/*.h5")[0])
    b.fails(b.train("second", ["train.steps=6"]), 3, "is missing", "step_00000002, move " + newest)
    os.rename(newest, b.folder + "/damaged")
    assert "continuing from " + newest.replace("step_00000004", "step_00000002") in b.ok(b.train("second", ["train.steps=6"]))
    r = subprocess.run(["bash", "-c", 'ulimit -f 100; exec "$@"', "bash"] + b.command(b.train("small", ["train.steps=2"])),
                       env=ENV, stderr=subprocess.PIPE, text=True)
    assert r.returncode == 5 and "File too large" in r.stderr, (r.returncode, r.stderr)


FLAGS = {
    "train": {"config", "set", "help-config", "help"},
    "eval": {"checkpoint", "dataset", "pictures", "set", "help"},
    "predict": {"checkpoint", "image", "prompt", "box", "out", "max_new_tokens", "set", "help"},
    "plan": {"config", "set", "ranks", "shape", "media", "vocab", "json", "help"},
    "data synth": {"out", "split", "seed", "format", "vocab", "size", "turns", "region_questions", "grid", "colours", "shapes",
                   "sizes", "dataset", "unique", "min_objects", "max_objects", "help"},
    "data inspect": {"first", "count", "id", "config", "set", "draw", "columns", "width", "help"},
    "report": {"help"},
    "bench overlap": {"config", "preset", "set", "microbatches", "compute_ms", "steps", "rows", "json", "help"},
    "bench comm": {"min", "max", "factor", "sizes", "ops", "groups", "dtype", "iterations", "seconds", "json", "help"},
    "doctor": {"config", "set", "folder", "threads", "parameters", "json", "help"},
    "ckpt ls": {"help"},
    "ckpt verify": {"help"},
    "ckpt diff": {"help"},
}


def help_and_flags_are_frozen(b):
    top = b.ok(["--help"])
    for command in ("train", "eval", "predict", "plan", "data", "ckpt", "report", "bench", "doctor"):
        assert f"  {command}" in top
    for command, flags in FLAGS.items():
        text = b.ok(command.split() + ["--help"])
        assert "xample" in text, text
        listed = set(re.findall(r"--([a-z_-]+)", text.split("xample")[0])) | {"help"}
        assert listed == flags, (command, listed ^ flags)
    assert "optimizer.lr  double" in b.ok(["train", "--help-config"])
    assert "inspect" in b.ok(["--minloglevel=1", "--v=1", "data", "--help"])
    b.fails(["--minloglevle=1", "data", "--help"], 2, "unknown flag --minloglevle")
    b.fails(["--minloglevel=loud", "data", "--help"], 2, "must be of type int32")


def bench_comm(b):
    """Alone, and on 2 and 3 ranks beside MPI: every operation and size is there, with figures that fit each other."""
    def bench(ranks, *more):
        file = b.folder + "/comm.json"
        out = b.ok(["bench", "comm", "--sizes", "8,5000,1536K", "--iterations", "3", "--json", file, *more], ranks)
        with open(file) as f:
            return out, json.load(f)
    out, one = bench(1)
    assert "nobody to talk to" in out and [line["op"] for line in one["lines"]] == ["copy"] * 3, out
    for ranks, dtype in ((2, "f32"), (3, "i64")):
        out, all = bench(ranks, "--dtype", dtype)
        assert all["ranks"] == ranks and all["nodes"] == 1 and "MPI_THREAD_" in out, out
        ops = ["all_reduce", "reduce_scatter", "all_gather", "broadcast", "ping_pong", "exchange"]
        assert sorted(line["op"] for line in all["lines"]) == sorted(ops * 3 + ["barrier"]), all
        for line in all["lines"]:
            by = {t["by"]: t for t in line["times"]}
            assert {"ours", "mpi"} <= set(by) and ("ours shared" in by) == (line["op"] != "barrier"), line
            assert ("mpi 1 MiB" in by) == (line["bytes"] > 1 << 20 and line["op"] in ops[:4]), line
            for t in by.values():
                assert 0 < t["min_us"] <= t["median_us"] <= t["p99_us"], line
                assert abs(t["algorithm_gb_s"] * t["median_us"] * 1e3 - line["bytes"]) <= 1e-6 * line["bytes"], line
            factor = {"all_reduce": 2 * (ranks - 1) / ranks, "all_gather": (ranks - 1) / ranks}.get(line["op"])
            if factor:
                assert abs(by["mpi"]["bus_gb_s"] / by["mpi"]["algorithm_gb_s"] - factor) < 1e-6, line
    b.fails(["bench", "comm", "--ops", "allreduce"], 2, "'allreduce'", "all_reduce")
    b.fails(["bench", "comm", "--sizes", "8,5X"], 2, "'5X' is not a size")
    b.fails(["bench", "com"], 2, "did you mean comm?")


def doctor(b):
    """Alone and on 3 ranks it says something about everything; a folder that is none, and srun without PMI, are FAIL."""
    file = b.folder + "/doctor.json"
    for ranks in (1, 3):
        out = b.ok(["doctor", "--config", b.config, "--set", "run.threads=2", "--json", file], ranks)
        with open(file) as f:
            all = json.load(f)
        assert [f["rank"] for f in all["ranks"]] == list(range(ranks)) and all["ranks"][0]["threads"] == 2, all
        assert all["ranks"][0]["folder"] == b.folder, all
        checks = {f["check"] for f in all["findings"]}
        assert {"mpi", "binding", "blas", "shared memory", "file locking", "gpu"} <= checks, checks
        for f in all["findings"]:
            assert bool(f["remedy"]) == (f["level"] != "OK") and f["fact"] in out, f
        assert " 0 FAIL" in out, out
    assert not glob.glob(b.folder + "/.tpo_doctor*")
    r = b.run(["doctor", "--folder", b.folder + "/none"])
    assert r.returncode == 5 and "FAIL  folder" in r.stdout and "-> name a folder" in r.stdout, r
    words = b.command(["doctor", "--folder", b.folder])
    for task, speaks in (("0", True), ("1", False)):
        env = dict(ENV, SLURM_STEP_NUM_TASKS="2", SLURM_PROCID=task)
        r = subprocess.run(words, env=env, stdout=subprocess.PIPE, text=True, timeout=60)
        assert r.returncode == 5 and ("srun --mpi=pmix" in r.stdout) == speaks, r


def plan_with_and_without_data(b):
    """What a plan says before anything is there, and from the data against what a run then uses."""
    def plan(*more):
        out = b.ok(["plan", "--config", b.config, "--json", b.folder + "/plan.json", *more])
        with open(b.folder + "/plan.json") as f:
            return out, json.load(f)
    out, limits = plan("--set", "data.tokenizer=/nonexistent.model", "--ranks", "4")
    assert "limits of the configuration" in out and "vocabulary 1024 (preset nano; there is no /nonexistent.model)" in out, out
    assert limits["microbatches_of_a_rank"] == 1
    out, cut = plan("--ranks", "4", "--set", "layout.tensor=2")
    assert "over 4 rank(s), data 2 x tensor 2, at most 2 one after the other" in out, out
    assert [cut[k] for k in ("ranks", "data", "tensor", "microbatches_of_a_rank")] == [4, 2, 2, 2], cut
    b.fails(["plan", "--config", b.config, "--ranks", "3", "--set", "layout.tensor=2"], 2, "tensor 2", "start 2 ranks")
    b.fails(["plan", "--config", b.config, "--ranks", "4", "--set", "layout.data=2"], 2, "start 2 ranks")
    out, data = plan()
    assert "from its length index" in out and "tokenizer.model)" in out, out
    assert "GFLOP, at most" in out and "6 x head width" in out, out
    none, selective, full = (data["by_recompute"][mode] for mode in ("none", "selective", "full"))
    assert none["step_flops"] < selective["step_flops"] < full["step_flops"], data
    for mode in (none, selective, full):
        assert sum(mode["by_kind"].values()) == mode["peak_bytes"] == max(p["peak_bytes"] for p in mode["phases"].values())
    assert none["peak_bytes"] < limits["by_recompute"]["none"]["peak_bytes"]
    b.ok(b.train("run"))
    end = [json.loads(line) for line in open(b.folder + "/run/log.jsonl")][-1]
    assert 0.7 * none["peak_bytes"] <= end["tensor_peak_bytes"] <= none["peak_bytes"], (none, end)


def predict_and_report(b):
    out = b.ok(b.train("p"))
    assert re.search(r"step 10/10  text [\d.]+  region [\d.]+ .*tokens/s .*images/s .*GFLOP/s .*loader wait .*exposed comm", out), out
    run = b.folder + "/p"
    for name in ("config.textproto", "log.jsonl", "report.html"):
        assert os.path.getsize(f"{run}/{name}") > 0
    assert glob.glob(run + "/pictures/*.png")
    end = [json.loads(line) for line in open(run + "/log.jsonl")][-1]
    known = end["allocator_held_peak_bytes"] + end["baseline_bytes"]
    # Nothing large is held that nobody accounts for. A run this small has 2 MiB of evaluation and report on top.
    assert end["process_peak_bytes"] <= max(1.05 * known, known + (4 << 20)), end
    image = b.folder + "/one.png"
    b.ok(["data", "inspect", b.folder + "/world/region-heldout", "--count", "1", "--draw", image])
    out = b.ok(["predict", "--checkpoint", run, "--image", image, "--prompt", "Where is the red circle?", "--out",
                b.folder + "/answer.png", "--max_new_tokens", "6"])
    assert os.path.getsize(b.folder + "/answer.png") > 0 and "drawn to" in out
    out = b.ok(["predict", "--checkpoint", run, "--image", image, "--prompt", "What is in <track_box>?", "--box",
                "0.1,0.1,0.5,0.5"])
    b.fails(["predict", "--checkpoint", run, "--image", image, "--prompt", "In <track_box>?", "--box", "2,0,1,1"], 2, "--box")
    listing = b.ok(["ckpt", "ls", run])
    assert "step 10" in listing and "(latest)" in listing, listing
    assert "sound" in b.ok(["ckpt", "verify", run + "/checkpoints/step_00000010"])
    assert "equal" in b.ok(["ckpt", "diff", run, run + "/checkpoints/step_00000010"])
    one, two = b.ok(["eval", "--checkpoint", run]), b.ok(["eval", "--checkpoint", run], 2)
    assert one == two and "best constant box" in one, (one, two)


def real_photographs(b):
    """Imports, trains on and predicts on real pictures, where the folder of real data is beside the source tree."""
    shared = os.path.join(b.source, "..", "shared", "data")
    real = shared + "/real-mini"
    if not os.path.isdir(real):
        print("no", real)
        sys.exit(77)
    index = ["--image_index", real + "/coco-image-index.json"]
    coco = real + "/coco-mini/"
    imports = {
        "refcocos": ["refcocos", real + "/refcocos/refcocos_test.present.json", "--on_error", "skip"] + index,
        "instances": ["coco-instances", coco + "annotations/instances_train2017.json", "--image_root", coco + "train2017",
                      "--on_error", "skip"],
        "captions": ["coco-captions", coco + "annotations/captions_train2017.json", "--image_root", coco + "train2017"],
        "llava": ["llava", real + "/llama-factory-demo/mllm_demo.json"],
        "reasoning": ["llava", real + "/videochat-llava-NC/llava_complex_reasoning_4k.present.json"] + index,
    }
    sets = [f"data.tokenizer={shared}/tokenizers/mistral-7b-instruct-v0.2.model", "train.steps=6",
            "train.microbatches_per_step=5", f"data.eval_sets.0.path={b.folder}/refcocos"]
    for i, (name, words) in enumerate(imports.items()):
        print(b.ok(["data", "import"] + words + ["--out", f"{b.folder}/{name}"]).strip().splitlines()[-1])
        sets.append(f"data.sets.{i}.path={b.folder}/{name}")
    print(b.ok(["data", "verify"] + [f"{b.folder}/{name}" for name in imports]).strip().splitlines()[-1])
    b.ok(["data", "index", "--config", b.config] + [w for s in sets for w in ("--set", s)])
    b.ok(b.train("real", sets), 2)
    losses = [r["lm"] for r in b.log("real") if r["kind"] == "train"]
    assert losses[-1] < losses[0], losses
    picture = sorted(glob.glob(coco + "val2017/*.jpg"))[0]
    out = b.ok(["predict", "--checkpoint", b.folder + "/real", "--image", picture, "--prompt", "Where is the person?",
                "--out", b.folder + "/drawn.png", "--max_new_tokens", "4"])
    assert "drawn to" in out and os.path.getsize(b.folder + "/drawn.png") > 10000


def main():
    p = argparse.ArgumentParser()
    p.add_argument("test")
    p.add_argument("--tpo_dist", required=True)
    p.add_argument("--source", required=True)
    args = p.parse_args()
    b = Bench(args)
    try:
        globals()[args.test](b)
    finally:
        b.close()


if __name__ == "__main__":
    main()
