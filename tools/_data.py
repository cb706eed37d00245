"""The data sets of a config: moving them to another folder, and checks that come before any time is spent."""

import inspect
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _usage import UsageError, say
from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS
from PIL import Image

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
IMAGENET_HELP = """\
ImageNet-1k (ILSVRC 2012) is at https://image-net.org/download.php, after registration. Each class has a folder, in
train and in val; the images for validation come without folders, to be sorted by the labels in the development kit:
    data/imagenet/train/n01440764/*.JPEG  ...
    data/imagenet/val/n01440764/*.JPEG  ...
--data-root DIR takes any other folder of this layout, whatever its classes are."""
OTHER_HELP = (
    "See the data set's own page for the files; --data-root DIR takes them from another folder of the same layout."
)
DATA_HELP = {
    "Coco": COCO_HELP,
    "ADE20K": ADE20K_HELP,
    "ImageNet": IMAGENET_HELP,
    "CustomDataset": IMAGENET_HELP,
}  # by what the class of a data set has in its name
LOOPS = ("train", "val", "test")
CHECKED_MASKS = 20
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif")  # mmpretrain's


def _datasets(node: Any) -> Iterator[dict]:
    """The innermost data sets of a data loader, whatever wraps them."""
    inner = [node["dataset"]] if "dataset" in node else node.get("datasets", [])
    if not inner:
        yield node
    for child in inner:
        yield from _datasets(child)


def _prefixes(dataset: dict) -> list[str]:
    prefix = dataset.get("data_prefix") or (dataset.get("split") if _reads_images_by_class(dataset) else None) or {}
    return [prefix] if isinstance(prefix, str) else list(prefix.values())


def evaluators(cfg: Config, loop: str) -> list[dict]:
    """The metrics of a loop, as configs."""
    evaluator = cfg.get(f"{loop}_evaluator") or []
    evaluator = evaluator.get("metrics", evaluator) if isinstance(evaluator, dict) else evaluator
    return [evaluator] if isinstance(evaluator, dict) else list(evaluator)


def _is_local(path: str) -> bool:
    return "://" not in path


def _inside(path: str, root: str) -> bool:
    path, root = os.path.normpath(path), os.path.normpath(root)
    return path == root or path.startswith(root + os.sep)


def _root(dataset: dict) -> str:
    """The folder a data set lies in: its ``data_root``, or what its joined paths have in common."""
    paths = [path for path in [dataset.get("ann_file"), *_prefixes(dataset)] if path]
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
    roots = sorted({_root(dataset) for loader in loaders for dataset in _datasets(cfg[loader])}, key=len, reverse=True)

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


def _dataset_class(dataset: dict) -> Any:
    """The class a data set's config names, or None."""
    with DATASETS.switch_scope_and_registry(None) as registry:
        return registry.get(dataset["type"]) if isinstance(dataset.get("type"), str) else dataset.get("type")


