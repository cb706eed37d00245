"""Semantic segmentation: a label map of each image, and COCO-stuff's results, a mask for each class in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backbones.predict.tasks.base import Record, Task, encode


class Semantic(Task):
    """The class index of each pixel."""

    field = "pred_sem_seg"

    def records(self, sample: Any, categories: Sequence[int]) -> list[Record]:
        labels = sample.pred_sem_seg.data[0].numpy()
        return [
            {"category_id": categories[label], "segmentation": encode(labels == label)}
            for label in np.unique(labels).tolist()
        ]

    def label_map(self, sample: Any, classes: int) -> np.ndarray:
        return sample.pred_sem_seg.data[0].numpy().astype(np.uint8 if classes <= 256 else np.uint16)
