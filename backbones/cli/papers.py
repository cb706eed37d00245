"""Show the ideas of the papers at work: small trainings, their numbers and a figure.

    densebackbones papers cait --data-root FLOWERS      # FLOWERS/train/CLASS/*.jpg, FLOWERS/val/CLASS/*.jpg

The trainings are those of densebackbones train, whose commands are printed; finished ones are not repeated, and a
killed one goes on. After each seed the numbers and the figure are written as NAME.json and NAME.png, and a table of
means (smallest to largest) is printed. docs/PAPERS.md describes the comparisons.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from backbones import cli
from backbones.config.options import HELP as OPTIONS_HELP
from backbones.papers import comparisons, load
from backbones.papers._figures import table
from backbones.papers._runner import Runner, write
from backbones.usage import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("comparison", choices=list(comparisons()), help="its name")
    parser.add_argument("--data-root", help="photographs in a folder for each class; detectors make their own data")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2, and 0 for detectors")
    parser.add_argument(
        "--work-dir", type=Path, default=Path("work_dirs/papers"), help="folder of the runs (default: %(default)s)"
    )
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("docs/papers"), help="folder of the results (default: %(default)s)"
    )
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help=OPTIONS_HELP)


def main(args: argparse.Namespace) -> None:
    """Train, measure, draw.

    Raises:
        UsageError: without the data, and for runs of other settings in the work dir.
    """
    comparison = load(args.comparison)
    folder = args.work_dir / args.comparison
    if comparison.make_data:
        data_root = str(folder / "data")
        comparison.make_data(folder / "data")
    elif not (data_root := args.data_root):
        raise UsageError("name the folder of the photographs, with train/CLASS/*.jpg and val/CLASS/*.jpg: --data-root")
    untrained = comparison.measure_untrained() if comparison.measure_untrained else {}
    args.out.mkdir(parents=True, exist_ok=True)
    picture = args.out / f"{args.comparison}.png"
    runner = Runner(train, folder, data_root, args.cfg_options)
    for results in runner.results(comparison, args.seeds or comparison.seeds):
        write(picture.with_suffix(".json"), dict(untrained, runs=results))
        comparison.draw(results, untrained).savefig(picture, dpi=100)
        print(
            table(results, comparison.columns),
            f"numbers: {picture.with_suffix('.json')}",
            f"figure: {picture}",
            sep="\n\n",
        )


def train(arguments: Sequence[str]) -> None:
    """Run ``densebackbones train``, whose errors are raised."""
    args = cli.parse_args("train", arguments)
    args.main(args)
