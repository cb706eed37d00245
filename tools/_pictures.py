"""One picture per image from the hosts' visualizers, small images enlarged so that boxes and labels stay readable."""

import math
import os
from functools import wraps
from typing import Any

import cv2
import numpy as np
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmengine.visualization import Visualizer
from torch import Tensor

MIN_LONG_SIDE = 480  # pixels


def _enlarge_pixels(maps: Tensor, factor: int) -> Tensor:
    return maps.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def _enlarge_sample(sample: BaseDataElement, factor: int) -> BaseDataElement:
    """A copy of a data sample whose boxes, masks and label maps fit an image ``factor`` times as large."""
    sample = sample.cpu()
    for name, data in sample.items():
        if isinstance(data, InstanceData):
            data = data.clone()
            if (boxes := data.get("bboxes")) is not None:  # a tensor, or mmdet's box class around one
                data.set_field(getattr(boxes, "tensor", boxes) * factor, "bboxes")
            if (masks := data.get("masks")) is not None:  # predicted: a tensor; annotated: mmdet's polygons or bitmaps
                larger = _enlarge_pixels(masks, factor) if isinstance(masks, Tensor) else masks.rescale(factor)
                data.set_field(larger, "masks")
            sample.set_field(data, name)
        elif isinstance(data, PixelData):
            maps = {key: _enlarge_pixels(value, factor) for key, value in data.items()}
            sample.set_field(PixelData(metainfo=data.metainfo, **maps), name)
    return sample


def draw_into(visualizer: Visualizer, folder: str) -> None:
    """Make a visualizer of mmdet or mmseg draw on images of at least ``MIN_LONG_SIDE`` pixels, into ``folder``."""
    draw = visualizer.add_datasample

    @wraps(draw)
    def draw_large(name: str, image: np.ndarray, data_sample: Any = None, *args: Any, **kwargs: Any) -> None:
        factor = math.ceil(MIN_LONG_SIDE / max(image.shape[:2]))
        if factor > 1 and data_sample is not None:
            image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
            data_sample = _enlarge_sample(data_sample, factor)
        if data_sample is not None:  # mmdet names the file; mmseg would number it, in a folder of its own
            kwargs.setdefault("out_file", os.path.join(folder, os.path.basename(data_sample.img_path)))
        draw(name, image, data_sample, *args, **kwargs)

    visualizer.add_datasample = draw_large
