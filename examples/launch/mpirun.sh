#!/bin/bash
# Starts a tpo_dist command on the nodes of a host file with Open MPI's mpirun; `train` only after `doctor` found nothing
# that would stop it. Every node must see this folder, the program, the data and the run folder under the same paths.
# usage: examples/launch/mpirun.sh HOSTFILE COMMAND [FLAGS...]
#   examples/launch/mpirun.sh hosts doctor --config my.textproto
#   examples/launch/mpirun.sh hosts bench comm --json comm.json
#   examples/launch/mpirun.sh hosts train --config my.textproto --set run.folder=/shared/runs/mine
# Environment: TPO_DIST (the program; build/launcher/tpo_dist), TPO_CORES (cores a rank is bound to, best run.threads + 1;
# unset: the system places threads), TPO_DOCTOR=0 (no doctor before train).
set -euo pipefail
hosts=${1:?usage: mpirun.sh HOSTFILE COMMAND [FLAGS...]}
shift
: "${1:?usage: mpirun.sh HOSTFILE COMMAND [FLAGS...]}"
program=${TPO_DIST:-build/launcher/tpo_dist}
[ -r "$hosts" ] || { echo "mpirun.sh: no host file $hosts; see examples/launch/hosts.example" >&2; exit 2; }
[ -x "$program" ] || { echo "mpirun.sh: no program $program; set TPO_DIST" >&2; exit 2; }
if bad=$(grep -vE '^[[:space:]]*(#|$)|^[^#]*[[:space:]]slots=[0-9]+' "$hosts"); then
  echo "mpirun.sh: in $hosts, without slots=N and no blanks around the sign: $(head -1 <<< "$bad")" >&2
  exit 2
fi
ranks=$(sed -n 's/^[^#]*slots=\([0-9][0-9]*\).*/\1/p' "$hosts" | awk '{ n += $1 } END { print n + 0 }')
[ "$ranks" -gt 0 ] || { echo "mpirun.sh: no line 'NAME slots=N' in $hosts" >&2; exit 2; }

unset OPENBLAS_CORETYPE # would hold BLAS to narrower kernels
run=(mpirun --hostfile "$hosts" -n "$ranks")
if [ -n "${TPO_CORES:-}" ]; then
  run+=(--map-by "slot:PE=$TPO_CORES" --bind-to core)
else
  run+=(--bind-to none)
fi
for name in LD_LIBRARY_PATH HDF5_USE_FILE_LOCKING; do # mpirun takes the rest of the environment to its own node only
  [ -z "${!name:-}" ] || run+=(-x "$name")
done

if [ "$1" = train ] && [ "${TPO_DOCTOR:-1}" != 0 ]; then
  "${run[@]}" "$program" doctor "${@:2}"
fi
exec "${run[@]}" "$program" "$@" # exec: signals reach mpirun, which hands SIGUSR1 to the ranks
