"""Faults of a segmentation data set: masks that are missing or hold wrong values."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmengine.fileio import list_from_file
from PIL import Image

from backbones.datasets.doctor.faults import Fault
from backbones.datasets.doctor.images import in_parallel

CHECKED = 20  # masks looked at before a training


def image_paths(dataset: dict) -> list[Path]:
    """The images of a data set that finds them in a folder, sorted."""
    folder = Path(dataset.get("data_root") or "", dataset["data_prefix"]["img_path"])
    return sorted(folder.rglob(f"*{dataset.get('img_suffix', '.jpg')}"), key=str)


def mask_path(dataset: dict, image: Path) -> Path:
    """The mask of an image."""
    root, prefix = dataset.get("data_root") or "", dataset["data_prefix"]
    name = str(image.relative_to(Path(root, prefix["img_path"]))).removesuffix(dataset.get("img_suffix", ".jpg"))
    return Path(root, prefix["seg_map_path"], f"{name}{dataset.get('seg_map_suffix', '.png')}")


def find_faults(dataset: dict, classes_file: str, full: bool) -> Iterator[Fault]:
    """Find missing masks and invalid values, of the first ``CHECKED`` images or with ``full`` of all."""
    images = image_paths(dataset)
    if not images:
        folder = Path(dataset.get("data_root") or "", dataset["data_prefix"]["img_path"])
        suffix = dataset.get("img_suffix", ".jpg")
        yield Fault("no-images", str(folder), f"{folder} holds no {suffix} files; set img_suffix of the data sets")
    number = len(list_from_file(classes_file))
    chosen = images if full else images[:CHECKED]
    texts = in_parallel(lambda image: _fault(dataset, image, number, classes_file), chosen, "masks" if full else None)
    for image, text in zip(chosen, texts, strict=True):
        if text:
            yield Fault("invalid-label-map", str(mask_path(dataset, image).parent), text)


def _fault(dataset: dict, image: Path, number: int, classes_file: str) -> str | None:
    path = mask_path(dataset, image)
    if not path.is_file():
        return f"{image} has no mask {path}; set seg_map_suffix of the data sets, or add the file"
    try:
        mask = np.asarray(Image.open(path))
        with Image.open(image) as picture:
            size = picture.size
    except OSError as error:
        return f"{path} or its image {image} cannot be read: {error}"
    if mask.ndim != 2:
        return f"{path} has {mask.shape[2]} channels; a mask has one, with the class number of each pixel"
    if mask.shape != size[::-1]:
        return f"{path} is {mask.shape[1]} x {mask.shape[0]}, its image {size[0]} x {size[1]}"
    largest = mask[mask != dataset.get("ignore_index", 255)].max(initial=0)
    if largest >= number + bool(dataset.get("reduce_zero_label")):
        return (
            f"{path} holds the class number {largest}, but {classes_file} has {number} classes, counted from 0; "
            "write 255 where a pixel has no class"
        )
    return None
