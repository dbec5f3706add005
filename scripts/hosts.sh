#!/bin/bash
# Runs a program under mpirun over several "hosts" of this one machine: network namespaces with a hostname each, joined
# by a bridge. Open MPI takes them for different nodes, so that what goes on between nodes is what goes on here.
# usage: scripts/hosts.sh SLOTS MPIRUN ARGS...        SLOTS: ranks per host, "2,2" or "1,3"
#   scripts/hosts.sh 2,2 mpirun build/launcher/tpo_dist train --config run.textproto
# Works as root, or where user namespaces are allowed. Exit code: that of mpirun; 77 if this machine has no namespaces.
# No process of it outlives the script, also after SIGKILL: a host ends when a pipe from here closes, mpirun by a signal.
# They share the file system, /dev/shm and process numbers with this machine, as containers may.
set -u

if [ "${1:-}" = --host ]; then  # the body of one host, NAME ADDRESS: lives as long as the pipe is open
  hostname "$2" && ip link set lo up && echo $$ > "$TPO_HOSTS/$3.new" && mv "$TPO_HOSTS/$3.new" "$TPO_HOSTS/$3"
  read -r _ <&3
  exit 0
fi
if [ "${1:-}" = --agent ]; then  # what Open MPI uses instead of ssh: ADDRESS COMMAND...
  address=$2
  shift 2
  exec nsenter -t "$(cat "$TPO_HOSTS/$address")" --net --uts sh -c "$*"
fi
if [ "$#" -lt 3 ] && [ "${1:-}" != --hub ]; then
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
  exit 2
fi

refuse() {
  echo "hosts.sh: $1; skipped" >&2
  exit 77
}
if [ "$1" != --hub ]; then  # once more inside a namespace of its own, so that the bridge and the names are nobody else's
  for tool in ip unshare nsenter setpriv; do
    command -v $tool > /dev/null || refuse "no program $tool (packages iproute2, util-linux)"
  done
  own=(unshare --net --uts)
  "${own[@]}" true 2> /dev/null || own=(unshare --user --map-root-user --net --uts)
  "${own[@]}" true 2> /dev/null || refuse "this machine allows no network namespaces"
  exec "${own[@]}" "$0" --hub "$@"
fi
shift
if [[ ! ${1:-} =~ ^[0-9]+(,[0-9]+)*$ ]]; then
  echo "hosts.sh: SLOTS are ranks per host, as in 2,2; not '${1:-}'" >&2
  exit 2
fi

slots=(${1//,/ })
mpirun=$2
shift 2
"$mpirun" --version 2>&1 | grep -qE 'Open MPI|OpenRTE' || refuse "$mpirun is not Open MPI's"
TPO_HOSTS=$(mktemp -d) || exit 1
export TPO_HOSTS
trap 'exec 4>&-; wait; rm -rf "$TPO_HOSTS"' EXIT
trap 'exit 143' INT TERM HUP
mkfifo "$TPO_HOSTS/alive"
exec 4<> "$TPO_HOSTS/alive" 3< "$TPO_HOSTS/alive"  # hosts keep 3 only: they see its end when this script is gone

hostname hub
ip link set lo up
if ! { ip link add bridge type bridge && ip link set bridge up && ip addr add 10.77.0.254/24 dev bridge; } 2> /dev/null
then
  refuse "this machine allows no bridge between namespaces"
fi
self=$(readlink -f "$0")
ranks=0
for i in "${!slots[@]}"; do
  address=10.77.0.$((i + 1))
  unshare --net --uts "$self" --host "host$i" "$address" 4>&- &
  pid=$!
  for _ in $(seq 500); do
    [ -e "$TPO_HOSTS/$address" ] && break
    sleep 0.01
  done
  [ -e "$TPO_HOSTS/$address" ] || refuse "host $i did not start"
  ip link add "to$i" type veth peer name eth0 netns "$pid" && ip link set "to$i" master bridge up &&
    nsenter -t "$pid" --net sh -c "ip addr add $address/24 dev eth0 && ip link set eth0 up" ||
    refuse "host $i cannot be joined to the bridge"
  echo "$address slots=${slots[$i]}" >> "$TPO_HOSTS/hostfile"
  ranks=$((ranks + slots[i]))
done

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
setpriv --pdeathsig TERM "$mpirun" --hostfile "$TPO_HOSTS/hostfile" -n $ranks --bind-to none \
  --mca plm_rsh_agent "$self --agent" --mca btl self,vader,tcp \
  --mca oob_tcp_if_include 10.77.0.0/24 --mca btl_tcp_if_include 10.77.0.0/24 "$@" 3<&- 4>&- &
job=$!
trap 'kill $job 2> /dev/null; exit 143' INT TERM HUP
wait $job
