"""The data of a config: moving it to another folder, and checks that come before any time is spent."""

import os
from typing import Any

from _classes import IMAGENET_HELP, check_classes
from _datasets import LOOPS, classes_file_of, downloads, evaluators, inner_datasets, is_local, prefixes
from _usage import UsageError
from mmengine.config import Config

COCO_HELP = """\
COCO 2017 is at https://cocodataset.org/#download: train2017.zip, val2017.zip and annotations_trainval2017.zip,
unpacked into that folder; --data-root DIR takes it from another one. A small generated data set of the same layout,
with classes and so a config of its own, is made in seconds:
    python tools/make_sample_coco.py data/sample_coco
    python tools/train.py configs/revcol_maskrcnn_sample.py"""
ADE20K_HELP = """\
ADE20K is ADEChallengeData2016.zip at http://sceneparsing.csail.mit.edu, to be unpacked into data/ade; --data-root DIR
takes it from another folder, the one with images/ and annotations/. configs/revcol_upernet_custom.py trains on images
and masks of your own."""
OTHER_HELP = (
    "See the data set's own page for the files; --data-root DIR takes them from another folder of the same layout."
)
DATA_HELP = {
    "Coco": COCO_HELP,
    "ADE20K": ADE20K_HELP,
    "ImageNet": IMAGENET_HELP,
    "CustomDataset": IMAGENET_HELP,
}  # by what the class of a data set has in its name


def _inside(path: str, root: str) -> bool:
    path, root = os.path.normpath(path), os.path.normpath(root)
    return path == root or path.startswith(root + os.sep)


def _root(dataset: dict) -> str:
    """The folder a data set lies in: its ``data_root``, or what its joined paths have in common."""
    paths = [path for path in [dataset.get("ann_file"), *prefixes(dataset)] if path]
    root = dataset.get("data_root") or (os.path.commonpath(paths) if len(paths) > 1 else "")
    if not root:
        raise UsageError(
            f"--data-root: the config's {dataset.get('type')} names no data_root; set its paths by --cfg-options"
        )
    return root


def set_data_root(cfg: Config, new: str) -> None:
    """Point every data set and every evaluator of a config at another folder of the same layout, in place.

    Args:
        cfg: The config. Data sets may be wrapped in others; paths may be relative to ``data_root`` or joined with it.
        new: The other folder.

    Raises:
        UsageError: for an evaluator's annotation file that lies in no data set's folder.
    """
    loaders = [f"{loop}_dataloader" for loop in LOOPS if cfg.get(f"{loop}_dataloader")]
    roots = sorted(
        {_root(dataset) for loader in loaders for dataset in inner_datasets(cfg[loader])}, key=len, reverse=True
    )

    def moved(node: Any) -> Any:
        if isinstance(node, dict):
            return type(node)({key: moved(value) for key, value in node.items()})
        if isinstance(node, (list, tuple)):
            return type(node)(map(moved, node))
        root = next((root for root in roots if isinstance(node, str) and _inside(node, root)), None)
        return node if root is None else os.path.normpath(os.path.join(new, os.path.relpath(node, root)))

    for loop in LOOPS:
        for evaluator in evaluators(cfg, loop):
            file = evaluator.get("ann_file")
            if file and not any(_inside(file, root) for root in roots):
                raise UsageError(
                    f"--data-root: {loop}_evaluator reads {file}, outside the data sets' folders ({', '.join(roots)}); "
                    f"set {loop}_evaluator.ann_file by --cfg-options"
                )
    for key in [*loaders, *(f"{loop}_evaluator" for loop in LOOPS if cfg.get(f"{loop}_evaluator")), "data_root"]:
        if key in cfg:
            cfg[key] = moved(cfg[key])


def check_data(cfg: Config, loops: tuple[str, ...]) -> None:
    """Refuse a config whose annotation files or image folders are not there.

    Raises:
        UsageError: with the expected tree, where to get the data, and the command that makes a sample data set.
    """
    expected: dict[str, None] = {}  # an ordered set
    types = set()
    for loop in loops:
        if not cfg.get(f"{loop}_dataloader"):
            continue
        for dataset in inner_datasets(cfg[f"{loop}_dataloader"]):
            if downloads(dataset):
                continue
            root = dataset.get("data_root") or ""
            parts = [part for part in [dataset.get("ann_file"), *prefixes(dataset)] if part]
            expected |= dict.fromkeys(os.path.join(root, part) for part in parts or [""])
            if classes_file := classes_file_of(dataset):
                expected[classes_file] = None
            types.add(str(dataset.get("type")))
        expected |= dict.fromkeys(e["ann_file"] for e in evaluators(cfg, loop) if e.get("ann_file"))
    paths = {os.path.normpath(path) for path in expected if path and is_local(path)}
    absent = {path for path in paths if not os.path.exists(path) or (os.path.isdir(path) and not os.listdir(path))}
    if absent:
        tree = "\n".join(f"    {path:60} {'<- missing' if path in absent else ''}".rstrip() for path in sorted(paths))
        raise UsageError(
            f"the data set is not there. The config expects\n{tree}\n"
            + next((text for name, text in DATA_HELP.items() if any(name in kind for kind in types)), OTHER_HELP)
        )
    check_classes(cfg, [dataset for loop in loops for dataset in inner_datasets(cfg.get(f"{loop}_dataloader") or {})])
