"""Boxes and masks as COCO's results."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement
from pycocotools import mask as mask_utils

from backbones.predict.writing import Writer


class DetectionWriter(Writer):
    """One entry of ``predictions.json`` an object: image_id, category_id, bbox, score and, with masks, segmentation."""

    def add(self, sample: BaseDataElement, image_id: int, name: str) -> None:
        found: Any = sample.get("pred_instances")
        boxes = found.bboxes.numpy()
        for index, (box, score, label) in enumerate(zip(boxes, found.scores, found.labels, strict=True)):
            left, top, right, bottom = map(float, box)
            entry: dict[str, Any] = dict(
                image_id=image_id,
                category_id=self.categories[int(label)],
                bbox=[left, top, right - left, bottom - top],
                score=float(score),
            )
            if "masks" in found:
                rle: Any = mask_utils.encode(np.asfortranarray(found.masks[index].numpy(), dtype=np.uint8))
                entry["segmentation"] = {**rle, "counts": rle["counts"].decode()}
            self.results.append(entry)

    def draw(self, rgb: np.ndarray, sample: BaseDataElement) -> None:
        self.visualizer.add_datasample("prediction", rgb, sample, draw_gt=False, pred_score_thr=self.score_thr)


WRITER = DetectionWriter
