"""Moves the data sets of a config to another folder."""

import os
from typing import Any

from mmengine.config import Config

from backbones.datasets.find import LOOPS, evaluators, inner_datasets, prefixes
from backbones.usage import UsageError


def _inside(path: str, root: str) -> bool:
    path, root = os.path.normpath(path), os.path.normpath(root)
    return path == root or path.startswith(root + os.sep)


def _root(dataset: dict) -> str:
    """The folder of a data set: its ``data_root``, or the common part of its paths."""
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
        UsageError: for an evaluator's annotation file outside the folders of the data sets.
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
