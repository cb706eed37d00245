"""Labelled data of one's own in a config: the settings that change, each with its reason."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.fileio import list_from_file
from mmengine.registry import METRICS

from backbones.config.changes import Change
from backbones.config.lookup import registered
from backbones.datasets.find import LOOPS, dataset_class, inner_datasets
from backbones.datasets.layouts import Labelled
from backbones.datasets.metainfo import palette
from backbones.usage import UsageError, note

KEPT = (  # of a data set's settings; a backend of files is not, the data lie in a folder
    *("pipeline", "filter_cfg", "test_mode", "return_classes", "indices"),
    *("lazy_init", "serialize_data", "max_refetch"),
)
MASK_ROI_HEADS = ("StandardRoIHead", "CascadeRoIHead")  # that work without their mask branch
COUNTS = ("num_classes", "num_things_classes", "num_stuff_classes")


def task_of(cfg: Config) -> str:
    """``detection``, ``panoptic``, ``segmentation`` or ``classification``.

    Raises:
        UsageError: for a config of another host.
    """
    tasks = {"mmdet": "detection", "mmseg": "segmentation", "mmpretrain": "classification"}
    scope = cfg.get("default_scope")
    if scope not in tasks:
        raise UsageError(f"--classes works with configs of {', '.join(tasks)}; this one has default_scope {scope!r}")
    names = [cls.__name__ for cls in getattr(dataset_class(_first(cfg)), "__mro__", ())]
    return "panoptic" if "CocoPanopticDataset" in names else tasks[scope]


def choose_classes(data: Labelled, classes: str) -> tuple[str, ...]:
    """The classes to train: all, or those of a text file with a name a line; in the order of the data.

    Args:
        data: The labelled data.
        classes: ``auto`` or the path of the file.

    Raises:
        UsageError: for a missing or empty file, or a name that the data do not have.
    """
    if classes == "auto":
        return data.classes
    if not Path(classes).is_file():
        raise UsageError(f"--classes: there is no file {classes}; give auto, or a file with a class a line")
    wanted = [line.strip() for line in list_from_file(classes) if line.strip()]
    unknown = [name for name in wanted if name not in data.classes]
    if unknown or not wanted:
        raise UsageError(
            f"--classes: {classes} names {', '.join(unknown) or 'nothing'}; the data have {', '.join(data.classes)}"
        )
    if left_out := [name for name in data.classes if name not in wanted]:
        if data.train["type"] != "CocoDataset":
            raise UsageError(
                f"--classes: {classes} leaves out {', '.join(left_out)}; only boxes can be left out, "
                "masks and folders are numbered with all classes"
            )
        note(f"objects of {', '.join(left_out)} are left out")
    chosen = tuple(name for name in data.classes if name in wanted)
    if list(chosen) != wanted:
        note(f"the classes keep the order of the data: {', '.join(chosen)}")
    return chosen


def own_data_changes(cfg: Config, data: Labelled, classes: Sequence[str], boxes_only: bool = False) -> list[Change]:
    """Put labelled data into a config.

    Args:
        cfg: The config; its default scope must be the current one. Not modified.
        data: The data, of the config's task.
        classes: Those to train.
        boxes_only: Remove the mask branch.

    Returns:
        The changes: data sets, metrics, and the numbers of classes wherever the model states them.

    Raises:
        UsageError: for a model that needs masks, and data or ``boxes_only`` without, or one that needs semantic maps
            beside boxes.
    """
    changes: list[Change] = []
    steps = list(_steps(_first(cfg).get("pipeline")))
    needs_masks = any(step.get("with_mask") for step in steps)
    if any(step.get("with_seg") for step in steps) and not data.stuff and task_of(cfg) == "detection":
        raise UsageError(
            "the config trains a branch on semantic maps (with_seg in its pipeline), and the data have none; take a "
            "config without it, such as mmdet::htc/htc-without-semantic_r50_fpn_1x_coco.py for HTC"
        )
    if boxes_only:
        changes += _without_masks(cfg)
    elif needs_masks and not data.has_masks:
        raise UsageError(
            "most objects of the data have boxes, but no masks, and the config trains a mask branch; --boxes-only "
            "removes it, or take a config of a box detector"
        )
    metainfo: dict[str, Any] = dict(classes=tuple(classes), palette=palette(len(classes)))
    if data.stuff:
        things = tuple(name for name in classes if name not in data.stuff)
        metainfo |= dict(thing_classes=things, stuff_classes=data.stuff)
    for loop in LOOPS:
        if not (loader := cfg.get(f"{loop}_dataloader")):
            continue
        key, old = next(_inner(loader, f"{loop}_dataloader"))
        new = {name: copy.deepcopy(old[name]) for name in KEPT if name in old}
        _fit_steps(new.get("pipeline"), boxes_only)
        source = data.train if loop == "train" else data.val
        why = f"{len(classes)} classes: {', '.join(classes)}" if loop == "train" else "the held-out images"
        changes.append(Change(key, old, dict(_delete_=True, **source, metainfo=metainfo, **new), why))
    hooks = copy.deepcopy(cfg.get("custom_hooks"))  # some exchange the pipeline for the last epochs
    _fit_steps(hooks, boxes_only)
    if hooks != cfg.get("custom_hooks"):
        changes.append(Change("custom_hooks", cfg.custom_hooks, hooks, "their pipelines read these data, too"))
    changes += _evaluator_changes(cfg, data, classes, boxes_only or not needs_masks)
    removed = tuple(f"{change.key}." for change in changes if change.new is None)
    changes += [change for change in _count_changes(cfg, data, classes) if not change.key.startswith(removed)]
    return changes


def _first(cfg: Config) -> dict:
    for loop in LOOPS:
        if loader := cfg.get(f"{loop}_dataloader"):
            return next(inner_datasets(loader))
    raise UsageError("--classes: the config has no data loader, so there is no data set to replace")


def _inner(node: Any, key: str) -> Iterator[tuple[str, dict]]:
    """The first innermost data set and its key; of several that are joined, the whole joint is replaced."""
    inside, where = node["dataset"], f"{key}.dataset"
    if "datasets" in inside:
        yield where, next(inner_datasets(inside))
    elif "dataset" in inside:
        yield from _inner(inside, where)
    else:
        yield where, inside


def _steps(node: Any) -> Iterator[dict]:
    """All transforms of a pipeline, nested ones included."""
    if isinstance(node, dict):
        if "type" in node:
            yield node
        for value in node.values():
            yield from _steps(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _steps(value)


def _fit_steps(node: Any, boxes_only: bool) -> None:
    """Change the transforms in a pipeline, or anywhere in a config, that depend on masks or on the first class."""
    for step in _steps(node):
        if boxes_only and step["type"] == "CopyPaste":
            raise UsageError("--boxes-only: CopyPaste in the pipeline cuts objects out by their masks; remove it")
        for name in ("with_mask", "by_mask") if boxes_only else ():
            if name in step:
                step[name] = False
        if step.get("reduce_zero_label"):
            step["reduce_zero_label"] = False


def _without_masks(cfg: Config) -> Iterator[Change]:
    """Remove the mask branch of a detector with a RoI head."""
    head = cfg.model.get("roi_head") or {}
    if head.get("type") not in MASK_ROI_HEADS or not head.get("mask_head"):
        named = f"{cfg.model.type} with {head['type']}" if head else cfg.model.type
        raise UsageError(
            f"--boxes-only removes the mask branch of {' and '.join(MASK_ROI_HEADS)}; this model is a {named}. "
            "Take the config of a box detector"
        )
    for part in ("mask_roi_extractor", "mask_head"):
        if head.get(part):
            yield Change(f"model.roi_head.{part}", head[part], None, "the data have boxes only")


def _evaluator_changes(cfg: Config, data: Labelled, classes: Sequence[str], boxes_only: bool) -> Iterator[Change]:
    for loop in ("val", "test"):
        evaluator = cfg.get(f"{loop}_evaluator")
        if not evaluator:
            continue
        given = evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]
        kept = [metric for metric in given if not data.stuff or metric.type == "CocoPanopticMetric"]
        new = [_metric(metric, data, len(classes), boxes_only) for metric in kept]
        if new != list(given):
            joined: Any = new if isinstance(evaluator, (list, tuple)) else dict(_delete_=True, **new[0])
            yield Change(f"{loop}_evaluator", evaluator, joined, "metrics of these data")


def _metric(metric: ConfigDict, data: Labelled, count: int, boxes_only: bool) -> dict[str, Any]:
    """A metric's settings for other data; COCO's metric takes the place of those tied to a data set."""
    new: dict[str, Any] = copy.deepcopy(dict(metric))
    parameters = getattr(registered(METRICS, metric.type), "__init__", None)
    if data.evaluator and metric.type in ("CocoMetric", "CocoPanopticMetric"):
        new |= data.evaluator
        new.pop("outfile_prefix", None)
        new["format_only"] = False
    elif data.evaluator:
        new = dict(type="CocoMetric", metric="bbox" if boxes_only else ["bbox", "segm"], **data.evaluator)
    if boxes_only and isinstance(new.get("metric"), (list, tuple)):
        new["metric"] = [name for name in new["metric"] if name != "segm"]
    if "topk" in new and parameters is not None:
        ranks = new["topk"] if isinstance(new["topk"], (list, tuple)) else (new["topk"],)
        new["topk"] = tuple(rank for rank in ranks if rank <= count) or (1,)
    return new


def _count_changes(cfg: Config, data: Labelled, classes: Sequence[str]) -> Iterator[Change]:
    """The numbers of classes, wherever the config states them, and the class weights of the losses."""
    stated = list(_stated(cfg.model, "model"))
    if "data_preprocessor" in cfg:
        stated += _stated(cfg.data_preprocessor, "data_preprocessor")
    old = _class_number(cfg, [value for key, _, value in stated if key.endswith("num_classes")])
    new = {"num_classes": len(classes)}
    new |= dict(num_things_classes=len(classes) - len(data.stuff), num_stuff_classes=len(data.stuff))
    for key, name, value in stated:
        if name == "class_weight":
            if len(value) == old + 1:  # the last one is of no object
                yield Change(key, value, [value[0]] * len(classes) + [value[-1]], "a weight for each class")
            elif len(value) == old:
                yield Change(key, value, None, "the weights were of other classes")
        elif (name != "num_classes" or value == old) and value != new[name]:
            yield Change(key, value, new[name], "the number of classes")


def _stated(node: Any, where: str) -> Iterator[tuple[str, str, Any]]:
    """Key, name and value of every number of classes and list of class weights; an RPN has no classes."""
    if where.endswith("rpn_head"):
        return
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, value in items:
        key = f"{where}.{name}"
        if (name in COUNTS and isinstance(value, int)) or (name == "class_weight" and isinstance(value, (list, tuple))):
            yield key, str(name), value
        yield from _stated(value, key)


def _class_number(cfg: Config, stated: Sequence[int]) -> int:
    """The config's number of classes: its data set's, or else the largest stated one."""
    dataset = _first(cfg)
    names = (dataset.get("metainfo") or {}).get("classes")
    names = names or (getattr(dataset_class(dataset), "METAINFO", None) or {}).get("classes") or ()
    named = 0 if isinstance(names, str) else len(names)
    return named if named in stated or not stated else max(stated)
