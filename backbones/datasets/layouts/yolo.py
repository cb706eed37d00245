"""YOLO: a text file of boxes for each image and data.yaml, converted to COCO's format."""

from pathlib import Path
from typing import Any

import yaml

from backbones.datasets.layouts import coco
from backbones.datasets.layouts._labelled import Labelled, Split
from backbones.datasets.layouts._supervision import read
from backbones.usage import UsageError

TASK = "detection"
TREE = """\
YOLO:    data.yaml with names, and images/train, labels/train, images/val, labels/val; or train/images, train/labels and
         so on; or images and labels, which are split"""
PLACES = ("images/{0}", "labels/{0}"), ("{0}/images", "{0}/labels")


def find(folder: Path, split: Split) -> Labelled | None:
    """The data of a folder, or None."""
    settings = next((file for file in sorted(folder.glob("*.y*ml")) if _names(file)), None)
    if settings is None:
        return None
    for images, labels in PLACES:
        for val in ("val", "valid"):
            if all((folder / images.format(name)).is_dir() for name in ("train", val)):
                places = [(images.format(name), labels.format(name)) for name in ("train", val)]
                contents = [_read(folder, *place, settings) for place in places]
                content = _joined(contents)
                validation = {image["id"] for image in content["images"][len(contents[0]["images"]) :]}
                return coco.split_content(folder, content, "", split, validation)
    if (folder / "images").is_dir() and (folder / "labels").is_dir():
        return coco.split_content(folder, _joined([_read(folder, "images", "labels", settings)]), "", split)
    return None


def _names(file: Path) -> Any:
    try:
        content = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not YAML: {error}") from error
    return content.get("names") if isinstance(content, dict) else None


def _read(folder: Path, images: str, labels: str, settings: Path) -> dict[str, Any]:
    """COCO's annotations of one folder; file names are relative to ``folder``."""
    content = read("from_yolo", folder / images, folder / labels, "*.txt", settings)
    for image in content["images"]:
        image["file_name"] = f"{images}/{image['file_name']}"
    return content


def _joined(contents: list[dict[str, Any]]) -> dict[str, Any]:
    """Several annotation files as one, with new ids from 1."""
    joined: dict[str, Any] = {**contents[0], "images": [], "annotations": []}
    for content in contents:
        new = {image["id"]: len(joined["images"]) + i for i, image in enumerate(content["images"], 1)}
        joined["images"] += [{**image, "id": new[image["id"]]} for image in content["images"]]
        for annotation in content["annotations"]:
            number = len(joined["annotations"]) + 1
            joined["annotations"].append({**annotation, "id": number, "image_id": new[annotation["image_id"]]})
    return joined
