"""Large images in overlapping tiles (sahi), whose boxes are joined again."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmcv.ops import batched_nms
from mmengine.structures import BaseDataElement, InstanceData

from backbones.predict.predictor import Predictor
from backbones.usage import UsageError

JOIN = dict(type="nms", iou_threshold=0.5)  # boxes of one class in two tiles that overlap more are one object


def corners(height: int, width: int, side: int, overlap: float) -> list[list[int]]:
    """``[left, top, right, bottom]`` of each tile, in pixels.

    Raises:
        UsageError: if sahi is not installed.
    """
    try:
        from sahi.slicing import get_slice_bboxes
    except ImportError as error:
        raise UsageError("--tile needs sahi: pip install 'densebackbones[predict]'") from error
    return get_slice_bboxes(
        image_height=height,
        image_width=width,
        slice_height=side,
        slice_width=side,
        overlap_height_ratio=overlap,
        overlap_width_ratio=overlap,
    )


def predict_tiled(
    predictor: Predictor, image: np.ndarray, side: int, overlap: float, batch_size: int
) -> BaseDataElement:
    """The detections of an image, found tile by tile.

    Args:
        predictor: A detector.
        image: ``(H, W, 3)`` in BGR.
        side: Side of a tile, in pixels.
        overlap: Share of the side that neighbours have in common, in [0, 1).
        batch_size: Tiles at a time.
    """
    height, width = image.shape[:2]
    places = corners(height, width, side, overlap)
    samples: list[Any] = []
    for start in range(0, len(places), batch_size):
        tiles = [
            np.ascontiguousarray(image[top:bottom, left:right])
            for left, top, right, bottom in places[start : start + batch_size]
        ]
        samples += predictor(tiles)
    found = [_moved(sample.pred_instances, place, height, width) for sample, place in zip(samples, places, strict=True)]
    joined: Any = InstanceData.cat(found)
    if len(joined):
        _, kept = batched_nms(joined.bboxes.float(), joined.scores.float(), joined.labels, JOIN)
        joined = joined[kept]
    whole = samples[0].new()
    whole.pred_instances = joined
    whole.set_metainfo(dict(ori_shape=(height, width), img_shape=(height, width)))
    return whole


def _moved(found: Any, place: list[int], height: int, width: int) -> InstanceData:
    """Detections of a tile in the coordinates of the image."""
    left, top, right, bottom = place
    moved = InstanceData(scores=found.scores, labels=found.labels)
    moved.bboxes = found.bboxes + torch.tensor([left, top, left, top])
    if "masks" in found:
        masks = torch.zeros(len(found), height, width, dtype=torch.bool)
        masks[:, top:bottom, left:right] = found.masks
        moved.masks = masks
    return moved
