#!/usr/bin/env bash
# Train with several processes, one a GPU, on one machine or several.
#
#   bash tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
#   NNODES=2 MASTER_ADDR=first-machine bash tools/dist_train.sh CONFIG GPUS ...     # the same on each machine
#
# GPUS is their number on this machine. PORT (29500) is that of MASTER_ADDR. If a process dies, the others are ended and
# all start again from the last checkpoint, up to MAX_RESTARTS times (3).
set -euo pipefail
config=${1:?CONFIG is missing; see the head of this file}
processes=${2:?GPUS is missing; see the head of this file}
shift 2
if [ "${NNODES:-1}" = 1 ]; then
    place=(--standalone)
else
    place=(--nnodes "$NNODES" --rdzv-backend c10d --rdzv-endpoint "${MASTER_ADDR:?}:${PORT:-29500}")
fi
# The processes find one another by a store. A restart needs a new one: the old one has the ports of those that died.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
trap '' USR1 # the training saves its state and ends; torchrun would die of the signal
exec "${PYTHON:-python}" -m torch.distributed.run "${place[@]}" --nproc-per-node "$processes" \
    --max-restarts "${MAX_RESTARTS:-3}" "$(dirname "${BASH_SOURCE[0]}")/train.py" "$config" --launcher pytorch "$@"
