#!/bin/bash
# The one list of Debian packages. Installs those that are missing, as root or through sudo; where that is not possible
# it says in one line which are missing and exits 3.
# usage: scripts/install_deps.sh [build|all]     build: without what only the tests need (default: all)
# TPO_SKIP_DEPS=1 does nothing: for machines where the packages are modules.
set -euo pipefail

build=(
  cmake ninja-build g++ pkg-config        # build
  libopenmpi-dev openmpi-bin              # ranks
  libopenblas-openmp-dev                  # matrix products
  libhdf5-dev libxxhash-dev               # shards, checkpoints, checksums
  libprotobuf-dev protobuf-compiler       # configuration, records, manifests
  libgoogle-glog-dev libgflags-dev        # logs, and their flags
  libsentencepiece-dev libutf8proc-dev    # tokenizers
  libturbojpeg0-dev libpng-dev            # pictures
  nlohmann-json3-dev                      # annotation files
)
tests=(
  libgtest-dev libbenchmark-dev           # unit tests, op benchmark
  clang-format clang-tidy                 # lint
  python3 python3-h5py python3-numpy      # lint, and reading our files with h5py
  iproute2                                # hosts.sh: several hosts as network namespaces
)

case "${1:-all}" in
  build) wanted=("${build[@]}") ;;
  all) wanted=("${build[@]}" "${tests[@]}") ;;
  *) echo "usage: scripts/install_deps.sh [build|all]" >&2; exit 2 ;;
esac
[ "${TPO_SKIP_DEPS:-0}" = 1 ] && exit 0
if ! command -v dpkg-query > /dev/null; then
  echo "not a Debian system: provide ${wanted[*]} by other means and set TPO_SKIP_DEPS=1" >&2
  exit 3
fi

missing=()
for package in "${wanted[@]}"; do
  status=$(dpkg-query -W -f='${Status}' "$package" 2> /dev/null || true)
  [[ "$status" == "install ok installed" ]] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ]; then
  as_root=(env)
elif command -v sudo > /dev/null && sudo -n true 2> /dev/null; then
  as_root=(sudo -n env)
elif command -v sudo > /dev/null && [ -t 0 ] && [ "${CI:-}" != true ]; then
  as_root=(sudo env)
else
  echo "missing packages, and neither root nor sudo to install them: ${missing[*]}" >&2
  exit 3
fi
echo "installing ${missing[*]}"
log=$(mktemp)
apt() { "${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" > "$log" 2>&1 < /dev/null; }
if ! { apt update && apt install --no-install-recommends "${missing[@]}"; }; then
  tail -n 15 "$log" >&2
  echo "missing packages, and apt-get could not install them: ${missing[*]}" >&2
  exit 3
fi
rm -f "$log"
