"""Which files the lint looks at, and a view of C++ text without comments and literals."""
import os
import re

FOLDERS = ("core", "parallel", "model", "data", "checkpoint", "launcher", "bench", "tests", "examples", "scripts")
CPP = (".h", ".cpp", ".cu", ".cuh")


def files(root, extensions):
    """Paths relative to root, sorted, of our files with one of the extensions."""
    found = []
    for folder in FOLDERS:
        for where, folders, names in os.walk(os.path.join(root, folder)):
            folders[:] = [f for f in folders if f != "__pycache__"]
            found += [os.path.relpath(os.path.join(where, n), root) for n in names if n.endswith(tuple(extensions))]
    return sorted(found)


def text_of(root, path):
    with open(os.path.join(root, path), encoding="utf-8", errors="surrogateescape") as f:
        return f.read()


_TOKEN = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<mark>[^()\\ ]{0,16})\(.*?\)(?P=mark)"|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])+\'',
    re.DOTALL)


def code_of(text):
    """The text with comments and literals blanked; every newline keeps its place."""

    def blank(match):
        piece = match.group(0)
        keep = "0" if not piece.startswith("/") else " "
        return keep + "\n" * piece.count("\n")

    return _TOKEN.sub(blank, text)
