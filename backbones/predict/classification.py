"""The five best classes of each image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement

from backbones.predict.writing import Writer

SHOWN = 5
MIN_LONG_SIDE = 480  # pixels of a picture, so that the text is readable


class ClassificationWriter(Writer):
    """One entry of ``predictions.json`` an image: its classes with their scores, best first."""

    def add(self, sample: BaseDataElement, image_id: int, name: str) -> None:
        scores: Any = sample.get("pred_score")
        best = scores.topk(min(SHOWN, len(scores)))
        classes = [
            dict(name=self.classes[int(label)], label=int(label), score=float(score))
            for score, label in zip(best.values, best.indices, strict=True)
        ]
        self.results.append(dict(image_id=image_id, file_name=name, classes=classes))

    def draw(self, rgb: np.ndarray, sample: BaseDataElement) -> None:
        factor = max(1, math.ceil(MIN_LONG_SIDE / max(rgb.shape[:2])))
        self.visualizer.visualize_cls(rgb, sample, classes=self.classes, draw_gt=False, rescale_factor=factor)


WRITER = ClassificationWriter
