"""The scripts of examples/launch. usage: launch.py --tpo_dist BINARY --source FOLDER"""
import argparse
import glob
import os
import signal
import subprocess

import e2e

STUB = r"""#!/bin/bash
me=$(basename "$0")
if [ "$me" = scontrol ] && [ "$1" = show ]; then echo node1; echo node2; exit; fi
if [ "$me" = srun ] && [ "$1" = --mpi=list ]; then echo "plugins: $STUB_PMI"; exit; fi
for ((i = 1; i < $#; i++)); do [ "${!i}" != --hostfile ] || { next=$((i + 1)); cp "${!next}" "$STUB_LOG.hosts"; }; done
echo "$me $* CORETYPE=${OPENBLAS_CORETYPE-unset}" >> "$STUB_LOG"
case " $* " in
  *" doctor "*) exit "${STUB_DOCTOR:-0}" ;;
  *" train "*) [ -z "${STUB_SLEEP:-}" ] || { trap 'exit 75' USR1; touch "$STUB_LOG.up"; while :; do sleep 0.05; done; }
    exit "${STUB_TRAIN:-0}" ;;
esac
"""


def launch_files(b):
    """The scripts of examples/launch: syntax, what they start (stubs of mpirun, srun and scontrol), and one for real."""
    bin, log, launch = b.folder + "/bin", b.folder + "/log", b.source + "/examples/launch/"
    os.mkdir(bin)
    for name in ("mpirun", "srun", "scontrol"):
        with open(f"{bin}/{name}", "w") as f:
            f.write(STUB)
        os.chmod(f"{bin}/{name}", 0o755)
    for script in glob.glob(launch + "*.s*"):
        subprocess.run(["bash", "-n", script], check=True)
    slurm = dict(SLURM_JOB_ID="17", SLURM_JOB_NODELIST="node[1-2]", SLURM_NTASKS_PER_NODE="3", SLURM_CPUS_PER_TASK="5",
                 SLURM_SUBMIT_DIR=b.source)
    def env(**more):
        for path in glob.glob(log + "*"):
            os.remove(path)
        # A new dict without what this environment may say of Slurm or OpenBLAS itself.
        clean = {k: v for k, v in e2e.ENV.items() if not k.startswith(("SLURM", "LD_LIBRARY", "HDF5_USE"))}
        return dict(clean, PATH=bin + ":" + e2e.ENV["PATH"], STUB_LOG=log, TPO_DIST=b.exe, OPENBLAS_CORETYPE="Haswell", **more)
    def start(script, words, **more):
        r = subprocess.run(["bash", launch + script] + words, env=env(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True, timeout=60)
        lines = open(log).read().splitlines() if os.path.exists(log) else []
        return r.returncode, lines, r.stderr
    words = ["--config", "c", "--set", "run.seed=1 2"]
    on = f"--hostfile {launch}hosts.example -n 8"
    tail = f"{b.exe} %s --config c --set run.seed=1 2 CORETYPE=unset"
    both = lambda front: [f"{front} {tail % 'doctor'}", f"{front} {tail % 'train'}"]
    mpirun = [launch + "hosts.example", "train"] + words
    assert start("mpirun.sh", mpirun) == (0, both(f"mpirun {on} --bind-to none"), "")
    assert start("mpirun.sh", mpirun, STUB_DOCTOR="5")[:2] == (5, both(f"mpirun {on} --bind-to none")[:1])
    bound = f"mpirun {on} --map-by slot:PE=3 --bind-to core -x HDF5_USE_FILE_LOCKING"
    assert start("mpirun.sh", mpirun, TPO_CORES="3", HDF5_USE_FILE_LOCKING="FALSE", STUB_TRAIN="75")[:2] == (75, both(bound))
    assert start("mpirun.sh", mpirun, TPO_DOCTOR="0")[1] == both(f"mpirun {on} --bind-to none")[1:]
    assert "hosts.example" in start("mpirun.sh", ["/nonexistent", "doctor"])[2]
    srun = "srun --mpi=pmix --cpus-per-task=5 --cpu-bind=cores --kill-on-bad-exit=1"
    assert start("slurm.sbatch", words, STUB_PMI="pmi2 pmix", **slurm) == (0, both(srun), "")
    code, lines, error = start("slurm.sbatch", words, STUB_PMI="none pmi2", **slurm)
    assert code == 2 and not lines and "slurm_mpirun.sbatch" in error, error
    requeue = "scontrol requeue 17 CORETYPE="
    for script in ("slurm.sbatch", "slurm_mpirun.sbatch"):
        code, lines, error = start(script, words, STUB_PMI="pmix", STUB_TRAIN="75", **slurm)
        assert code == 75 and len(lines) == 3 and lines[2].startswith(requeue), (script, code, lines, error)
        code, lines, error = start(script, words, STUB_PMI="pmix", STUB_TRAIN="3", **slurm)
        assert code == 3 and len(lines) == 2, (script, code, lines, error)
        code, lines, error = start(script, words, STUB_PMI="pmix", STUB_DOCTOR="5", **slurm)
        assert code == 5 and len(lines) == 1, (script, code, lines, error)
    # Slurm's signal goes to the batch script, which hands it on and waits for the ranks to save.
    process = subprocess.Popen(["bash", launch + "slurm_mpirun.sbatch"] + words, env=env(STUB_SLEEP="1", **slurm))
    e2e.wait_for(lambda: os.path.exists(log + ".up"), "stub of train")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=60) == 75
    assert open(log).read().splitlines()[2].startswith(requeue)
    assert open(log + ".hosts").read() == "node1 slots=3\nnode2 slots=3\n"
    assert not glob.glob(b.source + "/.hosts.*")
    # For real, on this machine.
    with open(b.folder + "/hosts", "w") as f:
        f.write("# two ranks here\nlocalhost slots=2\n")
    r = subprocess.run(["bash", launch + "mpirun.sh", b.folder + "/hosts"] + b.train("launched", ["train.steps=2"]),
                       env=dict(e2e.ENV, TPO_DIST=b.exe), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=110)
    assert r.returncode == 0 and "2 rank(s), started by mpirun" in r.stdout and "step 2/2" in r.stdout, r.stdout


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--tpo_dist", required=True)
    p.add_argument("--source", required=True)
    b = e2e.Bench(p.parse_args())
    try:
        launch_files(b)
    finally:
        b.close()


if __name__ == "__main__":
    main()
