"""Checks that the data sets of a config exist and have its classes, before training or testing starts."""

import os

from mmengine.config import Config

from backbones.datasets.classes import IMAGENET_HELP, check_classes
from backbones.datasets.doctor.examine import examine, write_repaired
from backbones.datasets.doctor.faults import lines
from backbones.datasets.find import (
    all_datasets,
    classes_file_of,
    downloads,
    evaluators,
    inner_datasets,
    is_local,
    prefixes,
)
from backbones.usage import UsageError, command, note

COCO_HELP = """\
COCO 2017 is at https://cocodataset.org/#download: unpack train2017.zip, val2017.zip and annotations_trainval2017.zip
into that folder, or name another one by --data-root DIR. A small generated data set of the same layout, with its own
classes and config, takes seconds:
    {sample} data/sample_coco
    {train} densebackbones::revcol_maskrcnn_sample.py"""
ADE20K_HELP = """\
ADE20K is ADEChallengeData2016.zip at http://sceneparsing.csail.mit.edu: unpack it into data/ade, or name another folder
with images/ and annotations/ by --data-root DIR. densebackbones::revcol_upernet_custom.py trains on your own images and
masks."""
OTHER_HELP = "See the page of the data set for the files; --data-root DIR names another folder of the same layout."
DATA_HELP = {
    "Coco": COCO_HELP,
    "ADE20K": ADE20K_HELP,
    "ImageNet": IMAGENET_HELP,
    "CustomDataset": IMAGENET_HELP,
}  # by a part of the name of a data set's class


def check_data(cfg: Config, loops: tuple[str, ...]) -> list[str]:
    """Refuse data that cannot be trained on, and repair what has a stated rule, in copies that the config then reads.

    Args:
        cfg: The config, with its work dir for the copies; its default scope must be the current one.
        loops: Those of train, val and test to check.

    Returns:
        A line for each kind of fault that was repaired or noted, for the log.

    Raises:
        UsageError: for missing files, faults without a repair, and classes that differ from the config's.
    """
    check_files(cfg, loops)
    findings = examine(cfg, loops)
    refused, others = lines(findings.of("refused")), lines(findings.of("repaired") + findings.of("noted"))
    if refused:
        listed = "\n    ".join(line.removeprefix("refused: ") for line in refused)
        raise UsageError(f"the data has faults:\n    {listed}\n{command('check-data')} lists all faults")
    check_classes(cfg, all_datasets(cfg, loops))
    if findings.repaired:
        write_repaired(cfg, findings, os.path.join(cfg.work_dir, "repaired"))
    for line in others:
        note(line)
    return others


def check_files(cfg: Config, loops: tuple[str, ...]) -> None:
    """Refuse a config whose annotation files or image folders do not exist.

    Raises:
        UsageError: with the expected tree and the source of the data.
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
            if wrong := [part for part in [root, *parts] if not isinstance(part, (str, os.PathLike))]:
                raise UsageError(f"{loop}_dataloader: {wrong[0]!r} is no path of a folder or a file")
            expected |= dict.fromkeys(os.path.join(root, part) for part in parts or [""])
            if classes_file := classes_file_of(dataset):
                expected[classes_file] = None
            types.add(str(dataset.get("type")))
        expected |= dict.fromkeys(e["ann_file"] for e in evaluators(cfg, loop) if e.get("ann_file"))
    paths = {os.path.normpath(path) for path in expected if path and is_local(path)}
    absent = {path for path in paths if not os.path.exists(path) or (os.path.isdir(path) and not os.listdir(path))}
    if absent:
        tree = "\n".join(f"    {path:60} {'<- missing' if path in absent else ''}".rstrip() for path in sorted(paths))
        text = next((text for name, text in DATA_HELP.items() if any(name in kind for kind in types)), OTHER_HELP)
        text = text.format(sample=command("sample-data"), train=command("train"))
        raise UsageError(f"the data set does not exist. The config expects\n{tree}\n{text}")
