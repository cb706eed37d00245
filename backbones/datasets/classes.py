"""Checks that the classes of the data sets are those of the config."""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.fileio import list_from_file

from backbones.datasets.find import (
    LOOPS,
    classes_file_of,
    dataset_class,
    evaluators,
    inner_datasets,
    is_local,
    prefixes,
    reads_coco,
    reads_images_by_class,
)
from backbones.usage import UsageError, note

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif")  # mmpretrain's
IMAGENET_HELP = """\
ImageNet-1k (ILSVRC 2012) is at https://image-net.org/download.php, after registration. Each class has a folder in train
and in val; the validation images come without folders and are sorted by the labels in the development kit:
    data/imagenet/train/n01440764/*.JPEG  ...
    data/imagenet/val/n01440764/*.JPEG  ...
--data-root DIR names another folder of this layout, with any classes."""


def check_classes(cfg: Config, datasets: list[dict]) -> None:
    """Refuse data sets whose classes differ from those of the config's heads, or from each other's.

    Raises:
        UsageError: with the names or numbers, and the options that correct the config.
    """
    _check_coco_classes(datasets)
    _check_image_classes(cfg, [dataset for dataset in datasets if reads_images_by_class(dataset)])
    for dataset in datasets:
        classes_file = classes_file_of(dataset)
        if classes_file and is_local(classes_file):
            _check_classes_file(cfg.model, classes_file)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _check_coco_classes(datasets: list[dict]) -> None:
    """Refuse a COCO annotation file that lacks classes of the config; mmdet would fail at the first evaluation.

    Reads the smallest file only: all files of a data set share their categories, and the largest of COCO is slow.
    """
    files = {
        os.path.join(dataset.get("data_root") or "", dataset["ann_file"]): dataset
        for dataset in datasets
        if reads_coco(dataset) and dataset.get("ann_file")
    }
    if not (local := [path for path in files if is_local(path)]):
        return
    smallest = min(local, key=os.path.getsize)
    dataset = files[smallest]
    classes = (dataset.get("metainfo") or {}).get("classes") or dataset_class(dataset).METAINFO["classes"]
    classes = [classes] if isinstance(classes, str) else list(classes)
    names = [category["name"] for category in json.loads(Path(smallest).read_text())["categories"]]
    ignored = [name for name in names if name not in classes]
    if lacking := [name for name in classes if name not in names]:
        raise UsageError(
            f"{smallest} has the categories {_listed(names)}, but not the config's {_listed(lacking)}. To train those "
            "of the data: --data-root DIR --classes auto; the config of the sample data set is "
            "densebackbones::revcol_maskrcnn_sample.py"
        )
    if ignored:
        note(f"objects of {', '.join(ignored)} are left out: the config's classes do not contain them")


def _segmentation_heads(model: dict) -> Iterator[tuple[str, dict]]:
    for name in ("decode_head", "auxiliary_head"):
        node = model.get(name) or []
        heads = {"": node} if isinstance(node, dict) else {f".{i}": head for i, head in enumerate(node)}
        yield from ((f"model.{name}{index}.num_classes", head) for index, head in heads.items())


def _check_classes_file(model: dict, classes_file: str) -> None:
    """Refuse heads with another number of classes than the file; mmseg would fail or give wrong metrics."""
    number = len(list_from_file(classes_file))
    heads = {key: head["num_classes"] for key, head in _segmentation_heads(model)}
    if wrong := [f"{key} is {given}" for key, given in heads.items() if given != number]:
        raise UsageError(
            f"{classes_file} has {number} lines, one per class, but {', '.join(wrong)}; "
            f"add --cfg-options {' '.join(f'{key}={number}' for key in heads)}"
        )


def labels_file(dataset: dict) -> str | None:
    """The text file with the labels of a classification data set, or None if the folders are the labels."""
    root, split = dataset.get("data_root") or "", dataset.get("split")
    if dataset.get("ann_file"):
        return os.path.join(root, dataset["ann_file"])
    file = os.path.join(root, "meta", f"{split}.txt")
    return file if split and os.path.isfile(file) else None


def _class_numbers(cfg: Config) -> dict[str, int]:
    """Config key -> number of classes, for every place where a classifier's config states it."""

    def stated(node: Any, where: str) -> Iterator[tuple[str, int]]:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
        for key, value in items:
            if key == "num_classes" and value is not None:
                yield f"{where}.{key}", value
            yield from stated(value, f"{where}.{key}")

    model: Any = cfg.get("model") or {}
    numbers = dict(stated(model.get("head"), "model.head"))
    if numbers:
        inside = "data_preprocessor" in model  # where the runner looks first
        where = "model.data_preprocessor" if inside else "data_preprocessor"
        numbers |= dict(stated(model.data_preprocessor if inside else cfg.get("data_preprocessor"), where))
    return numbers


