#!/usr/bin/env bash
# train.py in several processes: one per GPU, or on the CPU over gloo.
set -eu
if [ $# -lt 2 ]; then
  echo "usage: $0 CONFIG GPUS [OPTIONS of tools/train.py]" >&2
  exit 2
fi
CONFIG=$1
GPUS=$2
PYTHONPATH="$(dirname "$0")/..:${PYTHONPATH:-}" exec python -m torch.distributed.run \
  --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
  --nproc_per_node="$GPUS" \
  "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "${@:3}"
