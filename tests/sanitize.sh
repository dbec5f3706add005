#!/bin/bash
# Builds and runs the tests that a sanitizer applies to.
#   asan-ubsan: every unit test; not the ones that start MPI, whose own memory is not instrumented
#   tsan:       rank threads, since neither OpenMP nor MPI is instrumented: parallel, and checkpoint without the tests that
#               fork. Not the loader: next to SentencePiece, which exports a protobuf of its own, Debian's protobuf crashes
#               under this sanitizer when a message is first read.
# usage: tests/sanitize.sh asan-ubsan|tsan
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  asan-ubsan)
    targets=(core_tests cases_tests simd_scalar_tests parallel_tests model_tests data_tests data_realdata_tests
      checkpoint_tests weights_fuzz tokenizer_fuzz launcher_tests)
    # Not the long runs: layouts, thousands of head subsets, sums over nine ranks, curves in bf16, whose code the others
    # pass through too.
    select=(-LE "mpi|e2e|lint" -E "NOT_BUILT|two_thousand|nine_ranks|^precision.(bf16_learns|layouts_train|resume)")
    # HDF5 keeps its tables until the process ends, since its exit handler is left out (data/h5_file.cpp); protobuf and
    # MPI free at exit or never. Any other leak is ours.
    export LSAN_OPTIONS=suppressions=$PWD/tests/lsan.supp:print_suppressions=0
    export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1
    ;;
  tsan)
    targets=(parallel_tests checkpoint_tests)
    names='Assignment|Checkpointer|Crash|Damage|FullDisk|Ring|SummedParam|TensorOps|arena|bucket|engine|mesh|policies|replicated'
    names+='|shared_memory|single|threads|work|zero'
    # Not the test that breaks the plan of a step: it writes what is being reduced, and is told so.
    select=(-R "^($names)" -E '^Crash\.(kill|limit)|nine_ranks|two_thousand|what_the_plan_says')
    export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
    ;;
  *)
    echo "usage: tests/sanitize.sh asan-ubsan|tsan" >&2
    exit 2
    ;;
esac
scripts/install_deps.sh all
cmake --preset "$1" > /dev/null
cmake --build --preset "$1" -j "$(nproc)" --target "${targets[@]}"
ctest --test-dir "build-$1" -j2 --output-on-failure --no-tests=error "${select[@]}"
