"""COCO's panoptic annotations: segments in PNG files, classes of things and stuff."""

from pathlib import Path
from typing import Any

from backbones.datasets.layouts._labelled import Labelled, Split, read_json
from backbones.usage import UsageError

TASK = "panoptic"
TREE = """\
panoptic: annotations/panoptic_train2017.json, annotations/panoptic_train2017/*.png, train2017/, the same for val2017;
          or the same names without the year"""


def find(folder: Path, split: Split) -> Labelled | None:
    """The data of a folder, or None."""
    for year in ("2017", ""):
        names = [f"{name}{year}" for name in ("train", "val")]
        files = [f"annotations/panoptic_{name}.json" for name in names]
        if all((folder / file).is_file() for file in files):
            return _labelled(folder, names, files)
    return None


def _labelled(folder: Path, names: list[str], files: list[str]) -> Labelled:
    categories = [
        [(category["name"], bool(category["isthing"])) for category in read_json(folder / file)["categories"]]
        for file in files
    ]
    if categories[0] != categories[1]:
        raise UsageError(f"{files[0]} and {files[1]} list other categories, or in another order")
    things = [is_thing for _, is_thing in categories[0]]
    if things != sorted(things, reverse=True):
        raise UsageError(f"{files[0]} lists a thing behind a stuff class; mmdet numbers all things before all stuff")
    settings: list[dict[str, Any]] = [
        dict(
            type="CocoPanopticDataset",
            data_root=str(folder),
            ann_file=file,
            data_prefix=dict(img=f"{name}/", seg=f"annotations/panoptic_{name}/"),
        )
        for name, file in zip(names, files, strict=True)
    ]
    return Labelled(
        classes=tuple(name for name, _ in categories[0]),
        train=settings[0],
        val=settings[1],
        evaluator=dict(ann_file=str(folder / files[1]), seg_prefix=str(folder / settings[1]["data_prefix"]["seg"])),
        stuff=tuple(name for name, is_thing in categories[0] if not is_thing),
    )
