"""COCO's annotations: the names of COCO 2017, train and val, Roboflow's folders, or one file that is split."""

import json
from pathlib import Path
from typing import Any

from backbones.datasets.doctor import annotations
from backbones.datasets.doctor.faults import lines
from backbones.datasets.layouts._labelled import Labelled, Split, read_json, write_beside
from backbones.usage import UsageError

TASK = "detection"
TREE = """\
COCO:    annotations/instances_train2017.json, train2017/, annotations/instances_val2017.json, val2017/
         or the same names without the year; or train/ and valid/ with _annotations.coco.json in each;
         or one JSON file of COCO's format with its images, which is split (--val-share 0.2)"""
PAIRS = [  # annotation files and folders of images
    (f"annotations/instances_{{}}{year}.json", f"{{}}{year}/", ("train", "val")) for year in ("2017", "")
] + [("{}/_annotations.coco.json", "{}/", ("train", "valid"))]
KEYS = ("images", "annotations", "categories")
IMAGE_FOLDERS = ("", "images", "train", "data", "JPEGImages")


def find(folder: Path, split: Split) -> Labelled | None:
    """The data of a folder, or None."""
    for file, images, names in PAIRS:
        files = [file.format(name) for name in names]
        if all((folder / name).is_file() for name in files):
            return labelled(folder, files, [images.format(name) for name in names])
    candidates = sorted([*folder.glob("*.json"), *folder.glob("annotations/*.json")])
    whole = [file for file in candidates if not file.stem.startswith("split_") and _is_coco(file)]
    if len(whole) > 1:
        raise UsageError(
            f"{folder} has {len(whole)} files of COCO's format ({', '.join(file.name for file in whole)}); "
            "call those of a split instances_train.json and instances_val.json in annotations/, or keep one"
        )
    if not whole:
        return None
    content = _read(whole[0])
    return split_content(folder, content, image_folder(folder, whole[0], content), split)


def _is_coco(file: Path) -> bool:
    content = read_json(file)
    return isinstance(content, dict) and content.keys() >= set(KEYS)


def _read(file: Path) -> dict[str, Any]:
    """A usable annotation file.

    Raises:
        UsageError: naming its faults.
    """
    content, faults = annotations.read(str(file))
    if faults:
        raise UsageError("the data has faults:\n    " + "\n    ".join(lines(faults)))
    return content


def image_folder(folder: Path, file: Path, content: dict[str, Any]) -> str:
    """The folder of a file's images, relative to ``folder``.

    Raises:
        UsageError: if none of the usual folders has the first image.
    """
    if not content["images"]:
        raise UsageError(f"{file} lists no images")
    first = content["images"][0]["file_name"]
    for name in (*IMAGE_FOLDERS, file.stem):
        if (folder / name / first).is_file():
            return f"{name}/" if name else ""
    looked = ", ".join(str(folder / name) for name in (*IMAGE_FOLDERS, file.stem))
    raise UsageError(f"{file} lists {first}, which is in none of {looked}; put the images into {folder / 'images'}")


def split_content(
    folder: Path, content: dict[str, Any], images: str, split: Split, validation: set[Any] | None = None
) -> Labelled:
    """Write annotations/split_train.json and split_val.json, and return their data.

    Args:
        folder: Of the data.
        content: COCO's annotations of all images.
        images: Folder of the images, relative to ``folder``.
        split: Chooses the images for validation, stratified by class.
        validation: Ids of the images for validation, if the data have a split.
    """
    if validation is None:
        classes_of: dict[Any, list[Any]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            classes_of.get(annotation.get("image_id"), []).append(annotation.get("category_id"))
        validation = split.validation(classes_of)
    files = []
    for name, wanted in (("train", False), ("val", True)):
        part = {
            **content,
            "images": [image for image in content["images"] if (image["id"] in validation) == wanted],
            "annotations": [a for a in content["annotations"] if (a.get("image_id") in validation) == wanted],
        }
        files.append(f"annotations/split_{name}.json")
        contains = f"{len(part['images'])} images, {len(part['annotations'])} objects"
        write_beside(folder / files[-1], json.dumps(part), contains)
    return labelled(folder, files, [images, images])


def labelled(folder: Path, files: list[str], images: list[str]) -> Labelled:
    """The data of two annotation files.

    Raises:
        UsageError: for files whose categories differ, or that name a category twice or have none.
    """
    contents = [_read(folder / file) for file in files]
    names = [[category["name"] for category in content["categories"]] for content in contents]
    if not names[0] or len(set(names[0])) < len(names[0]):
        raise UsageError(f"{folder / files[0]} has the categories {names[0]}; each needs a name of its own")
    if names[0] != names[1]:
        raise UsageError(
            f"{files[0]} has the categories {', '.join(names[0])}, {files[1]} has {', '.join(names[1])}; mmdet numbers "
            "them by their order, so both files need the same list"
        )
    settings: list[dict[str, Any]] = [
        dict(type="CocoDataset", data_root=str(folder), ann_file=file, data_prefix=dict(img=image))
        for file, image in zip(files, images, strict=True)
    ]
    objects = [annotation for annotation in contents[0]["annotations"] if not annotation.get("iscrowd")]
    return Labelled(
        classes=tuple(names[0]),
        train=settings[0],
        val=settings[1],
        has_masks=2 * sum(bool(annotation.get("segmentation")) for annotation in objects) > len(objects),
        evaluator=dict(ann_file=str(folder / files[1])),
    )
