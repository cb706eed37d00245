"""Faults of an annotation file in COCO's format, and their repair."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from backbones.checks import are_wholes, is_number
from backbones.datasets.doctor.faults import Fault

FAR = 1e5  # pixels; pycocotools allocates as many as a polygon is long, and crashes where it cannot
OVERHANG = 1.0  # pixels outside the image that are rounding: COCO's own boxes have them
SCALARS = (int, str)
NAMES = ("file_name", "name")
LISTS = ("images", "annotations", "categories")


def read(file: str, labelled: bool = True) -> tuple[dict[str, Any], list[Fault]]:
    """Read an annotation file.

    Args:
        file: Its path.
        labelled: Whether it must have annotations; COCO's files of the test images have none.

    Returns:
        Its content, and the faults that forbid its use. With any of these, the content is empty.
    """
    data = Path(file).read_bytes()
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:  # broken JSON, bytes that are no text, or a thousand brackets
        return {}, [Fault("not-json", file, f"begins with {data[:40]!r} ({error})")]
    faults = list(_structure(content, file, labelled))
    return ({} if faults else content), faults


def _structure(content: Any, file: str, labelled: bool) -> Iterator[Fault]:
    content = content if isinstance(content, dict) else {}
    needed = [name for name in LISTS if labelled or name != "annotations" or name in content]
    if absent := [name for name in needed if not isinstance(content.get(name), list)]:
        yield Fault("missing-key", file, f"{', '.join(absent)}: missing or not a list")
        return
    required = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}
    broken = False
    for name in needed:
        keys = required[name] if name != "annotations" else ()
        one, other = required[name]
        for index, entry in enumerate(content[name]):
            kinds = (str,) if other in NAMES else SCALARS
            if type(entry) is dict and type(entry.get(one)) in SCALARS and type(entry.get(other)) in kinds:
                continue  # nearly all of a million
            wrong = (
                list(keys)
                if not isinstance(entry, dict)
                else [key for key in keys if key not in entry]
                or [key for key in required[name] if isinstance(entry.get(key), (list, dict))]
                or [key for key in keys if key in NAMES and not isinstance(entry[key], str)]
            )
            if wrong or not isinstance(entry, dict):
                broken = True
                yield Fault("invalid-entry", file, f"{name}[{index}]: {', '.join(wrong) or 'not an object'}")
    if broken:
        return
    for id_, number in Counter(image["id"] for image in content["images"]).items():
        if number > 1:
            yield Fault("duplicate-image-id", file, f"image id {id_} has {number} entries", id_)
    for key in ("id", "name"):
        for value, number in Counter(category[key] for category in content["categories"]).items():
            if number > 1:
                yield Fault("duplicate-category", file, f"category {key} {value!r} has {number} entries", value)
    if not content["images"]:
        yield Fault("no-images", file, "images is empty")
    elif labelled and not content["annotations"]:
        yield Fault("no-annotations", file, "annotations is empty")


def find_faults(content: dict[str, Any], file: str, masks: bool, labelled: bool = True) -> list[Fault]:
    """Find the faults of the annotations.

    Args:
        content: A readable annotation file, with the true sizes of its images.
        file: Its path, for the faults.
        masks: Whether masks are trained or evaluated; otherwise they are not looked at.
        labelled: Whether there must be annotations.

    Returns:
        The faults. Each annotation to drop has one.
    """
    annotations = content.get("annotations") or []
    if not annotations:
        return []
    entries = _Entries(annotations, file)
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"] if _sized(image)}
    images = {image["id"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    entries.drop("unknown-image-id", [a.get("image_id") not in images for a in annotations], "image_id")
    entries.drop("unknown-category-id", [a.get("category_id") not in categories for a in annotations], "category_id")
    boxes = entries.boxes()
    x, y, w, h = boxes.T
    width, height = np.array([sizes.get(a.get("image_id"), (math.inf, math.inf)) for a in annotations], float).T
    entries.drop("non-finite-box", ~np.isfinite(boxes).all(1), "bbox")
    with np.errstate(invalid="ignore", over="ignore"):
        entries.drop("empty-box", (w <= 0) | (h <= 0), "bbox")
        entries.drop("outside-box", (x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0), "bbox")
        over = (x < -OVERHANG) | (y < -OVERHANG) | (x + w > width + OVERHANG) | (y + h > height + OVERHANG)
        thin = (w < 1) | (h < 1)
    if masks:
        entries.check_masks(sizes)

    for i in np.flatnonzero(over & entries.kept).tolist():
        left, top = max(x[i], 0.0), max(y[i], 0.0)
        clipped = [left, top, min(x[i] + w[i], width[i]) - left, min(y[i] + h[i], height[i]) - top]
        area = annotations[i].get("area")
        smaller = {"area": min(area, clipped[2] * clipped[3])} if is_number(area) else {}
        changes = {"bbox": [float(value) for value in clipped], **smaller}
        text = f"bbox {annotations[i]['bbox']} in an image of {width[i]:g} x {height[i]:g}"
        entries.fault("overhanging-box", i, text, changes)
        boxes[i] = clipped
    for i in np.flatnonzero(thin & entries.kept).tolist():
        entries.fault("thin-box", i, f"bbox {annotations[i]['bbox']}")
    for i in np.flatnonzero(np.array([bool(a.get("ignore")) for a in annotations]) & entries.kept).tolist():
        entries.fault("ignored", i, "ignore is set")
    entries.check_fields(boxes[:, 2] * boxes[:, 3])
    if labelled and not entries.kept.any():
        reason = "no annotation has a valid mask" if masks and entries.maskless else "no annotation is usable"
        kind = "no-masks" if masks and entries.maskless else "no-annotations"
        return [*entries.faults, Fault(kind, file, reason)]
    return entries.faults


def repair(content: dict[str, Any], faults: list[Fault]) -> dict[str, Any]:
    """A copy of an annotation file's content without the faults that can be repaired."""
    repaired = {**content, **{name: list(content.get(name) or []) for name in LISTS}}
    for fault in faults:
        if fault.outcome == "repaired" and fault.entry:
            name, index = fault.entry
            entry = repaired[name][index]
            repaired[name][index] = {**entry, **fault.changes} if fault.changes and entry is not None else None
    for name in LISTS:
        repaired[name] = [entry for entry in repaired[name] if entry is not None]
    return repaired


