#!/usr/bin/env python3
"""Turns a PyTorch checkpoint (.pt, .pth, .bin) into a folder of safetensors. Weights only; needs neither torch nor numpy.

usage: pt_to_safetensors.py FILE OUT [--key model] [--strip PREFIX] [--add PREFIX] [--shard-bytes N] [--list]

  --key NAME      the state dict lies under this key (repeat for a path); without it the file is the state dict
  --strip PREFIX  taken off the names that begin with it; --only-stripped leaves the others away
  --add PREFIX    put before every name, after --strip
  --shard-bytes   largest file (default 5,000,000,000)
  --list          print names, types and shapes, write nothing

FILE must be in the zip form that torch.save writes since version 1.6. Its pickle is run by an interpreter that knows
tensors, OrderedDict and plain containers, numbers and text; anything else in it is refused by name, and nothing of it is
ever called. Memory: 16 MiB, whatever the size, but for tensors that are not contiguous. Tensors that share a storage
are written once each. OUT appears whole or not at all.
"""
import argparse
import collections
import itertools
import json
import os
import pickle
import pickletools
import shutil
import struct
import sys
import zipfile

CHUNK = 16 << 20
MAX_PICKLE = 256 << 20
# Class of torch -> (safetensors name, bytes); in the order of the public implementation, which sorts by it.
TYPES = {"BoolStorage": ("BOOL", 1), "ByteStorage": ("U8", 1), "CharStorage": ("I8", 1), "ShortStorage": ("I16", 2),
         "HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2), "IntStorage": ("I32", 4),
         "FloatStorage": ("F32", 4), "DoubleStorage": ("F64", 8), "LongStorage": ("I64", 8)}
RANK = {name: i for i, (name, _) in enumerate(TYPES.values())}


class Refused(Exception):
    """The file is not what this tool reads; the message says why, in one sentence."""


class Tensor:
    """A view of a storage: nothing is read yet."""

    def __init__(self, storage, offset, shape, stride):
        self.storage, self.offset, self.shape, self.stride = storage, offset, tuple(shape), tuple(stride)
        dims = self.shape + self.stride + (offset,)
        if len(self.shape) != len(self.stride) or any(type(d) is not int or d < 0 for d in dims):
            raise Refused("a tensor has shape %r and stride %r" % (shape, stride))
        self.numel = 1
        for d in self.shape:
            self.numel *= d
        last = offset + sum((d - 1) * s for d, s in zip(self.shape, self.stride)) if self.numel else -1
        if self.numel > storage.numel:
            raise Refused("a tensor of shape %r repeats the elements of its storage" % (list(shape),))
        if last >= storage.numel:
            raise Refused("a tensor reaches element %d of storage %s, which has %d" % (last, storage.key, storage.numel))

    @property
    def dtype(self):
        return self.storage.dtype

    def contiguous(self):
        step = 1
        for d, s in reversed(list(zip(self.shape, self.stride))):
            if d != 1 and s != step:
                return False
            step *= d
        return True


class Storage:
    def __init__(self, kind, key, numel):
        self.dtype, self.width = TYPES[kind]
        self.key, self.numel = key, numel


def rebuild_tensor(storage, offset, shape, stride, *ignored):
    if not isinstance(storage, Storage):
        raise Refused("a tensor without a storage")
    return Tensor(storage, offset, shape, stride)


def rebuild_parameter(tensor, *ignored):
    if not isinstance(tensor, Tensor):
        raise Refused("a parameter that is no tensor")
    return tensor


class StorageKind:
    def __init__(self, name):
        self.name = name


