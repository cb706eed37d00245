"""Draw the curves of training runs and print their results.

One work dir gives its losses above its metrics; several are compared. A resumed run is one curve.
Example: densebackbones plot work_dirs/revcol_maskrcnn_coco
"""

import argparse
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg

from backbones.pictures.curves import draw, draw_beside, main_metrics, read_runs, split, table
from backbones.usage import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("work_dir", type=Path, nargs="+", help="work dirs of trainings; several are compared")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        help="the picture (default: curves.png in the work dir, or comparison.png in the first of several)",
    )


def main(args: argparse.Namespace) -> None:
    """Draw and print."""
    if args.out and args.out.suffix.lower()[1:] not in FigureCanvasAgg.filetypes:
        raise UsageError(f"-o {args.out}: the name of a picture ends in .png, .pdf, .svg or the like")
    runs = {str(work_dir): split(read_runs(work_dir)) for work_dir in args.work_dir}
    for work_dir, (training, _) in runs.items():
        if not training:
            raise UsageError(f"{work_dir} holds no log of a training run ({work_dir}/*/vis_data/scalars.json)")
    out = args.out or args.work_dir[0] / ("curves.png" if len(runs) == 1 else "comparison.png")
    if len(runs) == 1:
        ((training, evaluations),) = runs.values()
        draw(training, evaluations, main_metrics(evaluations), out)
    else:
        draw_beside(runs, out)
    for work_dir, (training, evaluations) in runs.items():
        if len(runs) > 1:
            print(f"{work_dir}:")
        print(table(training, evaluations, main_metrics(evaluations)))
    print(f"curves: {out}")