def _sized(image: dict) -> bool:
    return all(is_number(image.get(key)) and image[key] > 0 for key in ("width", "height"))


class _Entries:
    """The annotations of a file, their faults, and the ones that no fault drops."""

    def __init__(self, annotations: list[dict], file: str) -> None:
        self.annotations, self.file = annotations, file
        self.faults: list[Fault] = []
        self.kept = np.ones(len(annotations), bool)
        self.maskless = False  # whether all annotations that were left lacked a valid mask

    def fault(self, kind: str, index: int, text: str, changes: dict | None = None) -> None:
        annotation = self.annotations[index]
        id_ = annotation.get("id")
        where = f"annotation {f'[{index}]' if id_ is None else id_} of image {annotation.get('image_id')}: {text}"
        self.faults.append(Fault(kind, self.file, where, id_, ("annotations", index), changes or {}))

    def drop(self, kind: str, wrong: Any, key: str) -> None:
        for index in np.flatnonzero(np.asarray(wrong) & self.kept).tolist():
            self.fault(kind, index, f"{key} {self.annotations[index].get(key)!r}")
            self.kept[index] = False

    def boxes(self) -> np.ndarray:
        """All boxes ``(N, 4)`` as left, top, width, height; zeros where there is none."""
        try:
            boxes = np.array([annotation["bbox"] for annotation in self.annotations])
        except (KeyError, ValueError):  # some are missing, or of another length
            boxes = np.empty(0)
        if boxes.shape == (len(self.annotations), 4) and boxes.dtype.kind in "if":
            return boxes.astype(np.float64)
        boxes = np.zeros((len(self.annotations), 4))
        invalid = np.zeros(len(boxes), bool)
        for index, annotation in enumerate(self.annotations):
            box = annotation.get("bbox")
            try:
                assert isinstance(box, list)
                boxes[index] = [float(value) for value in box]
            except (AssertionError, TypeError, ValueError, OverflowError):
                invalid[index] = True
                continue
            if self.kept[index] and any(isinstance(value, str) for value in box):
                self.fault("text-box", index, f"bbox {box}", {"bbox": boxes[index].tolist()})
        self.drop("invalid-box", invalid, "bbox")
        return boxes

    def check_masks(self, sizes: dict[Any, tuple[float, float]]) -> None:
        before = self.kept.copy()
        for index in np.flatnonzero(self.kept).tolist():
            mask = self.annotations[index].get("segmentation")
            if isinstance(mask, list) and mask:
                whole = [polygon for polygon in mask if _is_polygon(polygon)]
                if len(whole) == len(mask):
                    continue
                if whole:
                    self.fault(
                        "short-polygon",
                        index,
                        f"{len(mask) - len(whole)} of {len(mask)} polygons",
                        {"segmentation": whole},
                    )
                    continue
                reason = "no polygon of three points or more"
            elif isinstance(mask, dict):
                reason = _fault_of_run_lengths(mask, sizes.get(self.annotations[index].get("image_id")))
            else:
                reason = "no segmentation" if mask is None else f"segmentation {mask!r:.60}"
            if reason:
                self.fault("invalid-mask", index, reason)
                self.kept[index] = False
        self.maskless = bool(before.any() and not self.kept.any())

    def check_fields(self, areas: np.ndarray) -> None:
        """Ids, areas and crowd flags of the annotations that are left."""
        ids = [id_ if isinstance(id_ := a.get("id"), (int, str)) else None for a in self.annotations]
        seen: set[Any] = {None, 0}
        new = max((id_ for id_ in ids if isinstance(id_, int)), default=0) + 1
        for index in np.flatnonzero(self.kept).tolist():
            annotation, id_ = self.annotations[index], ids[index]
            if id_ in seen:
                text = "no id" if id_ is None else "id 0" if id_ == 0 else f"id {id_} occurs before"
                self.fault("annotation-id", index, text, {"id": new})
                new += 1
            seen.add(id_)
            area: Any = annotation.get("area")
            if not (is_number(area) and area > 0):
                self.fault("area", index, f"area {area!r}", {"area": float(areas[index])})
            if annotation.get("iscrowd") not in (0, 1):
                self.fault("crowd-flag", index, f"iscrowd {annotation.get('iscrowd')!r}", {"iscrowd": 0})


def _is_polygon(points: Any) -> bool:
    try:
        return len(points) >= 6 and len(points) % 2 == 0 and max(map(abs, points)) <= FAR and math.isfinite(sum(points))
    except TypeError:
        return False


def _fault_of_run_lengths(mask: dict, size: tuple[float, float] | None) -> str | None:
    """The fault of a mask in run lengths, plain or compressed, of an image with a known (width, height)."""
    counts: Any = mask.get("counts")
    shape: Any = mask.get("size")
    if not (are_wholes(shape, 2) and isinstance(counts, (list, str)) and counts):
        return "run lengths need size and counts"
    if size and shape != [size[1], size[0]]:
        return f"run lengths of size {shape} in an image of height {size[1]}, width {size[0]}"
    if isinstance(counts, list):
        numbers = all(isinstance(run, int) and run >= 0 for run in counts)
        return None if numbers and sum(counts) == shape[0] * shape[1] else "run lengths do not fill the image"
    try:
        mask_utils.decode({"size": shape, "counts": counts.encode()})  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        return f"compressed run lengths: {error}"
    return None