class Unpickler(pickle.Unpickler):
    """Knows these names and no other: no import ever happens."""

    KNOWN = {("collections", "OrderedDict"): collections.OrderedDict,
             ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
             ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
             ("torch._utils", "_rebuild_parameter"): rebuild_parameter}

    def find_class(self, module, name):
        if (module, name) in self.KNOWN:
            return self.KNOWN[module, name]
        if module in ("torch", "torch.storage") and name in TYPES:
            return StorageKind(name)
        raise Refused("its pickle wants %s.%s, which is no tensor, OrderedDict or plain container" % (module, name))

    def persistent_load(self, pid):
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], StorageKind) and
                isinstance(pid[2], str) and type(pid[4]) is int and pid[4] >= 0):
            raise Refused("its pickle refers to something that is no storage")
        return Storage(pid[1].name, pid[2], pid[4])


class Checkpoint:
    """The zip container: one folder with data.pkl and data/KEY, stored without compression."""

    def __init__(self, path):
        self.path = path
        if not zipfile.is_zipfile(path):
            raise Refused("%s is not in the zip form of torch.save (version 1.6 or later); a file of an older version or "
                          "a tar file must be saved again with a newer one" % path)
        self.zip = zipfile.ZipFile(path)
        pickles = [n for n in self.zip.namelist() if n == "data.pkl" or n.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Refused("%s has %d files data.pkl; a checkpoint has one (a TorchScript archive is none)" %
                          (path, len(pickles)))
        self.root = pickles[0][:-len("data.pkl")]
        if self.root + "byteorder" in self.zip.namelist() and self.zip.read(self.root + "byteorder") != b"little":
            raise Refused("%s is not little-endian" % path)
        info = self.zip.getinfo(pickles[0])
        if info.file_size > MAX_PICKLE:
            raise Refused("%s: its pickle has %d bytes; at most %d are read" % (path, info.file_size, MAX_PICKLE))
        with self.zip.open(info) as f:
            try:
                check_memo(f, info.file_size)
                f.seek(0)
                self.content = Unpickler(f).load()
            except Refused as e:
                raise Refused("%s: %s" % (path, e)) from None
            except Exception as e:  # whatever a damaged pickle makes the interpreter do
                raise Refused("%s: its pickle is damaged: %s" % (path, e)) from None

    def storage(self, storage):
        name = self.root + "data/" + storage.key
        try:
            info = self.zip.getinfo(name)
        except KeyError:
            raise Refused("%s has no %s" % (self.path, name)) from None
        if info.file_size < storage.numel * storage.width:
            raise Refused("%s: %s has %d bytes; its tensors need %d" %
                          (self.path, name, info.file_size, storage.numel * storage.width))
        return self.zip.open(info)

    def bytes_of(self, tensor):
        """The tensor's elements, row-major, in chunks."""
        width = tensor.storage.width
        with self.storage(tensor.storage) as f:
            if tensor.contiguous():
                f.seek(tensor.offset * width)
                left = tensor.numel * width
                while left:
                    chunk = f.read(min(CHUNK, left))
                    if not chunk:
                        raise Refused("%s ends inside storage %s" % (self.path, tensor.storage.key))
                    left -= len(chunk)
                    yield chunk
            elif tensor.numel:
                data = memoryview(f.read(tensor.storage.numel * width))
                yield from gather(data, tensor, width)


def gather(data, tensor, width):
    """Row-major, the last dim at a time: such a run is one strided copy."""
    data = data.cast("B").cast({1: "B", 2: "H", 4: "I", 8: "Q"}[width])
    outer, strides = tensor.shape[:-1], tensor.stride[:-1]
    n, step = (tensor.shape[-1], tensor.stride[-1]) if tensor.shape else (1, 1)
    out = bytearray()
    for index in itertools.product(*map(range, outer)):
        at = tensor.offset + sum(i * s for i, s in zip(index, strides))
        out += data[at:at + (n - 1) * step + 1:step].tobytes() if step else data[at:at + 1].tobytes() * n
        if len(out) >= CHUNK:
            yield bytes(out)
            out = bytearray()
    yield bytes(out)


def check_memo(f, size):
    """The interpreter makes room for the number with which a pickle stores an object, so it must be a likely one."""
    for op, argument, _ in pickletools.genops(f):
        if op.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > size:
            raise Refused("its pickle is damaged: it stores object %d in %d bytes" % (argument, size))


def state_dict(content, keys):
    for key in keys:
        if not isinstance(content, dict) or key not in content:
            legal = ", ".join(map(str, content)) if isinstance(content, dict) else "none"
            raise Refused("there is no key %s; there are %s" % (key, legal))
        content = content[key]
    if not isinstance(content, dict):
        raise Refused("what the file holds there is %s, no state dict" % type(content).__name__)
    others = [str(k) for k, v in content.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if others:
        inner = [str(k) for k, v in content.items() if isinstance(v, dict)]
        raise Refused("a state dict holds tensors only; these are none: %s%s" %
                      (", ".join(others[:10]), "; try --key " + inner[0] if inner else ""))
    return content


def renamed(tensors, strip, only_stripped, add):
    out = {}
    for name, tensor in tensors.items():
        if strip and name.startswith(strip):
            name = name[len(strip):]
        elif strip and only_stripped:
            continue
        if add + name in out:
            raise Refused("two tensors would be named %s" % (add + name))
        if add + name == "__metadata__" or any("\ud800" <= c <= "\udfff" for c in name):
            raise Refused("safetensors cannot hold a tensor named %r" % (add + name))
        out[add + name] = tensor
    if not out:
        raise Refused("no tensors")
    return out


def write_file(path, tensors, checkpoint):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    order = sorted(tensors, key=lambda n: (-RANK[tensors[n].dtype], n.encode()))
    for name in order:
        t = tensors[name]
        size = t.numel * t.storage.width
        header[name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            for chunk in checkpoint.bytes_of(tensors[name]):
                f.write(chunk)
        f.flush()
        os.fsync(f.fileno())


def write_folder(out, tensors, checkpoint, shard_bytes):
    shards, filled = [{}], 0
    for name, t in tensors.items():
        size = t.numel * t.storage.width
        if filled and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = t
        filled += size
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        raise Refused("%s exists already; give a new folder" % out)
    out = os.path.abspath(out)
    temp = os.path.join(os.path.dirname(out), ".tmp_" + os.path.basename(out))
    shutil.rmtree(temp, ignore_errors=True)
    os.makedirs(temp)
    try:
        weight_map = {}
        for i, shard in enumerate(shards):
            name = "model.safetensors" if len(shards) == 1 else "model-%05d-of-%05d.safetensors" % (i + 1, len(shards))
            write_file(os.path.join(temp, name), shard, checkpoint)
            weight_map.update(dict.fromkeys(shard, name))
        if len(shards) > 1:
            total = sum(t.numel * t.storage.width for t in tensors.values())
            with open(os.path.join(temp, "model.safetensors.index.json"), "w", encoding="utf-8") as f:
                json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, f, indent=2, sort_keys=True)
        os.rename(temp, out)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--key", action="append", default=[])
    parser.add_argument("--strip", default="")
    parser.add_argument("--only-stripped", action="store_true")
    parser.add_argument("--add", default="")
    parser.add_argument("--shard-bytes", type=int, default=5_000_000_000)
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    try:
        checkpoint = Checkpoint(args.file)
        tensors = renamed(state_dict(checkpoint.content, args.key), args.strip, args.only_stripped, args.add)
        if args.list or not args.out:
            for name, t in tensors.items():
                print(name, t.dtype, list(t.shape))
            return 0 if args.list else "give OUT, or --list"
        write_folder(args.out, tensors, checkpoint, args.shard_bytes)
        print("%s: %d tensors" % (args.out, len(tensors)))
    except (Refused, OSError, zipfile.BadZipFile) as e:
        return "pt_to_safetensors: %s" % e
    return 0


if __name__ == "__main__":
    sys.exit(main())
