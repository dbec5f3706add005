"""Checks every #include against the dependency rule.

usage: includes.py [--root FOLDER]        prints one line per violation, exits 1 if there are any
"""
import argparse
import os
import re
import sys

import sources

# Which of our folders a folder may include, besides itself.
OURS = {
    "core": (),
    "parallel": ("core",),
    "model": ("core", "parallel"),
    "data": ("core",),
    "checkpoint": ("core", "parallel"),
    "launcher": ("core", "parallel", "model", "data", "checkpoint"),
    "bench": ("core", "parallel", "model", "data", "checkpoint", "launcher", "tests"),
    "tests": ("core", "parallel", "model", "data", "checkpoint", "launcher"),
    "examples": ("core", "parallel", "model", "data", "checkpoint", "launcher"),
}

# (header pattern, file pattern): a library header may be included by these files only.
LIBRARIES = (
    (r"mpi\.h", r"parallel/comm/mpi\.cpp|launcher/world\.cpp|parallel/comm/mpi_reference\.cpp"),
    (r"nccl\.h", r"parallel/comm/nccl\.cpp"),
    (r"hdf5\.h|H5.*\.h", r"data/h5_file\.cpp|checkpoint/hdf5_layout\.cpp"),
    (r"xxhash\.h", r"data/bytes\.cpp|checkpoint/checksum\.cpp"),
    (r"turbojpeg\.h|jpeglib\.h", r"data/decode/jpeg\.cpp"),
    (r"png\.h", r"data/decode/png\.cpp"),
    (r"sentencepiece_.*\.h", r"data/tokenizer/sentencepiece\.cpp"),
    (r"utf8proc\.h", r"data/tokenizer/unicode\.cpp"),
    (r"nlohmann/.*", r"data/import/json\.cpp"),
    (r"cblas\.h|openblas.*\.h|libxsmm.*\.h", r"core/kernels/gemm_cpu\.cpp"),
    (r"omp\.h", r"core/parallel_for\.cpp"),
    (r"sanitizer/.*", r"core/allocator\.cpp"),
    (r"cuda.*|cublas.*|cudnn.*", r"core/.*_cuda\.(cpp|cu|cuh)|core/kernels/cuda_util\.cuh"),
    (r"google/protobuf/.*", r"(data|checkpoint|launcher)/.*\.cpp"),
    (r"gflags/.*|glog/.*", r"launcher/.*\.cpp"),
    (r".*intrin\.h", r"core/kernels/.*"),
    (r"gtest/.*|gmock/.*", r"tests/.*"),
    (r"benchmark/.*", r"bench/.*"),
)
ANYTHING = r"(tests|bench)/.*\.cpp"  # besides MPI, a test or benchmark may use what it checks

# POSIX and Linux: in source files, never in our headers.
SYSTEM = re.compile(r"(sys|linux|arpa|netinet)/.*\.h|(dirent|dlfcn|fcntl|glob|ifaddrs|malloc|poll|pthread|sched|signal|stdio|"
                    r"stdlib|string|time|unistd|errno|netdb|spawn)\.h")
STANDARD = re.compile(r"[a-z_0-9]+")
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"([^"\n]+)"|<([^>\n]+)>|(\S+))', re.MULTILINE)
GENERATED_IN_HEADERS = ("data", "checkpoint", "launcher")


def check_ours(root, path, header):
    folder, target = path.split("/")[0], header.split("/")[0]
    if "/" not in header and os.path.isfile(os.path.join(root, os.path.dirname(path), header)):
        return None
    if target not in OURS:
        return "our headers are included by their path from the root"
    if target != folder and target not in OURS[folder]:
        legal = ", ".join(OURS[folder]) or "nothing of ours"
        return "%s may include %s" % (folder, legal)
    on_disk = header
    if header.endswith(".pb.h"):
        on_disk = header[:-len(".pb.h")] + ".proto"
        if path.endswith(".h") and folder not in GENERATED_IN_HEADERS:
            return "generated headers stay out of the headers of " + folder
    if not os.path.isfile(os.path.join(root, on_disk)):
        return "no such file: " + on_disk
    return None


def check_library(path, header):
    if STANDARD.fullmatch(header):
        return None
    for pattern, where in LIBRARIES:
        if re.fullmatch(pattern, header):
            if re.fullmatch(where, path) or (re.fullmatch(ANYTHING, path) and header != "mpi.h"):
                return None
            return "only %s may include it" % where.replace("\\", "")
    if SYSTEM.fullmatch(header):
        if path.endswith(".h") and not path.startswith("tests/"):
            return "system headers stay out of our headers"
        return None
    return "not in the table of libraries"


def violations(root):
    for path in sources.files(root, sources.CPP):
        if path.split("/")[0] not in OURS:
            continue
        text = sources.text_of(root, path)
        commented = [m.span() for m in re.finditer(r"/\*.*?\*/", text, re.DOTALL)]
        for match in INCLUDE.finditer(text):
            if any(a <= match.start() < b for a, b in commented):
                continue
            ours, library, macro = match.groups()
            if ours:
                reason = check_ours(root, path, ours)
            elif library:
                reason = check_library(path, library)
            else:
                reason = "an include must name its file"
            if reason:
                line = text.count("\n", 0, match.start()) + 1
                yield "%s:%d: %s: %s" % (path, line, ours or library or macro, reason)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    found = list(violations(parser.parse_args().root))
    print("\n".join(found + ["%d violations of the dependency rule" % len(found)]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
