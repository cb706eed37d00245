"""The arguments that put labelled data of one's own into a config, for ``train``, ``test`` and ``drop-in``."""

import argparse

from mmengine.config import Config

from backbones.config.changes import Change
from backbones.config.own_data import choose_classes, own_data_changes, task_of
from backbones.datasets.layouts import Split, find_layout
from backbones.usage import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--classes",
        metavar="auto|FILE",
        help="take the classes from the data in --data-root, or from a file with a class a line; data sets, metrics "
        "and heads follow. Layouts: COCO, Pascal VOC and YOLO boxes; images and index masks; a folder a class",
    )
    parser.add_argument(
        "--val-share",
        type=float,
        default=Split.val_share,
        help="share of the images held out where the data have no split, stratified by class (default: %(default)s)",
    )
    parser.add_argument("--boxes-only", action="store_true", help="remove the mask branch, for data without masks")


def changes(cfg: Config, args: argparse.Namespace) -> list[Change]:
    """The changes that put the data of the arguments into a config.

    Raises:
        UsageError: for data or classes that do not fit the config.
    """
    if not args.data_root:
        raise UsageError("--classes reads the labels of your data; name their folder by --data-root DIR")
    data = find_layout(args.data_root, task_of(cfg), Split(args.val_share))
    return own_data_changes(cfg, data, choose_classes(data, args.classes), args.boxes_only)
