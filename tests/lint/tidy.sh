#!/bin/bash
# clang-tidy over all our sources of a configured and built tree (generated headers must exist).
# usage: tests/lint/tidy.sh BUILD_FOLDER
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${1:?usage: tests/lint/tidy.sh BUILD_FOLDER}
# clang does not know GCC's -fopenmp runtime; the pragmas do not matter here.
find core parallel model data checkpoint launcher -name '*.cpp' -print0 |
  xargs -0 -n 4 -P "$(nproc)" clang-tidy -p "$build" --quiet --extra-arg=-Wno-everything 2> >(grep -v 'warnings generated' >&2)
