#!/bin/bash
# From a bare machine to a trained model: installs what is missing, builds, makes the generated world, trains on two ranks,
# evaluates on held-out scenes and writes runs/quickstart/ with log, curves and pictures.
# usage: examples/quickstart.sh
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install_deps.sh build
source scripts/mpi_env.sh
cmake --preset release -DTPO_TESTS=OFF -DTPO_BENCH=OFF > build.log 2>&1 || { cat build.log; exit 1; }
rm -f build.log
cmake --build build -j "$(nproc)" --target tpo_dist
tpo_dist=build/launcher/tpo_dist

world=runs/quickstart-data
if [ ! -f $world/.complete ]; then
  rm -rf $world
  synth() { $tpo_dist data synth --out "$1" --sizes 1 "${@:2}" 2> synth.log || { cat synth.log; exit 1; }; rm -f synth.log; }
  synth $world --split train=12000 --split heldout=500 --turns 2 --vocab 640 --seed 1
  # Warm-up scenes, where one word finds the object.
  warm_up="--only_region --vocab 0"
  synth $world/one-or-two $warm_up --split train=5000 --unique colour --min_objects 1 --max_objects 2 --turns 1 --seed 2
  synth $world/colours $warm_up --split train=7000 --unique colour --min_objects 2 --max_objects 4 --turns 2 --seed 3
  synth $world/shapes $warm_up --split train=7000 --unique shape --min_objects 2 --max_objects 3 --turns 2 --seed 4
  $tpo_dist data index --config examples/quickstart.textproto
  touch $world/.complete
fi
# One compute thread per rank: two ranks then fill two cores.
export OMP_NUM_THREADS=1
mpirun -n 2 $tpo_dist train --config examples/quickstart.textproto
echo "the same model without eyes (pictures blanked at evaluation):"
mpirun -n 2 $tpo_dist eval --checkpoint runs/quickstart --set data.blind=true --set eval.pictures=0
echo "look at runs/quickstart/report.html"
