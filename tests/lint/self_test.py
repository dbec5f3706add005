"""Each lint must fail on a bad sample and pass on a good one."""
import os
import subprocess
import sys
import tempfile
import unittest

from budget import BUDGETS

HERE = os.path.dirname(os.path.abspath(__file__))


class Lint(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.root = self.folder.name
        with open(os.path.join(HERE, "..", "..", ".clang-format"), encoding="ascii") as f:
            self.write(".clang-format", f.read())

    def tearDown(self):
        self.folder.cleanup()

    def write(self, path, text):
        full = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as f:
            f.write(text)

    def run_lint(self, script, *more):
        done = subprocess.run([sys.executable, os.path.join(HERE, script), "--root", self.root, *more],
                              stdout=subprocess.PIPE, text=True, check=False)
        return done.returncode, done.stdout

    def expect(self, script, status, *parts, more=()):
        code, out = self.run_lint(script, *more)
        self.assertEqual(code, status, out)
        for part in parts:
            self.assertIn(part, out)

    def include(self, path, header):
        self.write("core/error.h", "#pragma once\n")
        self.write("model/linear.h", "#pragma once\n")
        self.write(path, '// a comment\n#include %s\n' % header)
        return self.run_lint("includes.py")

    def test_includes_that_are_legal(self):
        for path, header in (("core/a.cpp", '"core/error.h"'), ("model/a.cpp", '"core/error.h"'), ("core/a.cpp", "<vector>"),
                             ("core/b.cpp", '"error.h"'), ("core/kernels/a.cpp", "<immintrin.h>"),
                             ("parallel/comm/mpi.cpp", "<mpi.h>"), ("data/h5_file.cpp", "<hdf5.h>"),
                             ("data/a.cpp", "<sys/stat.h>"), ("tests/core/a.cpp", "<gtest/gtest.h>")):
            code, out = self.include(path, header)
            self.assertEqual(code, 0, out)

    def test_includes_that_break_the_rule(self):
        for path, header, reason in (
                ("core/a.cpp", '"model/linear.h"', "core may include nothing of ours"),
                ("data/a.h", '"model/linear.h"', "data may include core"),
                ("core/a.h", '  "model/linear.h"', "core may include nothing of ours"),
                ("launcher/a.cpp", '"tests/x.h"', "launcher may include"),
                ("model/a.cpp", '"core/none.h"', "no such file"),
                ("model/a.cpp", '"linear_.h"', "by their path from the root"),
                ("model/a.cpp", "<mpi.h>", "only parallel/comm/mpi.cpp|launcher/world.cpp"),
                ("tests/a.cpp", "<mpi.h>", "only parallel/comm/mpi.cpp"),
                ("data/other.cpp", "<hdf5.h>", "only data/h5_file.cpp"),
                ("parallel/comm/mpi.h", "<mpi.h>", "only"),
                ("checkpoint/a.h", "<google/protobuf/message.h>", "only"),
                ("checkpoint/a.h", "<unistd.h>", "system headers stay out"),
                ("model/a.cpp", "<boost/any.hpp>", "not in the table"),
                ("model/a.cpp", "HEADER", "must name its file")):
            code, out = self.include(path, header)
            self.assertEqual(code, 1, (path, header))
            self.assertIn(path + ":2", out)
            self.assertIn(reason, out)
            os.remove(os.path.join(self.root, path))

    def test_commented_include_is_ignored(self):
        self.write("core/a.cpp", '// #include "model/x.h"\n/*\n#include "model/x.h"\n*/\n')
        self.expect("includes.py", 0)

    def test_generated_header_in_a_header(self):
        self.write("data/x.proto", "")
        self.write("data/a.h", '#include "data/x.pb.h"\n')
        self.expect("includes.py", 0)
        self.write("model/x.proto", "")
        self.write("model/a.h", '#include "model/x.pb.h"\n')
        self.expect("includes.py", 1, "generated headers stay out")

    def function(self, opening, lines, closing="}\n"):
        return opening + "\n" + "  f(\"}{\");  // }\n" * (lines - 2) + closing

    def test_function_limit(self):
        for opening, name in (("void g() {", "g"), ("Foo::Foo(int a) : a_{a}, b_(a) {", "Foo::Foo"),
                              ("template <class T>\nT Foo<T>::get() const noexcept {", "get"),
                              ("namespace x {\nnamespace {\nstruct S {\n public:\n  int f() const {", "f"),
                              ("TEST(Suite, case_name) {", "Suite.case_name"), ("auto h() -> std::vector<int> {", "h"),
                              ("int table[] = {1, 2};\nbool operator==(A a, A b) {", "operator==")):
            extra = opening.count("\n") if not opening.startswith("template") else 0
            closing = "}\n" + "};\n}\n}\n" * opening.startswith("namespace")
            self.write("core/a.cpp", self.function(opening, 80 - opening.startswith("template"), closing))
            self.expect("budget.py", 0, more=("--allow", "none"))
            self.write("core/a.cpp", self.function(opening, 81, closing))
            self.expect("budget.py", 1, "core/a.cpp:%d: %s has 8" % (1 + extra, name), more=("--allow", "none"))

    def test_lambda_counts_with_its_function(self):
        self.write("core/a.cpp", self.function("void g() {\n  auto l = [&](int i) {", 79, "  };\n}\n"))
        self.expect("budget.py", 1, "g has 81 lines", more=("--allow", "none"))

    def test_many_short_functions_pass(self):
        self.write("core/a.cpp", "struct A {\n  explicit A(int x) : x_{x} {}\n  int x_;\n};\nvoid f() {\n}\n" * 60)
        self.expect("budget.py", 0, more=("--allow", "none"))

    def test_exceptions(self):
        self.write("core/a.cpp", self.function("void g() {", 90))
        self.write("allow.txt", "function core/a.cpp g 90 a switch over ninety codes\n")
        allow = ("--allow", os.path.join(self.root, "allow.txt"))
        self.expect("budget.py", 0, more=allow)
        self.write("core/a.cpp", self.function("void g() {", 91))
        self.expect("budget.py", 1, "g has 91", more=allow)
        self.write("core/a.cpp", self.function("void g() {", 20))
        self.expect("budget.py", 1, "exception without need", more=allow)

    def test_names_are_defined_once(self):
        self.write("core/a.h", "namespace tpo {\nstruct Piece final : Base {\n  struct Inner {};\n};\nclass Later;\n}\n")
        self.write("core/b.cpp", "namespace tpo {\nnamespace {\nstruct Piece {};\n}\nstruct Piece::Inner {};\n}\n")
        self.write("data/c.h", "namespace tpo::data {\nstruct Piece {};\n}\nnamespace tpo {\nclass Later {};\n}\n")
        self.expect("names.py", 0)
        self.write("data/d.h", "namespace tpo {\nint f() { return 1; }\nstruct Piece {};\n}\n")
        self.expect("names.py", 1, "data/d.h: tpo::Piece is also defined in core/a.h")

    def test_file_limit(self):
        self.write("data/a.h", "int a;\n" * 500)
        self.expect("budget.py", 0)
        self.write("data/a.h", "int a;\n" * 501)
        self.expect("budget.py", 1, "data/a.h: 501 lines")

    def test_folder_budget_counts_header_comments_only(self):
        for i in range(5):
            self.write("checkpoint/a%d.cpp" % i, "// why\n\nint a;\n" * 160)
        for i in range(3):
            self.write("checkpoint/b%d.h" % i, "// what\nint a;\n" * 240)
        self.expect("budget.py", 0, "checkpoint 2240 of ")
        most = BUDGETS["checkpoint"]
        for i in range((most - 2240) // 400):
            self.write("checkpoint/c%d.h" % i, "// what\n" * 400)
        self.expect("budget.py", 0)
        self.write("checkpoint/d.h", "// what\n" * ((most - 2240) % 400 + 1))
        self.expect("budget.py", 1, "checkpoint: %d lines; its budget is %d" % (most + 1, most))

    def test_ascii(self):
        self.write("docs.md", "ok\n")
        self.write("model/README.md", "fine\na \u2013 b\n")
        self.expect("budget.py", 1, "model/README.md:2")

    def test_format(self):
        self.write("core/a.cpp", "int f() { return 1; }\n")
        self.expect("format.py", 0)
        self.write("core/a.cpp", "int f(){return 1;}\n")
        self.expect("format.py", 1, "core/a.cpp")


if __name__ == "__main__":
    unittest.main()
