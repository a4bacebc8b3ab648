#!/usr/bin/env bash
# train.py on a Slurm cluster. Reads GPUS, GPUS_PER_NODE, CPUS_PER_TASK and
# SRUN_ARGS from the environment.
set -eu
if [ $# -lt 4 ]; then
  echo "usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [OPTIONS of tools/train.py]" >&2
  exit 2
fi
GPUS=${GPUS:-8}
PYTHONPATH="$(dirname "$0")/..:${PYTHONPATH:-}" exec srun -p "$1" --job-name="$2" \
  --gres=gpu:"${GPUS_PER_NODE:-8}" --ntasks="$GPUS" \
  --ntasks-per-node="${GPUS_PER_NODE:-8}" --cpus-per-task="${CPUS_PER_TASK:-5}" \
  --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
  python -u "$(dirname "$0")/train.py" "$3" --work-dir="$4" --launcher=slurm "${@:5}"
