#!/usr/bin/env bash
# From a bare machine to a trained RevCol Mask R-CNN: environment, sample data, training, evaluation, pictures.
# Stopped at any point, it goes on there when it is run again. To start over: rm -rf work_dirs/demo
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

config=configs/revcol_maskrcnn_sample.py
data=data/sample_coco
work=work_dirs/demo
python=.venv/bin/python
times=()

step() { # step NAME COMMAND...
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    "$@"
    times+=("$(printf '%-12s %4d min %02d s' "$name" $(((SECONDS - start) / 60)) $(((SECONDS - start) % 60)))")
}

step environment bash tools/env.sh
step data "$python" tools/make_sample_coco.py "$data"
step training "$python" tools/train.py "$config" --data-root "$data" --work-dir "$work" --resume
step evaluation "$python" tools/test.py "$config" "$(cat "$work/last_checkpoint")" --data-root "$data" \
    --work-dir "$work/test" --show-dir "$work/predictions"
step curves "$python" tools/plot_run.py "$work"

printf '\nTime of this run\n'
printf '  %s\n' "${times[@]}"
pictures=("$work"/predictions/*.*)
printf '\nPictures\n  %s\n' "$work/curves.png"
printf '  %s\n' "${pictures[@]:0:6}"
printf '  ... %d in %s, ground truth left, prediction right\n' "${#pictures[@]}" "$work/predictions"
