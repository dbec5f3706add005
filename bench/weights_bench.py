"""Import and export of a checkpoint with the released names and shapes, against what the disk reads and writes by itself.

usage: weights_bench.py TPO_DIST FOLDER --tokenizer FILE [--turns N] [--keep]

FOLDER gets 16.2 GB of random weights, the imported checkpoint and the export: 49 GB in all, deleted at the end unless
--keep. Reading, in both ways, and import take turns; the yardstick is the faster way. Files are put out of the page
cache before each reading. Prints one line per phase: seconds, GB/s and, of tpo_dist, the largest resident memory; then
whether the exported files equal the public ones byte for byte.
"""
import argparse
import mmap
import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "checkpoint"))
import official_layout  # noqa: E402

BLOCK = 8 << 20
CONFIG = """
model { preset: "videochat_tpo_7b" }
data { tokenizer: "%s" sets { path: "none" } }
"""


def files_in(folder):
    return [os.path.join(root, n) for root, _, names in os.walk(folder) for n in sorted(names)]


def evict(folder):
    for path in files_in(folder):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def size_of(folder):
    return sum(os.path.getsize(p) for p in files_in(folder))


def report(what, size, begin, memory=None):
    seconds = time.monotonic() - begin
    extra = ", peak resident %.0f MB" % (memory / 1e6) if memory else ""
    print("%-28s %7.1f s  %6.2f GB/s%s" % (what, seconds, size / seconds / 1e9, extra), flush=True)
    return size / seconds


def read_all(folder, direct, quiet=False):
    evict(folder)
    begin, buffer = time.monotonic(), mmap.mmap(-1, BLOCK)  # aligned, as direct reads want
    for path in files_in(folder):
        fd, at, size = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0)), 0, os.path.getsize(path)
        while at < size:
            at += os.preadv(fd, [buffer], at)
        os.close(fd)
    if quiet:
        return None
    return report("read, past the page cache" if direct else "read", size_of(folder), begin)


def read_beside_write(folder, path):
    """What the disk gives a copy: as many bytes written, past the page cache, while all are read."""
    size = size_of(folder)
    writer = subprocess.Popen(["dd", "if=/dev/zero", "of=" + path, "bs=8M", "count=%d" % (size // BLOCK),
                               "oflag=direct", "status=none"])
    begin = time.monotonic()
    read_all(folder, True, quiet=True)
    writer.wait()
    os.remove(path)
    return report("read and written at once", size, begin)


def run(what, size, words):
    begin = time.monotonic()
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit("%s failed:\n%s" % (" ".join(words), output[-3000:]))
    return report(what, size, begin, usage.ru_maxrss * 1024)


def equal(a, b):
    for path in files_in(a):
        if path.endswith(".json"):
            continue
        with open(path, "rb") as x, open(os.path.join(b, os.path.relpath(path, a)), "rb") as y:
            while True:
                p, q = x.read(BLOCK), y.read(BLOCK)
                if p != q:
                    return False
                if not p:
                    break
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tpo_dist")
    parser.add_argument("folder")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    public, mine, out = (os.path.join(args.folder, n) for n in ("public", "imported", "exported"))
    os.makedirs(args.folder, exist_ok=True)
    config = os.path.join(args.folder, "run.textproto")
    with open(config, "w", encoding="utf-8") as f:
        f.write(CONFIG % args.tokenizer)
    if not os.path.exists(public):
        begin = time.monotonic()
        official_layout.write(public, official_layout.shapes_of(official_layout.FULL), 5_000_000_000,
                              official_layout.bits)
        report("generate", size_of(public), begin)
    size = size_of(public)
    shares = []
    for _ in range(args.turns):
        shutil.rmtree(mine, ignore_errors=True)
        read = max(read_all(public, direct) for direct in (False, True))
        copy = read_beside_write(public, os.path.join(args.folder, "written"))
        evict(public)
        imported = run("import", size, [args.tpo_dist, "ckpt", "import", "--from", public, "--layout", "videochat_tpo",
                                        "--config", config, "--out", mine])
        shares.append((imported / read, imported / copy))
    evict(public), evict(mine)
    run("export", size, [args.tpo_dist, "ckpt", "export", "--from", mine, "--layout", "videochat_tpo", "--base", public,
                         "--out", out])
    for i, what in enumerate(("the read rate", "what the disk gives when it is read and written at once")):
        share = sorted(s[i] for s in shares)[len(shares) // 2]
        print("import: %.0f %% of %s (median of %d turns)" % (100 * share, what, len(shares)))
    print("equal byte for byte" if equal(public, out) else "DIFFERENT")
    if not args.keep:
        shutil.rmtree(args.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
