"""Segmentation: an index mask for each image, and the classes in a text file."""

from pathlib import Path
from typing import Any

from mmengine.fileio import list_from_file

from backbones.datasets.layouts._labelled import Labelled, Split, write_beside
from backbones.usage import UsageError

TASK = "segmentation"
TREE = """\
masks:   images/train/NAME.jpg, annotations/train/NAME.png, the same in val, and classes.txt with a class a line;
         without train and val the images are split (--val-share 0.2); a mask has 8 bits and one channel, the number of
         each pixel's class from 0; 255 is left out"""


def find(folder: Path, split: Split) -> Labelled | None:
    """The data of a folder, or None."""
    parts = ("images", "annotations")
    if not all((folder / part).is_dir() for part in parts):
        return None
    named = [name for name in ("train", "val") if all((folder / part / name).is_dir() for part in parts)]
    if len(named) == 1:
        return None
    if not (folder / "classes.txt").is_file():
        if not named and not any((folder / "annotations").rglob("*.png")):  # COCO's annotations
            return None
        raise UsageError(f"{folder} has images and masks, but no classes.txt; write one with a class a line")
    settings = [_settings(folder, f"/{name}") for name in named] or _split(folder, split)
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


def _settings(folder: Path, part: str = "") -> dict[str, Any]:
    return dict(
        type="BaseSegDataset",
        data_root=str(folder),
        data_prefix=dict(img_path=f"images{part}", seg_map_path=f"annotations{part}"),
        img_suffix=suffix(folder / f"images{part}"),
        seg_map_suffix=suffix(folder / f"annotations{part}"),
    )


def _split(folder: Path, split: Split) -> list[dict[str, Any]]:
    """Write split_train.txt and split_val.txt, an image's name without suffix a line."""
    settings = _settings(folder)
    names = [
        file.relative_to(folder / "images").as_posix().removesuffix(settings["img_suffix"])
        for file in sorted((folder / "images").rglob(f"*{settings['img_suffix']}"))
    ]
    validation = split.validation({name: [] for name in names})
    for part, wanted in (("train", False), ("val", True)):
        lines = [name for name in names if (name in validation) == wanted]
        write_beside(folder / f"split_{part}.txt", "\n".join([*lines, ""]), f"{len(lines)} images")
    return [{**settings, "ann_file": f"split_{part}.txt"} for part in ("train", "val")]
