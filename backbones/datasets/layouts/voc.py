"""Pascal VOC: an XML file of boxes for each image, converted to COCO's format."""

from pathlib import Path

from backbones.datasets.layouts import coco
from backbones.datasets.layouts._labelled import Labelled, Split
from backbones.datasets.layouts._supervision import read

TASK = "detection"
TREE = """\
VOC:     Annotations/*.xml, JPEGImages/; ImageSets/Main/train.txt and val.txt, or else they are split"""


def find(folder: Path, split: Split) -> Labelled | None:
    """The data of a folder, or None."""
    if not (any((folder / "Annotations").glob("*.xml")) and (folder / "JPEGImages").is_dir()):
        return None
    content = read("from_pascal_voc", folder / "JPEGImages", folder / "Annotations", "*.xml")
    lists = {name: folder / "ImageSets" / "Main" / f"{name}.txt" for name in ("train", "val")}
    validation = None
    if lists["val"].is_file():
        names = {name: _names(file) for name, file in lists.items() if file.is_file()}
        if "train" in names:  # the rest is for testing
            used = names["train"] | names["val"]
            content["images"] = [image for image in content["images"] if Path(image["file_name"]).stem in used]
            ids = {image["id"] for image in content["images"]}
            content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in ids]
        validation = {image["id"] for image in content["images"] if Path(image["file_name"]).stem in names["val"]}
    return coco.split_content(folder, content, "JPEGImages/", split, validation)


def _names(file: Path) -> set[str]:
    return {line.split()[0] for line in file.read_text().splitlines() if line.strip()}
