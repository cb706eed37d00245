"""Examines every data set of a config."""

import gc
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.fileio import list_from_file

from backbones.datasets.classes import IMAGE_SUFFIXES, labels_file
from backbones.datasets.doctor import annotations, images, masks
from backbones.datasets.doctor.faults import Fault
from backbones.datasets.files import write_whole
from backbones.datasets.find import (
    LOOPS,
    all_datasets,
    classes_file_of,
    downloads,
    evaluators,
    inner_datasets,
    is_local,
    prefixes,
    reads_coco,
    reads_images_by_class,
)


@dataclass
class Findings:
    """The faults of all data sets of a config, and the annotation files that can be repaired."""

    faults: list[Fault] = field(default_factory=list)
    repaired: dict[str, dict[str, Any]] = field(default_factory=dict)  # path -> content without the faults

    def of(self, outcome: str) -> list[Fault]:
        """The faults that are refused, repaired, or noted."""
        return [fault for fault in self.faults if fault.outcome == outcome]


@dataclass
class Source:
    """An annotation file, or else a folder, the way the config uses it."""

    dataset: dict
    loops: set[str]
    masks: bool
    unturned: bool


def examine(cfg: Config, loops: tuple[str, ...], full: bool = False) -> Findings:
    """Find the faults of the data sets of a config, whose files and folders exist.

    Args:
        cfg: The config; its default scope must be the current one.
        loops: Those of train, val and test to look at.
        full: Decode every image and mask, and compare the training images with the others. Without it, annotation
            files are read, images looked up, the sizes of some read, and a few masks checked.
    """
    with _no_garbage_collection():
        return _examine(cfg, loops, full)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Halves the time to parse a large annotation file, whose many objects are in use."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _examine(cfg: Config, loops: tuple[str, ...], full: bool) -> Findings:
    findings = Findings()
    pictures: dict[str, dict[str, images.Header]] = {loop: {} for loop in loops}
    headers: dict[str, images.Header] = {}  # of all loops
    for path, source in sources(cfg, loops).items():
        content: dict[str, Any] = {}
        if reads_coco(source.dataset):
            content, faults = annotations.read(path, source.loops != {"test"})
            findings.faults += faults
            if faults:
                continue
        if full:
            paths = [file for file in image_paths(source.dataset, content) if os.path.exists(file)]
            new = [file for file in paths if file not in headers]
            headers |= zip(new, images.in_parallel(lambda file: images.read_header(file, True), new, path), strict=True)
            for loop in source.loops:
                pictures[loop] |= {file: headers[file] for file in paths}
        if reads_coco(source.dataset):
            _examine_coco(path, content, source, headers if full else None, findings)
        elif classes_file := classes_file_of(source.dataset):
            findings.faults += masks.find_faults(source.dataset, classes_file, full)
        elif full:  # a list of labelled images, or folders
            absent = images.missing(image_paths(source.dataset, content))
            findings.faults += [Fault("missing-image", path, file) for file in absent]
    findings.faults += images.header_faults(headers)
    others = {file: header for loop in loops if loop != "train" for file, header in pictures[loop].items()}
    findings.faults += images.duplicates(pictures.get("train", {}), others)
    return findings


def _examine_coco(
    path: str, content: dict, source: Source, headers: dict[str, images.Header] | None, findings: Findings
) -> None:
    faults = images.coco_faults(content, path, folder_of(source.dataset), headers, source.unturned)
    content = annotations.repair(content, faults)  # the annotations are held against the true sizes
    faults += annotations.find_faults(content, path, source.masks, source.loops != {"test"})
    findings.faults += faults
    if any(fault.outcome == "repaired" for fault in faults):
        findings.repaired[path] = annotations.repair(content, [f for f in faults if f.entry and f.entry[0] != "images"])


def write_repaired(cfg: Config, findings: Findings, folder: str) -> None:
    """Write the repaired annotation files into a folder, and make every data set and evaluator of the config read them.

    Args:
        cfg: The config, changed in place.
        findings: Of ``examine``.
        folder: The names of the copies contain a checksum of their content, so nothing else is overwritten.
    """
    copies = {}
    for path, content in findings.repaired.items():
        text = json.dumps(content)
        digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
        copy = Path(folder, f"{Path(path).stem}.{digest}.json").absolute()
        if not copy.exists():
            write_whole(copy, text)
        copies[path] = str(copy)
    for dataset in all_datasets(cfg):
        if (path := _annotation_file(dataset)) in copies:
            dataset["ann_file"] = copies[path]
    for loop in LOOPS:
        for evaluator in evaluators(cfg, loop):
            if (path := os.path.normpath(evaluator.get("ann_file") or "")) in copies:
                evaluator["ann_file"] = copies[path]


def _annotation_file(dataset: dict) -> str:
    return os.path.normpath(os.path.join(dataset.get("data_root") or "", dataset.get("ann_file") or ""))


def folder_of(dataset: dict) -> str:
    """The folder of a data set's images."""
    prefix = prefixes(dataset)
    return os.path.normpath(os.path.join(dataset.get("data_root") or "", prefix[0] if prefix else ""))


def sources(cfg: Config, loops: tuple[str, ...]) -> dict[str, Source]:
    """Annotation file, or else folder, of each data set that can be examined -> how it is used."""
    found: dict[str, Source] = {}
    for loop in loops:
        loader = cfg.get(f"{loop}_dataloader") or {}
        for dataset in inner_datasets(loader) if loader else ():
            coco = reads_coco(dataset) and dataset.get("ann_file")
            listed = classes_file_of(dataset) and dataset.get("ann_file")  # a list of the images
            if not (coco or (classes_file_of(dataset) and not listed) or reads_images_by_class(dataset)):
                continue
            path = _annotation_file(dataset) if coco else labels_file(dataset) or folder_of(dataset)
            if not is_local(path) or downloads(dataset):
                continue
            uses_masks = True in values_of(loader, "with_mask") or any(
                "segm" in str(evaluator.get("metric", "")) for evaluator in evaluators(cfg, loop)
            )
            unturned = any("ignore_orientation" in str(value) for value in values_of(loader, "color_type"))
            source = found.setdefault(path, Source(dataset, set(), False, unturned))
            source.loops.add(loop)
            source.masks |= uses_masks
    return found


def values_of(node: Any, key: str) -> Iterator[Any]:
    """Every value of a key, anywhere in a config."""
    if isinstance(node, dict):
        if key in node:
            yield node[key]
        for value in node.values():
            yield from values_of(value, key)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from values_of(value, key)


def image_paths(dataset: dict, content: dict) -> list[str]:
    """All images of a data set."""
    folder = folder_of(dataset)
    if content:
        return images.of_content(content, folder)
    if classes_file_of(dataset):
        return [str(path) for path in masks.image_paths(dataset)]
    if file := labels_file(dataset):
        return [os.path.join(folder, line.rpartition(" ")[0]) for line in list_from_file(file) if line.strip()]
    suffixes = tuple(dataset.get("extensions", IMAGE_SUFFIXES))
    names = [os.path.join(at, name) for at, _, files in os.walk(folder) for name in files]
    return sorted(name for name in names if name.lower().endswith(suffixes))
