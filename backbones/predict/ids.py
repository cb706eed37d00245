"""The ids of images and categories, so that results load beside annotations."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from mmengine.config import Config

from backbones.datasets.find import inner_datasets
from backbones.datasets.metainfo import test_loader
from backbones.predict.inputs import Input
from backbones.usage import UsageError


@dataclass(frozen=True)
class Ids:
    """Ids of a run.

    Attributes:
        classes: Name of each class.
        categories: Category id of each class: the annotation file's, otherwise its index.
        images: Input -> its entry of the annotation file, with ``id`` and ``file_name``; empty without one.
    """

    classes: Sequence[str]
    categories: Sequence[int]
    images: dict[Input, dict[str, Any]] = field(default_factory=dict)


def choose_ids(inputs: Sequence[Input], classes: Sequence[str], cfg: Config, annotations: str | None) -> Ids:
    """Take the ids of an annotation file: the one that is given, or the config's test set if it has all inputs.

    Args:
        inputs: The files.
        classes: Names of the model's classes.
        cfg: The config.
        annotations: A file in COCO's format, or None.

    Raises:
        UsageError: if the given file cannot be read, or lacks an input or a class.
    """
    if annotations:
        ids, absent = _match(inputs, classes, Path(annotations), None)
        if absent:
            more = f", and {len(absent) - 4} more" if len(absent) > 4 else ""
            raise UsageError(f"--annotations {annotations} lacks {', '.join(absent[:4])}{more}")
        return ids
    dataset = next(inner_datasets(test_loader(cfg)), {})
    root, prefix = dataset.get("data_root") or "", dataset.get("data_prefix") or {}
    file = Path(root, dataset.get("ann_file") or "")
    folder = Path(root, prefix.get("img", "") if isinstance(prefix, dict) else prefix).resolve()
    if file.suffix == ".json" and file.is_file() and all(folder in file.path.resolve().parents for file in inputs):
        ids, absent = _match(inputs, classes, file, folder)
        if not absent:
            return ids
    return Ids(classes, range(len(classes)))


def _match(inputs: Sequence[Input], classes: Sequence[str], file: Path, folder: Path | None) -> tuple[Ids, list[str]]:
    """The ids of an annotation file, and the inputs and classes that it lacks.

    Without the folder of its images, the end of an input's path must be a ``file_name``.
    """
    try:
        content = json.loads(file.read_text())
        images = {str(PurePath(image["file_name"])): image for image in content["images"]}
        categories = {category["name"]: category["id"] for category in content["categories"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{file} cannot be read as COCO annotations with images and categories ({type(error).__name__}: {error})"
        ) from error
    matched = {}
    for entry in inputs:
        parts = entry.path.resolve().parts
        ends = [os.path.join(*parts[start:]) for start in range(1, len(parts))]
        names = ends if folder is None else [str(entry.path.resolve().relative_to(folder))]
        if name := next((name for name in names if name in images), None):
            matched[entry] = images[name]
    absent = [str(entry.path) for entry in inputs if entry not in matched]
    absent += [f"the class {name}" for name in classes if name not in categories]
    return Ids(classes, [categories.get(name, -1) for name in classes], matched), absent