def _downloads(dataset: dict) -> bool:
    """Whether a data set fetches its own files (mmpretrain's CIFAR and MNIST)."""
    cls = _dataset_class(dataset)
    parameter = inspect.signature(cls).parameters.get("download") if cls else None
    return dataset.get("download", parameter is not None and parameter.default)


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
        for dataset in _datasets(cfg[f"{loop}_dataloader"]):
            if _downloads(dataset):
                continue
            root = dataset.get("data_root") or ""
            parts = [part for part in [dataset.get("ann_file"), *_prefixes(dataset)] if part]
            expected |= dict.fromkeys(os.path.join(root, part) for part in parts or [""])
            if classes_file := _classes_file(dataset):
                expected[classes_file] = None
            types.add(str(dataset.get("type")))
        expected |= dict.fromkeys(e["ann_file"] for e in evaluators(cfg, loop) if e.get("ann_file"))
    paths = {os.path.normpath(path) for path in expected if path and _is_local(path)}
    absent = {path for path in paths if not os.path.exists(path) or (os.path.isdir(path) and not os.listdir(path))}
    if absent:
        tree = "\n".join(f"    {path:60} {'<- missing' if path in absent else ''}".rstrip() for path in sorted(paths))
        raise UsageError(
            f"the data set is not there. The config expects\n{tree}\n"
            + next((text for name, text in DATA_HELP.items() if any(name in kind for kind in types)), OTHER_HELP)
        )
    datasets = [dataset for loop in loops for dataset in _datasets(cfg.get(f"{loop}_dataloader") or {})]
    _check_coco_classes(datasets)
    _check_image_classes(cfg, [dataset for dataset in datasets if _reads_images_by_class(dataset)])
    for dataset in datasets:
        classes_file = _classes_file(dataset)
        if classes_file and _is_local(classes_file):
            _check_classes_file(cfg.model, classes_file)
            if not dataset.get("ann_file"):  # a list of the images
                _check_masks(dataset, classes_file)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _check_coco_classes(datasets: list[dict]) -> None:
    """Refuse a COCO annotation file without all of the config's classes; mmdet would fail at the first evaluation.

    Reads the smallest file only: all files of a data set share their categories, and COCO's largest takes long.
    """
    files = {
        os.path.join(dataset.get("data_root") or "", dataset["ann_file"]): dataset
        for dataset in datasets
        if str(dataset.get("type")).endswith("CocoDataset") and dataset.get("ann_file")
    }
    if not (local := [path for path in files if _is_local(path)]):
        return
    smallest = min(local, key=os.path.getsize)
    dataset = files[smallest]
    classes = (dataset.get("metainfo") or {}).get("classes") or _dataset_class(dataset).METAINFO["classes"]
    classes = [classes] if isinstance(classes, str) else list(classes)
    names = [category["name"] for category in json.loads(Path(smallest).read_text())["categories"]]
    ignored = [name for name in names if name not in classes]
    if lacking := [name for name in classes if name not in names]:
        raise UsageError(
            f"{smallest} has the categories {_listed(names)}, but not the config's {_listed(lacking)}. Set "
            "metainfo.classes of every data set and num_classes of the heads; the sample data set has a config of its "
            "own, configs/revcol_maskrcnn_sample.py"
        )
    if ignored:
        say(f"objects of {', '.join(ignored)} are left out: the config's classes do not contain them")


def _classes_file(dataset: dict) -> str | None:
    """The text file from which a segmentation data set reads its classes, one a line, or None."""
    classes = (dataset.get("metainfo") or {}).get("classes")
    return classes if isinstance(classes, str) and "seg_map_path" in (dataset.get("data_prefix") or {}) else None


def _segmentation_heads(model: dict) -> Iterator[tuple[str, dict]]:
    for name in ("decode_head", "auxiliary_head"):
        node = model.get(name) or []
        heads = {"": node} if isinstance(node, dict) else {f".{i}": head for i, head in enumerate(node)}
        yield from ((f"model.{name}{index}.num_classes", head) for index, head in heads.items())


def _check_classes_file(model: dict, classes_file: str) -> None:
    """Refuse heads with another number of classes than the file; mmseg would fail while training, or count wrongly."""
    number = len(list_from_file(classes_file))
    heads = {key: head["num_classes"] for key, head in _segmentation_heads(model)}
    if wrong := [f"{key} is {given}" for key, given in heads.items() if given != number]:
        raise UsageError(
            f"{classes_file} has {number} lines, each for a class, but {', '.join(wrong)}; "
            f"add --cfg-options {' '.join(f'{key}={number}' for key in heads)}"
        )


def _check_masks(dataset: dict, classes_file: str) -> None:
    """Refuse images without masks, and masks that hold anything but numbers of classes, among the first few."""
    number = len(list_from_file(classes_file))
    root, prefix = dataset.get("data_root") or "", dataset["data_prefix"]
    images, masks = Path(root, prefix["img_path"]), Path(root, prefix["seg_map_path"])
    image_suffix, mask_suffix = dataset.get("img_suffix", ".jpg"), dataset.get("seg_map_suffix", ".png")
    names = sorted(str(path.relative_to(images)) for path in images.rglob(f"*{image_suffix}"))
    if not names:
        raise UsageError(f"{images} holds no {image_suffix} files; set img_suffix of the data sets")
    for name in names[:CHECKED_MASKS]:
        path = masks / f"{name.removesuffix(image_suffix)}{mask_suffix}"
        if not path.is_file():
            raise UsageError(
                f"{images / name} has no mask {path}; set seg_map_suffix of the data sets, or add the file"
            )
        mask = np.asarray(Image.open(path))
        if mask.ndim != 2:
            raise UsageError(
                f"{path} has {mask.shape[2]} channels; a mask has one, with the number of each pixel's class"
            )
        largest = mask[mask != dataset.get("ignore_index", 255)].max(initial=0)
        if largest >= number + bool(dataset.get("reduce_zero_label")):
            raise UsageError(
                f"{path} holds the number {largest}, but {classes_file} has {number} classes, counted from 0; "
                "write 255 where a pixel has no class"
            )


