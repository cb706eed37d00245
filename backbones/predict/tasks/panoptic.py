"""Panoptic segmentation: COCO's panoptic format, and the segments as COCO results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from backbones.predict.tasks.base import Record, Task, encode


class Panoptic(Task):
    """Segments of things and stuff; 0 in a label map is no segment."""

    field = "pred_panoptic_seg"

    def records(self, sample: Any, categories: Sequence[int]) -> list[Record]:
        return [
            {"category_id": categories[label], "segment_id": segment, "segmentation": encode(mask)}
            for segment, label, mask in _segments(sample, len(categories))
        ]

    def label_map(self, sample: Any, classes: int) -> np.ndarray:
        """Segment ids in COCO's colours: R + 256 G + 65536 B."""
        ids = np.zeros(sample.pred_panoptic_seg.shape, np.uint32)
        for segment, _, mask in _segments(sample, classes):
            ids[mask] = segment
        return np.stack([ids >> shift & 255 for shift in (16, 8, 0)], axis=-1).astype(np.uint8)

    def summary(self, records: Sequence[Record], images: Sequence[Record]) -> dict[str, Any]:
        """``panoptic.json``, COCO's file beside the label maps."""
        segments: dict[int, list[Record]] = {image["id"]: [] for image in images}
        for record in records:
            segments[record["image_id"]].append({"id": record["segment_id"], "category_id": record["category_id"]})
        annotations = [
            {"image_id": image["id"], "file_name": image["label_map"], "segments_info": segments[image["id"]]}
            for image in images
        ]
        return {"panoptic.json": {"annotations": annotations}}


def _segments(sample: Any, classes: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Id (from 1), class and mask of each segment of a sample."""
    from mmdet.evaluation.functional import INSTANCE_OFFSET  # a value of the map: instance * INSTANCE_OFFSET + class

    values = sample.pred_panoptic_seg.sem_seg[0].numpy()
    segments = [
        value for value in np.unique(values).tolist() if value % INSTANCE_OFFSET < classes
    ]  # others: no segment
    for segment, value in enumerate(segments, 1):
        yield segment, value % INSTANCE_OFFSET, values == value
