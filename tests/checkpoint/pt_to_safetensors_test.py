"""Tests scripts/pt_to_safetensors.py on archives made by hand, as torch.save writes them; needs no torch."""
import collections
import json
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import zipfile

TOOL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "pt_to_safetensors.py")


class Named:
    """Pickles as the global MODULE.NAME, called with arguments where given."""

    def __init__(self, module, name, args=None):
        self.module, self.name, self.args = module, name, args


class Storage:
    def __init__(self, kind, key, numel):
        self.kind, self.key, self.numel = kind, key, numel


class Pickler(pickle._Pickler):
    """Writes names that cannot be imported here."""

    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return ("storage", Named("torch", obj.kind), obj.key, "cpu", obj.numel)
        return None

    def save(self, obj, save_persistent_id=True):
        if not isinstance(obj, Named):
            return super().save(obj, save_persistent_id)
        self.write(b"c" + obj.module.encode() + b"\n" + obj.name.encode() + b"\n")
        if obj.args is not None:
            super().save(obj.args)
            self.write(b"R")


def tensor(storage, offset, shape, stride):
    args = (storage, offset, shape, stride, False, collections.OrderedDict())
    return Named("torch._utils", "_rebuild_tensor_v2", args)


def archive(path, content, storages, names=("a/data.pkl",)):
    with zipfile.ZipFile(path, "w") as z:
        for name in names:
            with z.open(name, "w") as f:
                Pickler(f, 2).dump(content)
        for key, data in storages.items():
            z.writestr("a/data/" + key, data)


def run(*args):
    done = subprocess.run([sys.executable, TOOL, *args], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def read(path):
    with open(path, "rb") as f:
        data = f.read()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    assert header.pop("__metadata__") == {"format": "pt"} and size % 8 == 0
    out = {}
    for name, t in header.items():
        begin, end = t["data_offsets"]
        out[name] = (t["dtype"], t["shape"], data[8 + size + begin:8 + size + end])
    return out


def main():
    with tempfile.TemporaryDirectory() as folder:
        pt, out = os.path.join(folder, "m.pt"), os.path.join(folder, "out")
        words = struct.pack("<12f", *range(12))
        ids = struct.pack("<3q", 5, 6, 7)
        floats, longs = Storage("FloatStorage", "0", 12), Storage("LongStorage", "1", 3)
        weights = collections.OrderedDict([
            ("m.w", tensor(floats, 0, (3, 4), (4, 1))), ("m.t", tensor(floats, 0, (4, 3), (1, 4))),
            ("m.part", tensor(floats, 5, (2,), (1,))), ("m.one", tensor(floats, 11, (), ())),
            ("m.some", tensor(floats, 1, (2, 2, 2), (0, 6, 2))), ("m.same", tensor(floats, 4, (2, 2), (1, 0))),
            ("ids", tensor(longs, 0, (1, 3), (7, 1)))])
        archive(pt, {"model": weights, "epoch": 3}, {"0": words, "1": ids})
        assert run(pt, out, "--key", "model", "--strip", "m.", "--add", "n.") == (0, out + ": 7 tensors\n")
        got = read(os.path.join(out, "model.safetensors"))
        assert list(got)[0] == "n.ids", "the widest type comes first"
        assert got["n.ids"] == ("I64", [1, 3], ids)
        assert got["n.w"] == ("F32", [3, 4], words)
        transposed = [c + 4 * r for c in range(4) for r in range(3)]
        assert got["n.t"] == ("F32", [4, 3], struct.pack("<12f", *transposed))
        assert got["n.some"] == ("F32", [2, 2, 2], struct.pack("<8f", *[1, 3, 7, 9] * 2))
        assert got["n.same"] == ("F32", [2, 2], struct.pack("<4f", 4, 4, 5, 5))
        assert got["n.part"] == ("F32", [2], words[20:28])
        assert got["n.one"] == ("F32", [], words[44:])
        shards = os.path.join(folder, "shards")
        assert run(pt, shards, "--key", "model", "--shard-bytes", "60")[0] == 0
        with open(os.path.join(shards, "model.safetensors.index.json"), encoding="utf-8") as f:
            index = json.load(f)
        assert index["metadata"]["total_size"] == 48 + 48 + 8 + 4 + 32 + 16 + 24
        for name, file in index["weight_map"].items():
            assert name in read(os.path.join(shards, file))

        def refused(content, says, storages=None, args=(), **more):
            archive(pt, content, {"0": words} if storages is None else storages, **more)
            code, text = run(pt, os.path.join(folder, "none"), *args)
            assert code == 1 and says in text and "Traceback" not in text, text
            assert sorted(os.listdir(folder)) == ["m.pt", "out", "shards"], os.listdir(folder)

        good = {"w": tensor(floats, 0, (12,), (1,))}
        pwned = os.path.join(folder, "pwned")
        for evil in (Named("posix", "system", ("touch " + pwned,)), Named("builtins", "eval", ("1",)),
                     Named("torch", "load", ("x",)), Named("torch.storage", "_load_from_bytes", (b"x",))):
            refused({"w": good["w"], "x": evil}, "which is no tensor")
        refused({"model": good}, "try --key model")
        refused({"model": good}, "there is no key net; there are model", args=("--key", "net"))
        refused([1], "no state dict")
        refused({"w": tensor(floats, 0, (13,), (1,))}, "repeats the elements")
        refused({"w": tensor(floats, 1, (12,), (1,))}, "reaches element 12")
        refused({"w": tensor(floats, 0, (12,), (-1,))}, "stride")
        refused({"w": tensor(floats, 0, (10 ** 12,), (0,))}, "repeats the elements")
        refused({"w": tensor(7, 0, (1,), (1,))}, "without a storage")
        refused(good, "has no a/data/0", storages={})
        refused(good, "has 47 bytes; its tensors need 48", storages={"0": words[:47]})
        refused(good, "has 2 files data.pkl", names=("a/data.pkl", "b/data.pkl"))
        refused({"__metadata__": good["w"]}, "cannot hold a tensor named '__metadata__'")
        refused({"a\ud800": good["w"]}, "cannot hold a tensor named")
        with open(pt, "wb") as f:
            pickle.dump(1, f)
        code, text = run(pt, os.path.join(folder, "none"))
        assert code == 1 and "is not in the zip form of torch.save" in text, text
        archive(pt, good, {"0": words})
        code, text = run(pt, out)
        assert code == 1 and "exists already" in text, text
        with zipfile.ZipFile(pt, "w") as z:
            z.writestr("a/data.pkl", b"\x80\x02}q\x00X\xff\xff\xff\x7fw")
        code, text = run(pt, os.path.join(folder, "none"))
        assert code == 1 and "its pickle is damaged" in text, text
        with zipfile.ZipFile(pt, "w") as z:
            z.writestr("a/data.pkl", b"\x80\x02}r\xff\xff\xff\x0f.")
        code, text = run(pt, os.path.join(folder, "none"))
        assert code == 1 and "it stores object 268435455 in 9 bytes" in text, text
    return 0


if __name__ == "__main__":
    sys.exit(main())
