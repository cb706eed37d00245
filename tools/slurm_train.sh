#!/usr/bin/env bash
# Train under Slurm: one task a machine, which starts a process for each of its GPUS.
#
#   sbatch --nodes=2 --ntasks-per-node=1 --gres=gpu:8 --signal=USR1@300 tools/slurm_train.sh CONFIG 8 [arguments]
#
# Five minutes before the time limit Slurm sends USR1: the state is saved. Submitted again, the training goes on.
set -euo pipefail
tools=${SLURM_SUBMIT_DIR:?run it by sbatch from the repository}/tools
export NNODES=$SLURM_NNODES PORT=${PORT:-29500}
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR
srun --kill-on-bad-exit=1 bash "$tools/dist_train.sh" "$@" --resume
