"""Test of e2e.py: the README's way from public weights through three stages and back, line by line, at small size."""
import glob
import json
import os
import re
import shutil
import subprocess
import sys

LLAVA = "llava-onevision-qwen2-7b-ov"
LAYOUTS = {"VideoChat-TPO": "videochat_tpo", "VideoChat2_stage3_Mistral_7B": "videochat2_mistral",
           "Mistral-7B-Instruct-v0.2": "mistral", LLAVA: "llava_ov"}
ADAPTERS = r"language\..*\.lora_[ab]"


def commands_of(readme):
    text = readme[readme.index("## From public checkpoints"):]
    text = text[:text.index("\n## ")]
    blocks = re.findall(r"```\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def tensors(folder):
    """{name: fp32 values} of the newest checkpoint in a folder."""
    import h5py
    import numpy
    out = {}
    with open(folder + "/latest") as f:
        newest = folder + "/" + f.read().strip()
    for path in sorted(glob.glob(newest + "/*.h5")):
        with h5py.File(path, "r") as f:
            for name in f:
                if not name.startswith("optim."):
                    v = numpy.asarray(f[name])
                    v = (v.astype(numpy.uint32) << 16).view(numpy.float32) if v.dtype == numpy.uint16 else v
                    out.setdefault(name.split("@")[0], []).append(v.ravel())
    return {name: numpy.concatenate(parts) for name, parts in out.items()}


def changed(before, after):
    """Names whose values differ; those that only one has are no part of it, nor biases of keys: softmax takes what is
    common to all keys away, so their gradient is rounding."""
    return {n for n in after if n in before and before[n].tobytes() != after[n].tobytes() and not n.endswith(".k.bias")}


def prepare(b):
    """In b.folder: public weights at the small sizes, their tokenizers, the examples with those sizes and few steps."""
    generator = [sys.executable, b.source + "/tests/checkpoint/official_layout.py"]
    for name, layout in LAYOUTS.items():
        subprocess.check_call(generator + [f"{b.folder}/weights/{name}", "--layout", layout, "--values", "normal",
                                           "--shard-bytes", "150000"])
        if name == LLAVA:
            shutil.copy(b.source + "/tests/data/fixtures/tokenizers/qwen2.json",
                        f"{b.folder}/weights/{name}/tokenizer.json")
        else:
            os.link(b.folder + "/world/tokenizer.model", f"{b.folder}/weights/{name}/tokenizer.model")
    os.makedirs(b.folder + "/examples")
    for example, sizes in (("videochat_tpo_7b", "official_nano"), ("llava_ov_tpo_7b", "official_nano_llava")):
        with open(f"{b.source}/tests/checkpoint/{sizes}.textproto") as f:
            sizes = f.read()
        with open(f"{b.source}/examples/{example}.textproto") as f:
            text = f.read()
        for old, new in ((f'model {{ preset: "{example}" }}', sizes), ("steps: 1172 microbatches_per_step: 64",
                                                                     "steps: 4 microbatches_per_step: 4")):
            assert old in text, old
            text = text.replace(old, new)
        with open(f"{b.folder}/examples/{example}.textproto", "w") as f:
            f.write(text)


def files(folder):
    out = {}
    for path in glob.glob(folder + "/*.safetensors"):
        with open(path, "rb") as f:
            out[os.path.basename(path)] = f.read()
    return out


def public_tensors(data):
    """{name: bytes} of a safetensors file."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    return {name: data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]]
            for name, t in header.items() if name != "__metadata__"}


def public_weights_and_back(b):
    prepare(b)
    with open(b.source + "/README.md") as f:
        lines = commands_of(f.read())
    assert len(lines) == 14, lines
    env = dict(b.env, PATH=os.path.dirname(b.exe) + ":" + os.environ["PATH"])
    for line in lines:
        r = subprocess.run(["bash", "-c", line], cwd=b.folder, env=env, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, timeout=110)
        assert r.returncode == 0, f"{line}\n{r.stdout}"
    start, other = tensors(b.folder + "/weights/start"), tensors(b.folder + "/weights/videochat2")
    runs = ("videochat_tpo_7b/stage1", "videochat_tpo_7b/stage2", "videochat_tpo_7b/stage3", "from_videochat2/stage1")
    one, two, three, fresh = (tensors(f"{b.folder}/runs/{n}/checkpoints") for n in runs)
    every = set(one)
    assert set(start) == every and len(every) > 100
    adapters = {n for n in every if re.fullmatch(ADAPTERS, n)}
    region = {n for n in every if n.startswith("heads.region.")} | {"task_tokens.box"}
    # What no sample here uses keeps its bits: texts of the Q-Former, boxes in questions, the other tasks' tokens.
    seen = {n for n in every if n.startswith(("vision.", "connector.")) and ".text_" not in n
            and "_embeddings." not in n and not n.endswith(".k.bias")}
    for what, have, want in (("stage 1", changed(start, one), adapters),
                             ("stage 2", changed(one, two), adapters | region),
                             ("stage 3", changed(two, three), adapters | region | seen),
                             ("stage 1 from VideoChat2", changed(other, fresh), set())):
        assert have == want, f"{what}: {sorted(have ^ want)}"
    new = {n for n in every if n.startswith(("heads.", "task_tokens.", "box_encoder."))} | adapters
    assert set(fresh) - set(other) == new, sorted((set(fresh) - set(other)) ^ new)
    # Back in the public files: all that trained moved here, the rest has their bytes.
    public, mine = (files(b.folder + "/" + n) for n in ("weights/VideoChat-TPO", "for_the_authors"))
    assert {n: len(v) for n, v in public.items()} == {n: len(v) for n, v in mine.items()}
    moved = {t for n in public for t in public_tensors(public[n]) if
             public_tensors(public[n])[t] != public_tensors(mine[n])[t]}
    trained = re.compile(r"vision|qformer\.|query_tokens|extra_query_tokens|project_up|loc_decoder|box_token|.*\.lora_")
    frozen = re.compile(r".*(word|position)_embeddings|.*layer\.\d+\.(intermediate|output)\.")
    assert moved and all(trained.match(t) and not frozen.match(t) for t in moved), sorted(moved)
    assert any("lora_" in t for t in moved)
    assert len(files(b.folder + "/for_transformers")) == 1
    llava(b, adapters)


def llava(b, adapters):
    """Of LLaVA-OneVision: stage 1 moved the adapters alone, and export has them merged into the released files."""
    start, one = (tensors(b.folder + n) for n in ("/weights/llava_start", "/runs/llava_ov_tpo_7b/stage1/checkpoints"))
    mine = {n for n in one if re.fullmatch(ADAPTERS, n)}
    assert len(mine) == len(adapters) and not changed(start, one), sorted(changed(start, one))
    assert set(one) - set(start) == mine | {n for n in one if n.startswith(("heads.", "task_tokens.", "box_encoder."))}
    public, out = files(b.folder + "/weights/" + LLAVA), files(b.folder + "/for_llava_next")
    assert {n: len(v) for n, v in public.items()} == {n: len(v) for n, v in out.items()}
    moved = {t for n in public for t, v in public_tensors(public[n]).items() if v != public_tensors(out[n])[t]}
    linear = re.compile(r"model\.layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.weight|lm_head\.weight")
    assert moved and all(linear.fullmatch(t) for t in moved), sorted(moved)
