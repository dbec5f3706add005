"""Checks that clang-format would change nothing.

usage: format.py [--root FOLDER]        prints the files it would change, exits 1 if there are any or it is not installed
"""
import argparse
import os
import shutil
import subprocess
import sys

import sources


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    root = parser.parse_args().root
    tool = shutil.which("clang-format")
    if tool is None:
        print("clang-format is not installed; scripts/install_deps.sh installs it")
        return 1
    listed = subprocess.run([tool, "--style=file", "--dry-run"] + sources.files(root, sources.CPP), cwd=root,
                            stderr=subprocess.PIPE, text=True, check=True).stderr
    bad = sorted({line.split(":")[0] for line in listed.splitlines() if "[-Wclang-format-violations]" in line})
    print("\n".join(bad))
    print("%d files differ from clang-format; fix with: clang-format -i FILE" % len(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
