"""Detection and instance segmentation: COCO's results, with run-length masks where the model predicts masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backbones.predict.tasks.base import Record, Task, encode


class Detection(Task):
    """Boxes as x, y, width and height in pixels, in the order of the model."""

    field = "pred_instances"

    def records(self, sample: Any, categories: Sequence[int]) -> list[Record]:
        found = sample.pred_instances
        masks = found.masks if "masks" in found else [None] * len(found)
        boxes = getattr(found.bboxes, "tensor", found.bboxes)  # mmdet's box class, or a plain tensor
        return [
            {
                "category_id": categories[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
                **({} if mask is None else {"segmentation": encode(mask)}),
            }
            for (x1, y1, x2, y2), score, label, mask in zip(
                boxes.tolist(), found.scores.tolist(), found.labels.tolist(), masks, strict=True
            )
        ]
