#!/usr/bin/env bash
# Evaluate with several processes, one a GPU of this machine.
#
#   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
set -euo pipefail
config=${1:?CONFIG is missing; see the head of this file}
checkpoint=${2:?CHECKPOINT is missing; see the head of this file}
processes=${3:?GPUS is missing; see the head of this file}
shift 3
exec "${PYTHON:-python}" -m torch.distributed.run --standalone --nproc-per-node "$processes" \
    "$(dirname "${BASH_SOURCE[0]}")/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
