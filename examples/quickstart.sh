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
  mkdir -p $world
  # synth FOLDER FLAGS...: pictures of 3 x 3 cells; what it prints is shown only if it fails.
  synth() {
    local log=$world/synth-$(basename "$1").log
    $tpo_dist data synth --out "$1" --sizes 1 --size 72 --grid 3 "${@:2}" > "$log" 2>&1 || { cat "$log" >&2; return 1; }
    rm -f "$log"
  }
  echo "making the generated world"
  synth $world --split train=12000 --split heldout=500 --turns 2 --vocab 640 --seed 1 \
    --dataset region --dataset conversation --dataset caption &
  main=$!
  # Warm-up scenes, where one word finds the object.
  warm_up="--vocab 0 --unique colour"
  synth $world/single $warm_up --split train=8000 --min_objects 1 --max_objects 1 --dataset caption --seed 5
  synth $world/two $warm_up --split train=6000 --min_objects 2 --max_objects 2 --turns 2 --seed 6 \
    --dataset region --dataset caption
  synth $world/colours $warm_up --split train=8000 --min_objects 2 --max_objects 5 --turns 2 --seed 3 \
    --dataset region --dataset caption
  synth $world/shapes --vocab 0 --unique shape --split train=6000 --min_objects 2 --max_objects 3 --turns 2 --seed 4 \
    --dataset region
  wait $main
  $tpo_dist data index --config examples/quickstart.textproto 2> /dev/null
  touch $world/.complete
fi
# One compute thread per rank: two ranks then fill two cores.
export OMP_NUM_THREADS=1
mpirun -n 2 $tpo_dist train --config examples/quickstart.textproto
echo "the same model without eyes (pictures blanked at evaluation):"
mpirun -n 2 $tpo_dist eval --checkpoint runs/quickstart --set data.blind=true --set eval.pictures=0
echo "look at runs/quickstart/report.html"
