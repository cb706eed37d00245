"""Finds the data sets and metrics of a config."""

import inspect
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

from backbones.config.lookup import registered
from backbones.usage import UsageError

LOOPS = ("train", "val", "test")


def inner_datasets(node: Any) -> Iterator[dict]:
    """The innermost data sets of a data loader, without their wrappers.

    Raises:
        UsageError: for anything but a dict in the place of a data set.
    """
    if not isinstance(node, dict):
        raise UsageError(f"a data set is {node!r}; it must be a dict of settings")
    inner = [node["dataset"]] if "dataset" in node else node.get("datasets", [])
    if not inner:
        yield node
    for child in inner:
        yield from inner_datasets(child)


def all_datasets(cfg: Config, loops: tuple[str, ...] = LOOPS) -> list[dict]:
    """The innermost data sets of some loops."""
    return [dataset for loop in loops for dataset in inner_datasets(cfg.get(f"{loop}_dataloader") or {})]


def dataset_class(dataset: dict) -> Any:
    """The class of a data set's config, or None."""
    return registered(DATASETS, dataset.get("type"))


def prefixes(dataset: dict) -> list[str]:
    """The folders of a data set, relative to its root."""
    prefix = dataset.get("data_prefix") or (dataset.get("split") if reads_images_by_class(dataset) else None) or {}
    return [prefix] if isinstance(prefix, str) else list(prefix.values())


def evaluators(cfg: Config, loop: str) -> list[dict]:
    """The metrics of a loop, as configs."""
    evaluator = cfg.get(f"{loop}_evaluator") or []
    evaluator = evaluator.get("metrics", evaluator) if isinstance(evaluator, dict) else evaluator
    return [evaluator] if isinstance(evaluator, dict) else list(evaluator)


def is_local(path: str) -> bool:
    """Whether a path is a local one, not a URL."""
    return "://" not in path


def downloads(dataset: dict) -> bool:
    """Whether a data set downloads its own files (mmpretrain's CIFAR and MNIST)."""
    cls = dataset_class(dataset)
    parameter = inspect.signature(cls).parameters.get("download") if cls else None
    return dataset.get("download", parameter is not None and parameter.default)


def reads_coco(dataset: dict) -> bool:
    """Whether this is mmdet's ``CocoDataset``."""
    return str(dataset.get("type")).endswith("CocoDataset")


def reads_images_by_class(dataset: dict) -> bool:
    """Whether this is a labelled data set of mmpretrain's ``CustomDataset`` or a subclass, such as ImageNet."""
    classes = getattr(dataset_class(dataset), "__mro__", ())
    return dataset.get("with_label", True) and any(cls.__name__ == "CustomDataset" for cls in classes)


def classes_file_of(dataset: dict) -> str | None:
    """The text file with a segmentation data set's classes, one per line, or None."""
    classes = (dataset.get("metainfo") or {}).get("classes")
    return classes if isinstance(classes, str) and "seg_map_path" in (dataset.get("data_prefix") or {}) else None
