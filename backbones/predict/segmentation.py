"""Label maps: the class of each pixel."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from mmengine.structures import BaseDataElement

from backbones.predict.writing import Writer


class SegmentationWriter(Writer):
    """``label_maps/NAME.png`` has the class number of each pixel, ``predictions.json`` the share of each class."""

    def add(self, sample: BaseDataElement, image_id: int, name: str) -> None:
        labels = sample.get("pred_sem_seg").data[0].numpy()  # type: ignore[union-attr]
        file = Path("label_maps") / Path(name).with_suffix(".png")
        (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
        depth = np.uint8 if len(self.classes) <= 256 else np.uint16
        (self.folder / file).write_bytes(cv2.imencode(".png", labels.astype(depth))[1].tobytes())
        counts = np.bincount(labels.ravel(), minlength=len(self.classes))
        shares = {self.classes[i]: round(float(counts[i] / labels.size), 6) for i in np.flatnonzero(counts)}
        self.results.append(dict(image_id=image_id, file_name=str(file), classes=shares))


WRITER = SegmentationWriter
