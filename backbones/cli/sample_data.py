"""Make a small data set for detection in COCO's layout.

Drawn shapes with instance masks, for densebackbones::revcol_maskrcnn_sample.py; nothing is downloaded.
Example: densebackbones sample-data data/sample_coco
"""

import argparse
from pathlib import Path

from backbones.datasets.sample import make_sample_coco
from backbones.usage import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("out", type=Path, help="folder to make, for example data/sample_coco")
    parser.add_argument("--train", type=int, default=1000, help="number of training images (default: %(default)s)")
    parser.add_argument("--val", type=int, default=200, help="number of held-out images (default: %(default)s)")
    parser.add_argument("--size", type=int, default=160, help="height and width in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other images (default: %(default)s)")


def main(args: argparse.Namespace) -> None:
    """Make the data set unless it exists."""
    try:
        made = make_sample_coco(args.out, args.train, args.val, args.size, args.seed)
    except (ValueError, OSError) as error:
        raise UsageError(error) from error
    print(f"{args.out}: {'done' if made else 'already there, nothing to do'}")
