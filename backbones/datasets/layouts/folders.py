"""Classification: a folder of images for each class."""

from pathlib import Path
from typing import Any

from backbones.datasets.classes import IMAGE_SUFFIXES
from backbones.datasets.layouts._labelled import Labelled, Split, write_beside

TASK = "classification"
TREE = """\
folders: train/CLASS/*.jpg, val/CLASS/*.jpg; or CLASS/*.jpg, which are split (--val-share 0.2)"""


def find(folder: Path, split: Split) -> Labelled | None:
    """The data of a folder, or None."""
    if all((folder / name).is_dir() for name in ("train", "val")):
        classes = _folders(folder / "train")
        settings: list[dict[str, Any]] = [dict(data_prefix=name) for name in ("train", "val")]
    else:
        classes = tuple(name for name in _folders(folder) if _images(folder / name))
        if len(classes) < 2 or {"images", "annotations"} <= set(classes):
            return None
        settings = [dict(data_prefix="", ann_file=file) for file in _split(folder, classes, split)]
    train, val = (dict(type="CustomDataset", data_root=str(folder), **setting) for setting in settings)
    return Labelled(classes=classes, train=train, val=val) if classes else None


def _folders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)


def _split(folder: Path, classes: tuple[str, ...], split: Split) -> list[str]:
    """Write split_train.txt and split_val.txt, lines of IMAGE LABEL, and return their names."""
    label_of = {
        file.relative_to(folder).as_posix(): label
        for label, name in enumerate(classes)
        for file in _images(folder / name)
    }
    validation = split.validation({image: [label] for image, label in label_of.items()})
    files = []
    for name, wanted in (("train", False), ("val", True)):
        lines = [f"{image} {label}" for image, label in label_of.items() if (image in validation) == wanted]
        files.append(f"split_{name}.txt")
        write_beside(folder / files[-1], "\n".join([*lines, ""]), f"{len(lines)} images")
    return files
