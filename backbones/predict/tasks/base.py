"""The interface of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backbones.usage import UsageError

Record = dict[str, Any]


class Task:
    """How the results of an image are written.

    Attributes:
        field: Field of the host's data sample with the result.
    """

    field: str

    def records(self, sample: Any, categories: Sequence[int]) -> list[Record]:
        """Entries of predictions.json for an image, without its id.

        Args:
            sample: Data sample of the host, on the CPU.
            categories: Category id of each class.
        """
        raise NotImplementedError

    def label_map(self, sample: Any, classes: int) -> np.ndarray | None:
        """The image for label_maps/, height x width (8 or 16 bits) or height x width x BGR; None if there is none.

        Args:
            sample: Data sample of the host, on the CPU.
            classes: Number of classes.
        """
        return None

    def summary(self, records: Sequence[Record], images: Sequence[Record]) -> dict[str, Any]:
        """Further JSON files of a run: name -> content.

        Args:
            records: All entries of predictions.json.
            images: All entries of images.json.
        """
        return {}


def encode(mask: Any) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask, height x width.

    Raises:
        UsageError: if pycocotools is not installed; mmdet brings it.
    """
    try:
        from pycocotools import mask as coco
    except ImportError as error:
        raise UsageError("masks are written by pycocotools: pip install 'densebackbones[predict]'") from error
    encoded: Any = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(map(int, encoded["size"])), "counts": encoded["counts"].decode()}
