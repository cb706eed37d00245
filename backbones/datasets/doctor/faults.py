"""Every kind of fault, with its rule."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["refused", "repaired", "noted"]


@dataclass(frozen=True)
class Kind:
    """Says how a fault is handled."""

    outcome: Outcome  # refused: no training starts; repaired: in a copy of the file; noted: nothing changes
    rule: str


KINDS = {
    # -- the annotation file
    "not-json": Kind("refused", "the file must be JSON"),
    "missing-key": Kind("refused", "images, annotations and categories must be lists"),
    "invalid-entry": Kind(
        "refused", "an image has id and file_name, a category id and name, and ids are single values"
    ),
    "duplicate-image-id": Kind("refused", "annotations could belong to either image"),
    "duplicate-category": Kind("refused", "ids and names of categories must differ"),
    "no-images": Kind("refused", "there must be images"),
    "no-annotations": Kind("refused", "there must be annotations to train on or compare with"),
    "no-masks": Kind("refused", "the config trains or evaluates masks; --classes auto --boxes-only removes them"),
    # -- annotations
    "unknown-image-id": Kind("repaired", "annotation dropped"),
    "unknown-category-id": Kind("repaired", "annotation dropped"),
    "invalid-box": Kind("repaired", "annotation dropped: bbox must be a list of four numbers"),
    "text-box": Kind("repaired", "numbers written as text are read as numbers"),
    "non-finite-box": Kind("repaired", "annotation dropped"),
    "empty-box": Kind("repaired", "annotation dropped: width and height must be positive"),
    "outside-box": Kind("repaired", "annotation dropped: the box lies outside the image"),
    "overhanging-box": Kind("repaired", "box clipped to the image"),
    "thin-box": Kind("noted", "mmdet trains without boxes narrower than one pixel"),
    "ignored": Kind("noted", "mmdet trains without annotations marked as ignored"),
    "annotation-id": Kind("repaired", "new id: ids must differ, and pycocotools takes 0 for no match"),
    "area": Kind("repaired", "area set to the box's"),
    "crowd-flag": Kind("repaired", "iscrowd set to 0"),
    "short-polygon": Kind(
        "repaired", "polygons of fewer than three points, or with points 100000 pixels away, removed"
    ),
    "invalid-mask": Kind("repaired", "annotation dropped: the config needs masks"),
    # -- images
    "image-size": Kind("repaired", "width and height set to the file's"),
    "image-scale": Kind("refused", "the image was resized, so boxes may belong to the other size"),
    "image-rotation": Kind("refused", "the file's EXIF tag turns the image, the boxes belong to the unturned one"),
    "missing-image": Kind("refused", "every image must exist"),
    "broken-image": Kind("refused", "every image must decode"),
    "image-mode": Kind("noted", "read as 8-bit RGB"),
    "turned-image": Kind("noted", "turned by its EXIF tag when read"),
    "train-val-duplicate": Kind("noted", "the same file trains and evaluates, so the metrics are too good"),
    # -- masks of segmentation, and classes
    "invalid-label-map": Kind("refused", "a mask has one channel, the image's size, and class numbers in range"),
    "classes": Kind("refused", "the data and the config must have the same classes"),
}


@dataclass(frozen=True)
class Fault:
    """A fault of a file or of one of its entries."""

    kind: str  # a key of ``KINDS``
    file: str
    text: str  # names the fault
    id: Any = None  # of the image or annotation
    entry: tuple[str, int] | None = None  # list of the annotation file and position in it
    changes: dict[str, Any] = field(default_factory=dict)  # to the entry, if repaired; without any, it is dropped

    @property
    def outcome(self) -> Outcome:
        """One of refused, repaired, noted."""
        return KINDS[self.kind].outcome


def count(faults: Iterable[Fault]) -> dict[tuple[str, str], list[Fault]]:
    """(file, kind) -> its faults, refused ones first."""
    groups: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        groups.setdefault((fault.file, fault.kind), []).append(fault)
    order = ("refused", "repaired", "noted")
    return dict(sorted(groups.items(), key=lambda group: order.index(group[1][0].outcome)))


def lines(faults: Iterable[Fault]) -> list[str]:
    """One line for each file and kind: outcome, kind, file, count, rule and the first cases."""
    said = []
    for (file, kind), group in count(faults).items():
        cases = list(Counter(fault.text for fault in group))
        more = f"; and {len(cases) - 3} more" if len(cases) > 3 else ""
        said.append(
            f"{group[0].outcome}: {file}: {len(group)} x {kind} ({KINDS[kind].rule}): {'; '.join(cases[:3])}{more}"
        )
    return said
