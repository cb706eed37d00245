"""The library that reads other formats of boxes."""

import json
import tempfile
from pathlib import Path
from typing import Any

from backbones.usage import UsageError, note


def supervision() -> Any:
    """The module.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        import supervision as module
    except ImportError as error:
        raise UsageError("this layout needs supervision: pip install 'densebackbones[data]'") from error
    return module


def read(format_: str, images: Path, labels: Path, pattern: str, *more: Path) -> dict[str, Any]:
    """A folder of labels as COCO's annotations.

    Args:
        format_: Name of the function of supervision that reads it.
        images: Folder of the images.
        labels: Folder of the labels, a file for each image.
        pattern: Of the names of the files.
        more: Other paths that the function takes.

    Raises:
        UsageError: for labels that cannot be read.
    """
    known = {"classes", *(file.stem for file in images.iterdir())}
    if alone := sorted(file.name for file in labels.glob(pattern) if file.stem not in known):
        note(f"left out: {len(alone)} files in {labels} without an image in {images}, among them {alone[0]}")
    dataset = supervision().DetectionDataset
    try:
        return _coco_content(getattr(dataset, format_)(*map(str, (images, labels, *more))))
    except Exception as error:  # broken files may raise anything
        raise UsageError(f"{labels} cannot be read ({type(error).__name__}: {error}); are all files whole?") from error


def _coco_content(data: Any) -> dict[str, Any]:
    """A data set of supervision as COCO's annotations, without the date and the licence that it makes up."""
    with tempfile.TemporaryDirectory() as made:
        data.as_coco(annotations_path=f"{made}/all.json")
        content = json.loads(Path(made, "all.json").read_text())
    images = [{k: v for k, v in image.items() if k not in ("date_captured", "license")} for image in content["images"]]
    return {"images": images, "annotations": content["annotations"], "categories": content["categories"]}
