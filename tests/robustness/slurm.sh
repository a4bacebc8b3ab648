#!/usr/bin/env bash
# A Slurm cluster of this machine alone, for the tests, without a data base: Debian's
# slurm-wlm and munge, as root. Everything is in FOLDER. It runs until stdin is closed.
set -eu
if [ $# -ne 1 ]; then
  echo "usage: $0 FOLDER" >&2
  exit 2
fi
FOLDER=$(realpath "$1")
HOST=$(hostname -s)
mkdir -p "$FOLDER"/{munge,state,spool}
# munged refuses folders and keys that others may write or read
chmod 755 "$FOLDER" "$FOLDER"/munge
head -c 1024 /dev/urandom > "$FOLDER/munge.key"
chmod 600 "$FOLDER/munge.key"
SOCKET=$FOLDER/munge/socket
cat > "$FOLDER/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=${CTLD_PORT:-16817}
SlurmdPort=${SLURMD_PORT:-16818}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$SOCKET
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmdPidFile=$FOLDER/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=20
JobRequeue=0
# whatever this machine has
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=8 RealMemory=1000 Gres=gpu:2 State=UNKNOWN
PartitionName=tests Nodes=$HOST Default=YES MaxTime=INFINITE State=UP
CONF
# GPUs that are none: Slurm counts them, nobody opens the files
cat > "$FOLDER/gres.conf" <<CONF
Name=gpu File=/dev/null
Name=gpu File=/dev/zero
CONF
cat > "$FOLDER/cgroup.conf" <<CONF
CgroupAutomount=no
CONF
export SLURM_CONF=$FOLDER/slurm.conf
PIDS=()
stop() {
  for ((i = ${#PIDS[@]} - 1; i >= 0; i--)); do kill "${PIDS[i]}" 2>/dev/null || true; done
  wait
}
trap stop EXIT
munged -F --force --key-file="$FOLDER/munge.key" --socket="$SOCKET" \
  --pid-file="$FOLDER/munge/pid" --log-file="$FOLDER/munge.log" \
  --seed-file="$FOLDER/munge.seed" & PIDS+=($!)
for _ in $(seq 100); do [ -S "$SOCKET" ] && break; sleep 0.1; done
slurmctld -D > "$FOLDER/slurmctld.log" 2>&1 & PIDS+=($!)
slurmd -D -N "$HOST" > "$FOLDER/slurmd.log" 2>&1 & PIDS+=($!)
for _ in $(seq 300); do
  if sinfo -h -o %t 2>/dev/null | grep -qx idle; then
    echo ready
    cat > /dev/null
    exit 0
  fi
  sleep 0.2
done
echo "no node became idle, see the logs in $FOLDER" >&2
exit 1
