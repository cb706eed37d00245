"""Numbers about data sets, and how a config's resize and anchors suit them."""

from typing import Any

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.registry import TASK_UTILS

from backbones.datasets.doctor.examine import values_of

Size = tuple[int, int]  # width, height
MAX_BOXES = 20_000  # held against the anchors
DIVISOR = 32  # images are padded to a multiple of it
MIN_IOU = 0.5


def resize_of(cfg: Config) -> tuple[Size, bool] | None:
    """The size (width, height) that images of the evaluation are resized to, and whether their ratio is kept."""

    def find(node: Any) -> tuple[Size, bool] | None:
        if isinstance(node, dict):
            scale = node.get("scale")
            if str(node.get("type")).endswith("Resize") and scale:
                size = (scale, scale) if isinstance(scale, (int, float)) else scale
                return (int(size[0]), int(size[1])), node.get("keep_ratio", False)
        children = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
        return next((found for child in children if (found := find(child))), None)

    loaders = [f"{loop}_dataloader" for loop in ("val", "test", "train")]
    return next((found for loader in loaders if (found := find(cfg.get(loader)))), None)


def resized(size: Size, resize: tuple[Size, bool]) -> Size:
    """The size (width, height) of an image after the resize, as mmcv rounds it."""
    target, keep_ratio = resize
    return mmcv.rescale_size(size, target) if keep_ratio else target


def anchors_of(cfg: Config) -> Any:
    """The anchor generator of a detector, or None if it has no anchors."""
    found = next(values_of(cfg.model, "anchor_generator"), None)
    generator = TASK_UTILS.build(found.to_dict()) if found else None
    return generator if hasattr(generator, "base_anchors") else None


def best_ious(boxes: np.ndarray, sizes: np.ndarray, generator: Any) -> np.ndarray:
    """The largest overlap of each box with an anchor.

    Of anchors of one shape, the nearest one overlaps most, so only the grid point nearest to a box counts.

    Args:
        boxes: ``(N, 4)`` left, top, width, height, in pixels of the resized images.
        sizes: ``(N, 2)`` widths and heights of the resized images.
        generator: mmdet's anchor generator.

    Returns:
        ``(N,)`` intersection over union.
    """
    best = np.zeros(len(boxes))
    low, high = boxes[:, None, :2], boxes[:, None, :2] + boxes[:, None, 2:]
    padded = np.ceil(sizes / DIVISOR) * DIVISOR
    for stride, base in zip(generator.strides, generator.base_anchors, strict=True):
        base, step = base.numpy().astype(float)[None], np.array(stride, float)
        center = (base[..., :2] + base[..., 2:]) / 2
        last = np.ceil(padded / step)[:, None] - 1
        place = np.clip(np.rint(((low + high) / 2 - center) / step), 0, last) * step
        anchor_low, anchor_high = base[..., :2] + place, base[..., 2:] + place
        common = np.clip(np.minimum(high, anchor_high) - np.maximum(low, anchor_low), 0, None).prod(-1)
        union = (high - low).prod(-1) + (anchor_high - anchor_low).prod(-1) - common
        best = np.maximum(best, (common / union).max(1))
    return best


def anchor_coverage(cfg: Config, boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Best overlaps of at most ``MAX_BOXES`` boxes with the config's anchors at the config's resize.

    Args:
        cfg: A detector's config.
        boxes: ``(N, 4)`` left, top, width, height.
        sizes: ``(N, 2)`` width and height of the image of each box.

    Returns:
        The square root of the area of each box in its resized image, and its best overlap; None without anchors.
    """
    resize, generator = resize_of(cfg), anchors_of(cfg)
    if resize is None or generator is None or not len(boxes):
        return None
    chosen = np.linspace(0, len(boxes) - 1, min(len(boxes), MAX_BOXES), dtype=int)
    boxes, sizes = boxes[chosen], sizes[chosen]
    new = np.array([resized((int(w), int(h)), resize) for w, h in sizes], float)
    boxes = boxes * np.tile(new / sizes, 2)
    return np.sqrt(boxes[:, 2] * boxes[:, 3]), best_ious(boxes, new, generator)
