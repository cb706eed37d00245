#!/usr/bin/env bash
# Make the environment, then run the whole test suite. Arguments go to pytest: bash tools/test.sh -k revcol
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash tools/env.sh
exec .venv/bin/python -m pytest "$@"
