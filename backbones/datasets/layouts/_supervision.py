"""The library that reads other formats of boxes."""

import json
import tempfile
from pathlib import Path
from typing import Any

from backbones.usage import UsageError


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


def coco_content(data: Any) -> dict[str, Any]:
    """A data set of supervision as COCO's annotations, without the date and the licence that it makes up."""
    with tempfile.TemporaryDirectory() as made:
        data.as_coco(annotations_path=f"{made}/all.json")
        content = json.loads(Path(made, "all.json").read_text())
    images = [{k: v for k, v in image.items() if k not in ("date_captured", "license")} for image in content["images"]]
    return {"images": images, "annotations": content["annotations"], "categories": content["categories"]}
