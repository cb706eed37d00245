"""Classification: a folder of images for each class."""

from pathlib import Path
from typing import Any

from backbones.datasets.layouts._labelled import Labelled, Split

TASK = "classification"
TREE = """\
folders: train/CLASS/*.jpg, val/CLASS/*.jpg"""


def find(folder: Path, split: Split) -> Labelled | None:
    """The data of a folder, or None."""
    if not all((folder / name).is_dir() for name in ("train", "val")):
        return None
    classes = tuple(sorted(entry.name for entry in (folder / "train").iterdir() if entry.is_dir()))
    settings: list[dict[str, Any]] = [
        dict(type="CustomDataset", data_root=str(folder), data_prefix=name) for name in ("train", "val")
    ]
    return Labelled(classes=classes, train=settings[0], val=settings[1]) if classes else None
