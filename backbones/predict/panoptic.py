"""Segments of things and stuff in COCO's panoptic format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.structures import BaseDataElement

from backbones.predict.writing import Writer

OFFSET = 1000  # mmdet's: the value of a segment is its class + 1000 * its number


class PanopticWriter(Writer):
    """``segments/NAME.png`` holds the segment of each pixel, ``predictions.json`` their classes."""

    def add(self, sample: BaseDataElement, image_id: int, name: str) -> None:
        values = sample.get("pred_panoptic_seg").sem_seg[0].numpy().astype(np.int64)  # type: ignore[union-attr]
        ids = np.zeros_like(values)
        segments = []
        for number, value in enumerate(np.unique(values), 1):
            if (label := int(value % OFFSET)) < len(self.classes):  # the rest has no class
                ids[values == value] = number
                segments.append(dict(id=number, category_id=self.categories[label]))
        file = Path("segments") / Path(name).with_suffix(".png")
        (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
        colours = np.stack([ids // 256**i % 256 for i in (2, 1, 0)], axis=-1)  # R + 256 G + 65536 B, as BGR
        (self.folder / file).write_bytes(cv2.imencode(".png", colours.astype(np.uint8))[1].tobytes())
        self.results.append(dict(image_id=image_id, file_name=str(file), segments_info=segments))

    def finish(self, images: list[dict[str, Any]]) -> None:
        content = {**self.index(images), "annotations": self.results}
        (self.folder / "predictions.json").write_text(json.dumps(content) + "\n")


WRITER = PanopticWriter
