"""Checks that no two of our files define one class name in one namespace: the linker would take the inline functions of
either, without a word. Classes of tests are compared with those of the product, since they are linked with them.

usage: names.py [--root FOLDER]        prints one line per violation, exits 1 if there are any
"""
import argparse
import os
import re
import sys

import sources

PRODUCT = ("core", "parallel", "model", "data", "checkpoint", "launcher")
TOKEN = re.compile(r"\bnamespace\b\s*([A-Za-z0-9_:]*)\s*\{|\b(?:struct|class|union|enum(?:\s+class)?)\s+([A-Za-z0-9_]+)"
                   r"(?:\s+final)?(?:\s*:(?!:)[^;{()]*)?\s*\{|[{}]")


def classes(text):
    """Qualified names of the classes defined at namespace scope, without those of unnamed namespaces."""
    found, scopes = [], []  # a scope is a namespace's name, "" for an unnamed one, None for any other block
    for token in TOKEN.finditer(sources.code_of(text)):
        word = token.group(0)
        if word == "}":
            if scopes:
                scopes.pop()
        elif word.startswith("namespace"):
            scopes.append(token.group(1))
        else:
            if token.group(2) and None not in scopes and "" not in scopes:
                found.append("::".join(scopes + [token.group(2)]))
            scopes.append(None)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    root = parser.parse_args().root
    first, violations = {}, 0
    paths = sources.files(root, sources.CPP)
    for path in [p for p in paths if p.startswith(PRODUCT)] + [p for p in paths if p.startswith("tests")]:
        mine = path.startswith(PRODUCT)
        for name in classes(sources.text_of(root, path)):
            if name in first and first[name] != path:
                print("%s: %s is also defined in %s" % (path, name, first[name]))
                violations += 1
            elif mine:
                first[name] = path
    print("%d classes with two definitions" % violations)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
