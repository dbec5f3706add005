"""Opens the shards of a checkpoint of checkpoint_support.h's states in h5py and compares every value.

usage: read_h5py.py FOLDER SEED    make_state(SEED)
       read_h5py.py FOLDER cut     cut_state()
"""
import glob
import re
import sys

import h5py
import numpy as np


def read(folder, name, shape, dtype="f4"):  # as in checkpoint/FORMAT.md
    full = np.empty(shape, dtype)
    matrix = full.reshape(shape[0] if shape else 1, -1)
    for path in glob.glob(folder + "/shard_*.h5"):
        with h5py.File(path) as f:
            for key, piece in f.items():
                if key == name:
                    full[...] = piece[()]
                if key.startswith(name + "@"):
                    *cut, begin = [int(n) for n in re.split("[+,@]", key[len(name) + 1:])]
                    row, rows, col, cols = cut or (0, matrix.shape[0], 0, matrix.shape[1])
                    at = np.arange(begin, begin + piece.size)
                    matrix[row + at // cols, col + at % cols] = piece[:]
    return full


def check_cut(folder):
    want = (3 + np.float32(0.25) * np.arange(120, dtype=np.float32)).reshape(6, 4, 5)
    assert np.array_equal(read(folder, "w", (6, 4, 5)), want), "w"


def main(folder, seed):
    found = {}
    for path in sorted(glob.glob(folder + "/shard_*.h5")):
        with h5py.File(path, "r") as f:
            for name, dataset in f.items():
                assert name not in found, name + " occurs twice"
                large = dataset.size * dataset.dtype.itemsize >= 4096
                assert not large or dataset.id.get_offset() % 4096 == 0, name + " is not aligned"
                found[name] = dataset[()]

    def ramp(shape, first):
        n = int(np.prod(shape, dtype=np.int64))
        return (np.float32(first) + np.float32(0.25) * np.arange(n, dtype=np.float32)).reshape(shape)

    want = {
        "trunk.w": ramp((37, 129), seed),
        "trunk.b": ramp((129,), seed + 1),
        "optim.m.trunk.w": ramp((37, 129), seed + 2),
        "scalar": ramp((), seed + 3),
        "exact_block": ramp((1024,), seed + 4),
        "ids": np.array([1, -2, seed], np.int32),
        "rows": np.array([[seed], [-1]], np.int64),
        "bytes": np.full(5001, seed, np.uint8),
        "half": np.full((3, 100), np.float32(seed).view(np.uint32) >> 16, np.uint16),
    }
    assert found.keys() == want.keys(), sorted(found)
    for name, value in want.items():
        assert found[name].dtype == value.dtype, (name, found[name].dtype)
        assert np.array_equal(found[name], value), name


if __name__ == "__main__":
    try:
        check_cut(sys.argv[1]) if sys.argv[2] == "cut" else main(sys.argv[1], int(sys.argv[2]))
    except AssertionError as e:
        sys.exit("mismatch: %s" % e)
