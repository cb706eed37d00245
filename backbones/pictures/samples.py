"""One picture per image of a test set, drawn by the hosts' visualizers; small images are enlarged for readability."""

import math
import os
from functools import wraps
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmengine.visualization import Visualizer
from torch import Tensor

from backbones.pictures.classification import readable_names

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


def enlarge(image: np.ndarray, sample: Any) -> tuple[np.ndarray, Any]:
    """An image of at least ``MIN_LONG_SIDE`` pixels, height x width x channels, and the data sample that fits it."""
    factor = math.ceil(MIN_LONG_SIDE / max(image.shape[:2]))
    if factor == 1:
        return image, sample
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC), _enlarge_sample(sample, factor)


def draw_into(visualizer: Visualizer, folder: str) -> None:
    """Make a host's visualizer draw on images of at least ``MIN_LONG_SIDE`` pixels, into ``folder``."""
    if hasattr(visualizer, "visualize_cls"):
        _draw_classes_into(visualizer, folder)
    else:
        _draw_objects_into(visualizer, folder)


def _draw_classes_into(visualizer: Any, folder: str) -> None:
    """For mmpretrain. Each class has a folder, as images of two classes may have the same name."""
    draw = visualizer.visualize_cls

    @wraps(draw)
    def draw_large(image: np.ndarray, data_sample: Any, **kwargs: Any) -> None:
        if "img_path" in data_sample:
            path = Path(data_sample.img_path)
            kwargs["out_file"] = os.path.join(folder, path.parent.name, path.name)
            image = np.ascontiguousarray(image[..., ::-1])  # files are read as BGR; the visualizer takes RGB
        kwargs.setdefault("rescale_factor", max(1, math.ceil(MIN_LONG_SIDE / max(image.shape[:2]))))
        if classes := (visualizer.dataset_meta or {}).get("classes"):
            kwargs.setdefault("classes", readable_names(classes))
        draw(image, data_sample, **kwargs)

    visualizer.visualize_cls = draw_large


def _draw_objects_into(visualizer: Visualizer, folder: str) -> None:
    """For mmdet and mmseg."""
    draw = visualizer.add_datasample

    @wraps(draw)
    def draw_large(name: str, image: np.ndarray, data_sample: Any = None, *args: Any, **kwargs: Any) -> None:
        if data_sample is not None:  # mmseg would number the files, in its own folder
            image, data_sample = enlarge(image, data_sample)
            kwargs.setdefault("out_file", os.path.join(folder, os.path.basename(data_sample.img_path)))
        draw(name, image, data_sample, *args, **kwargs)

    visualizer.add_datasample = draw_large
