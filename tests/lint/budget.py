"""Checks lines per folder, lines per file, lines per function, and that sources are ASCII.

usage: budget.py [--root FOLDER] [--allow FILE]        prints one line per violation, exits 1 if there are any

A folder's budget counts code and header comments: every line that is not blank, without comment lines of source files.
The marks of parallel and launcher stand above the first design: the hierarchy of transports, the guard with its
supervisor and the subcommands that an infra team runs came to them. data grew by three families of tokenizers, which
are not one library's; checkpoint by the tables of public weights with their formats and transforms, for which model gave
up what was meant for them. tests grew with the matrix of layouts and faults, with them, and with the drivers of public
implementations that make golden files.

FILE lists exceptions, one per line: "file PATH MAX REASON..." or "function PATH NAME MAX REASON...". One that is not
needed is a violation.
"""
import argparse
import os
import re
import sys

import sources

BUDGETS = {"core": 13500, "parallel": 8000, "model": 7800, "data": 6800, "checkpoint": 4700, "launcher": 8500,
           "tests": 27000}
FILE_LINES = 500
FUNCTION_LINES = 80
COUNTED = sources.CPP + (".proto", ".py")
ASCII = COUNTED + (".md", ".sh", ".txt", ".textproto", ".cmake")

_SCOPE = re.compile(r"\b(namespace|class|struct|union|enum|extern)\b")
_ATTRIBUTES = re.compile(r"\[\[.*?\]\]|alignas\s*\([^)]*\)|template\s*<[^{};]*?>(?=\s*(?:class|struct|union|template))",
                         re.DOTALL)


def counted_lines(path, text):
    if path.endswith((".py", ".h", ".cuh", ".proto")):
        return sum(1 for line in text.splitlines() if line.strip())
    return sum(1 for line in sources.code_of(text).splitlines() if line.strip())


def opens_scope(header):
    """True if a brace after this text opens a namespace, class or the like, whose content is looked at in turn."""
    header = _ATTRIBUTES.sub(" ", header).strip()
    return bool(_SCOPE.match(header)) and not (header.endswith(")") and not header.startswith("extern"))


def function_name(header):
    match = re.search(r"([A-Za-z_~][\w:~]*|operator\s*\S+?)\s*\(", _ATTRIBUTES.sub(" ", header))
    name = match.group(1) if match else "?"
    case = re.search(r"\bTEST(?:_[FP])?\s*\(\s*(\w+)\s*,\s*(\w+)", header)
    return case.group(1) + "." + case.group(2) if case else name


def functions(text):
    """(name, first line, lines) of every function body outside other functions; lambdas count with their function."""
    code = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda m: "\n" * m.group(0).count("\n"), sources.code_of(text),
                  flags=re.MULTILINE)
    found = []
    stack = []  # kinds of the open braces: "scope", "body" (of a function), "other"
    start = 0  # where the text before the next brace begins
    pending = None  # a constructor's initialisers have braces of their own before its body
    for match in re.finditer(r"[{};]|(?<![:])\b(?:public|private|protected)\s*:(?!:)", code):
        at, mark = match.start(), match.group(0)
        inside = [k for k in stack if k != "scope"]
        if mark not in "{};":
            start = match.end() if not inside else start
        elif mark == "{":
            header = code[start:at]
            if inside:
                stack.append("inner")
            elif pending is not None and (not header.strip() or header.strip()[0] in ",:"):
                stack.append("body")
            elif opens_scope(header):
                stack.append("scope")
            elif "(" in header and not re.search(r"=\s*$", header):
                pending = (function_name(header), start + len(header) - len(header.lstrip()))
                stack.append("body")
            else:
                stack.append("other")
            start = match.end() if not [k for k in stack if k != "scope"] else start
        elif mark == "}":
            kind = stack.pop() if stack else "other"
            if kind == "body" and pending is not None:
                first = code.count("\n", 0, pending[1]) + 1
                lines = code.count("\n", 0, at) + 2 - first
                if found and found[-1][:2] == (pending[0], first):
                    found.pop()
                found.append((pending[0], first, lines))
            if not [k for k in stack if k != "scope"]:
                start = match.end()
        elif not inside:
            start, pending = match.end(), None
        if mark == "}" and not [k for k in stack if k != "scope"] and kind != "body":
            pending = None
    return found


def read_allowed(path):
    allowed = {}
    if not os.path.isfile(path):
        return allowed
    with open(path, encoding="ascii") as f:
        for number, line in enumerate(f, 1):
            words = line.split("#")[0].split()
            if not words:
                continue
            keys = {"file": 2, "function": 3}.get(words[0], 0)
            if not keys or len(words) < keys + 2 or not words[keys].isdigit():
                sys.exit("%s:%d: expected: file PATH MAX REASON or function PATH NAME MAX REASON" % (path, number))
            allowed[tuple(words[:keys])] = int(words[keys])
    return allowed


def size_violations(root, allowed):
    used = set()

    def over(key, lines, limit):
        if lines <= limit:
            return False
        used.add(key)
        return lines > allowed.get(key, limit)

    for path in sources.files(root, COUNTED):
        text = sources.text_of(root, path)
        lines = text.count("\n")
        if over(("file", path), lines, FILE_LINES):
            yield "%s: %d lines; %d are the limit" % (path, lines, FILE_LINES)
        if not path.endswith(sources.CPP):
            continue
        for name, first, length in functions(text):
            if over(("function", path, name), length, FUNCTION_LINES):
                yield "%s:%d: %s has %d lines; %d are the limit" % (path, first, name, length, FUNCTION_LINES)
    for key in sorted(set(allowed) - used):
        yield "exception without need: " + " ".join(key)


def ascii_violations(root):
    top = [n for n in os.listdir(root) if n.endswith(ASCII) and os.path.isfile(os.path.join(root, n))]
    for path in top + sources.files(root, ASCII):
        if path.startswith("tests/data/fixtures/"):
            continue
        for number, line in enumerate(sources.text_of(root, path).splitlines(), 1):
            if not line.isascii():
                yield "%s:%d: a character outside ASCII" % (path, number)
                break


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default=os.path.join(here, "..", ".."))
    parser.add_argument("--allow", default=os.path.join(here, "allow.txt"))
    args = parser.parse_args()
    found = list(size_violations(args.root, read_allowed(args.allow))) + list(ascii_violations(args.root))
    totals = dict.fromkeys(BUDGETS, 0)
    for path in sources.files(args.root, COUNTED):
        folder = path.split("/")[0]
        if folder in totals:
            totals[folder] += counted_lines(path, sources.text_of(args.root, path))
    for folder, lines in totals.items():
        if lines > BUDGETS[folder]:
            found.append("%s: %d lines; its budget is %d" % (folder, lines, BUDGETS[folder]))
    print("\n".join(found))
    print("lines of code and header comments: " + ", ".join("%s %d of %d" % (k, v, BUDGETS[k]) for k, v in totals.items()))
    print("%d violations" % len(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
