#!/bin/sh
# run_mpi.sh MPIEXEC RANKS EXPECTED_EXIT_CODE PROGRAM [ARGS...]: runs a program under mpirun, also as root and with more
# ranks than cores, and compares the exit code. A hang ends after two minutes with code 124.
mpiexec=$1; ranks=$2; expected=$3
shift 3
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
flags=
if "$mpiexec" --version 2>&1 | grep -qE 'Open MPI|OpenRTE'; then flags="--oversubscribe --bind-to none"; fi
timeout 120 "$mpiexec" $flags -n "$ranks" "$@"
code=$?
if [ "$code" -ne "$expected" ]; then
  echo "exit code $code, expected $expected" >&2
  exit 1
fi