def _class_names(dataset: dict) -> Any:
    """The class names in a classification data set's config or, without any, in its class; None: the folders' names."""
    metainfo = dataset.get("metainfo") or {}
    if "classes" in metainfo or "classes" in dataset:
        names = metainfo.get("classes", dataset.get("classes"))
        return list_from_file(names) if isinstance(names, str) else names
    return getattr(dataset_class(dataset), "METAINFO", {}).get("classes")


def _class_folders(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """The names of the class folders.

    Raises:
        UsageError: if there are none, or some hold no image.
    """

    def images(name: str) -> Iterator[str]:
        for _, _, files in os.walk(os.path.join(folder, name)):
            yield from (file for file in files if file.lower().endswith(suffixes))

    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not names:
        raise UsageError(f"{folder} has no folders; each class needs one.\n{IMAGENET_HELP}")
    if empty := [name for name in names if next(images(name), None) is None]:
        raise UsageError(
            f"{len(empty)} of the {len(names)} class folders in {folder} hold no image: {_listed(empty)}. Add some "
            f"(ending in {', '.join(suffixes)}), or remove the folder from every data set"
        )
    return names


def _check_labels(file: str, key: str, number: int) -> None:
    """Refuse a list of images with a line that does not end in a class number."""
    for index, line in enumerate(list_from_file(file), 1):
        label = line.strip().rpartition(" ")[2]
        if not label.isdecimal() or int(label) >= number:
            raise UsageError(
                f"line {index} of {file} is {line!r}; a line is IMAGE LABEL, with a label from 0 to {number - 1} as "
                f"{key} is {number}. Correct the file, or set the number of classes by --cfg-options"
            )


def _check_image_classes(cfg: Config, datasets: list[dict]) -> None:
    """Refuse images whose classes differ from the head's or each other's, or are too few for the metric.

    mmpretrain would fail with an index out of range while training, or give wrong metrics.
    """
    stated = _class_numbers(cfg)
    if not stated:  # self-supervised training reads no labels
        return
    key, number = next(iter(stated.items()))
    found: dict[str, list[str]] = {}
    for dataset in datasets:
        folder = os.path.normpath(os.path.join(dataset.get("data_root") or "", *prefixes(dataset)))
        file = labels_file(dataset)
        if file and is_local(file):
            _check_labels(file, key, number)
        elif not file and is_local(folder):
            found[folder] = _class_folders(folder, tuple(dataset.get("extensions", IMAGE_SUFFIXES)))
    for (one, names), (other, others) in itertools.combinations(found.items(), 2):
        if names != others:
            lacking = {one: [name for name in others if name not in names]}
            lacking[other] = [name for name in names if name not in others]
            raise UsageError(
                f"{' and '.join(f'{folder} lacks {_listed(left)}' for folder, left in lacking.items() if left)}. The "
                "number of a class is its folder's place in the alphabet, so all data sets need the same folders"
            )
    if found:
        folder, names = next(iter(found.items()))
        _check_class_numbers(cfg, stated, len(names), f"{folder} has {len(names)} class folders ({_listed(names)})")
    else:
        _check_class_numbers(cfg, stated, number, f"{key} is {number}")


def _check_class_numbers(cfg: Config, stated: dict[str, int], number: int, found: str) -> None:
    """Refuse a config that states another number of classes anywhere, with all options that correct it."""
    wrong = [f"{key} is {given}" for key, given in stated.items() if given != number]
    options: dict[str, int | None] = dict.fromkeys((key for key, given in stated.items() if given != number), number)
    for loop in LOOPS:
        for dataset in inner_datasets(cfg.get(f"{loop}_dataloader") or {}):
            names = _class_names(dataset) if reads_images_by_class(dataset) and not labels_file(dataset) else None
            if names and len(names) != number:
                key = f"{loop}_dataloader.dataset.metainfo.classes"
                wrong.append(f"{key} are {len(names)} names")
                options[key] = None  # the folders' names
        for index, evaluator in enumerate(evaluators(cfg, loop)):
            listed = isinstance(cfg[f"{loop}_evaluator"], (list, tuple))
            key = f"{loop}_evaluator.{index}.topk" if listed else f"{loop}_evaluator.topk"
            if (rank := max(np.atleast_1d(evaluator.get("topk", 1)))) > number:
                wrong.append(f"{key} is {rank}")
                options[key] = 1
    if wrong:
        raise UsageError(
            f"{found}, but {', '.join(wrong)}; add --cfg-options {' '.join(f'{key}={v}' for key, v in options.items())}"
        )
