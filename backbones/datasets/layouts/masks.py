"""Segmentation: an index mask for each image, and the classes in a text file."""

from pathlib import Path
from typing import Any

from mmengine.fileio import list_from_file

from backbones.datasets.layouts._labelled import Labelled, Split
from backbones.usage import UsageError

TASK = "segmentation"
TREE = """\
masks:   images/train/NAME.jpg, annotations/train/NAME.png, the same in val, and classes.txt with a class a line; a mask
         has 8 bits and one channel, the number of each pixel's class from 0; 255 is left out"""


def find(folder: Path, split: Split) -> Labelled | None:
    """The data of a folder, or None."""
    names = ("train", "val")
    if not all((folder / part / name).is_dir() for part in ("images", "annotations") for name in names):
        return None
    if not (folder / "classes.txt").is_file():
        raise UsageError(f"{folder} has images and masks, but no classes.txt; write one with a class a line")
    settings: list[dict[str, Any]] = [
        dict(
            type="BaseSegDataset",
            data_root=str(folder),
            data_prefix=dict(img_path=f"images/{name}", seg_map_path=f"annotations/{name}"),
            img_suffix=suffix(folder / "images" / name),
            seg_map_suffix=suffix(folder / "annotations" / name),
        )
        for name in names
    ]
    return Labelled(classes=tuple(list_from_file(folder / "classes.txt")), train=settings[0], val=settings[1])


def suffix(folder: Path) -> str:
    """The suffix of the files in a folder.

    Raises:
        UsageError: for an empty folder or one with several suffixes.
    """
    found = sorted({file.suffix for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")})
    if len(found) != 1:
        raise UsageError(f"{folder} has files with the suffixes {found}; all of a folder need one")
    return found[0]
