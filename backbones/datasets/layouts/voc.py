"""Pascal VOC: an XML file of boxes for each image, converted to COCO's format."""

import json
import tempfile
from pathlib import Path

from backbones.datasets.layouts import coco
from backbones.datasets.layouts._labelled import Labelled, Split
from backbones.datasets.layouts._supervision import supervision

TASK = "detection"
TREE = """\
VOC:     Annotations/*.xml, JPEGImages/; ImageSets/Main/train.txt and val.txt, or else they are split"""


def find(folder: Path, split: Split) -> Labelled | None:
    """The data of a folder, or None."""
    if not (any((folder / "Annotations").glob("*.xml")) and (folder / "JPEGImages").is_dir()):
        return None
    data = supervision().DetectionDataset.from_pascal_voc(str(folder / "JPEGImages"), str(folder / "Annotations"))
    with tempfile.TemporaryDirectory() as made:
        data.as_coco(annotations_path=f"{made}/all.json")
        content = json.loads(Path(made, "all.json").read_text())
    listed = folder / "ImageSets" / "Main" / "val.txt"
    validation = None
    if listed.is_file():
        names = {line.split()[0] for line in listed.read_text().splitlines() if line.strip()}
        validation = {image["id"] for image in content["images"] if Path(image["file_name"]).stem in names}
    return coco.split_content(folder, content, "JPEGImages/", split, validation)
