#!/usr/bin/env bash
# Make the environment, then run the tests, one process per core.
#
#   bash tools/test.sh               everything but the campaigns
#   bash tools/test.sh quick         without trainings, builds and other long processes
#   bash tools/test.sh long          the campaigns alone: hundreds of drawn cases, thousands of training steps
#   bash tools/test.sh -k revcol     other arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash tools/env.sh
selection=(-m "not long")
case "${1:-}" in
quick) selection=(-m "not slow and not long") && shift ;;
long) selection=(-m long) && shift ;;
esac
workers=$(nproc)         # before the next line, which nproc obeys
export OMP_NUM_THREADS=1 # each process has a core of its own
exec .venv/bin/python -m pytest -n "$workers" --dist loadfile --no-loadscope-reorder "${selection[@]}" "$@"