# ------------------------------------------------------------------------------------------------------ classification
def _reads_images_by_class(dataset: dict) -> bool:
    """Whether this is a labelled data set of mmpretrain's ``CustomDataset`` or a class made from it, as ImageNet."""
    classes = getattr(_dataset_class(dataset), "__mro__", ())
    return dataset.get("with_label", True) and any(cls.__name__ == "CustomDataset" for cls in classes)


def _labels_file(dataset: dict) -> str | None:
    """The text file with the labels of such a data set, or None where the folders tell them."""
    root, split = dataset.get("data_root") or "", dataset.get("split")
    if dataset.get("ann_file"):
        return os.path.join(root, dataset["ann_file"])
    file = os.path.join(root, "meta", f"{split}.txt")
    return file if split and os.path.isfile(file) else None


def _class_numbers(cfg: Config) -> dict[str, int]:
    """Every number of classes that a classifier's config states, by its key."""

    def stated(node: Any, where: str) -> Iterator[tuple[str, int]]:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
        for key, value in items:
            if key == "num_classes" and value is not None:
                yield f"{where}.{key}", value
            yield from stated(value, f"{where}.{key}")

    model = cfg.model
    numbers = dict(stated(model.get("head"), "model.head"))
    if numbers:
        inside = "data_preprocessor" in model  # where the runner looks first
        where = "model.data_preprocessor" if inside else "data_preprocessor"
        numbers |= dict(stated(model.data_preprocessor if inside else cfg.get("data_preprocessor"), where))
    return numbers


def _class_names(dataset: dict) -> Any:
    """The names of classes that such a data set's config states, or else its class; None for the folders' names."""
    metainfo = dataset.get("metainfo") or {}
    if "classes" in metainfo or "classes" in dataset:
        names = metainfo.get("classes", dataset.get("classes"))
        return list_from_file(names) if isinstance(names, str) else names
    return getattr(_dataset_class(dataset), "METAINFO", {}).get("classes")


def _class_folders(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """The names of the folders, one for each class.

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
    """Refuse a list of images with anything but the number of a class behind each."""
    for index, line in enumerate(list_from_file(file), 1):
        label = line.strip().rpartition(" ")[2]
        if not label.isdecimal() or int(label) >= number:
            raise UsageError(
                f"line {index} of {file} is {line!r}; a line is IMAGE LABEL, with a label from 0 to {number - 1} as "
                f"{key} is {number}. Mend the file, or set the number of classes by --cfg-options"
            )


def _check_image_classes(cfg: Config, datasets: list[dict]) -> None:
    """Refuse images whose classes are not the head's, not each other's, or too few for the metric.

    The host would end in an index out of range while training, or count wrongly.
    """
    stated = _class_numbers(cfg)
    if not stated:  # self-supervised training reads no labels
        return
    key, number = next(iter(stated.items()))
    found: dict[str, list[str]] = {}
    for dataset in datasets:
        folder = os.path.normpath(os.path.join(dataset.get("data_root") or "", *_prefixes(dataset)))
        file = _labels_file(dataset)
        if file and _is_local(file):
            _check_labels(file, key, number)
        elif not file and _is_local(folder):
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
    """Refuse a config that anywhere states another number of classes, with all options that mend it."""
    wrong = [f"{key} is {given}" for key, given in stated.items() if given != number]
    options: dict[str, int | None] = dict.fromkeys((key for key, given in stated.items() if given != number), number)
    for loop in LOOPS:
        for dataset in _datasets(cfg.get(f"{loop}_dataloader") or {}):
            names = _class_names(dataset) if _reads_images_by_class(dataset) and not _labels_file(dataset) else None
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
