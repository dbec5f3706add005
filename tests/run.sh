#!/bin/bash
# Installs what is missing, builds everything into build/ and runs all tests. Exits non-zero on the first failure.
# usage: tests/run.sh [ctest arguments]        for instance: tests/run.sh -L lint
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install_deps.sh all
source scripts/mpi_env.sh
cmake --preset release -DTPO_TESTS=ON -DTPO_BENCH=ON > build.log 2>&1 || { cat build.log; exit 1; }
rm -f build.log
cmake --build build -j "$(nproc)"
ctest --test-dir build -j2 --output-on-failure --no-tests=error "$@"
