"""Prediction in overlapping tiles, for images much larger than the model's: sahi's slices and suppression."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData

from backbones.predict.inputs import Frame
from backbones.predict.predictor import Predictor
from backbones.usage import UsageError

OVERLAPPING = (
    0.7  # share of the smaller box: beyond, two boxes of a class are one object, or an object and a part of it
)


class TiledPredictor:
    """Predicts the tiles of an image, and boxes larger than a tile from the whole image; of overlapping ones the best.

    Args:
        predictor: Predicts tiles.
        tile: Side of a tile in pixels.
        overlap: Share of a tile that the next one covers again, from 0 to below 1.

    Raises:
        UsageError: if sahi is not installed, or for a wrong number.
    """

    def __init__(self, predictor: Predictor, tile: int, overlap: float) -> None:
        try:
            import sahi  # noqa: F401
        except ImportError as error:
            raise UsageError("--tile needs sahi; install it: pip install 'densebackbones[predict]'") from error
        if tile < 1 or not 0 <= overlap < 1:
            raise UsageError(f"--tile {tile} --overlap {overlap}: tiles have 1 pixel or more, overlaps 0 to below 1")
        self.read = predictor.read
        self._predictor, self._tile, self._overlap = predictor, tile, overlap

    def __call__(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Any]]:
        """Give each frame with its data sample."""
        for frame in frames:
            yield frame, self._predict(frame)

    def _predict(self, frame: Frame) -> Any:
        from sahi.postprocess import combine
        from sahi.slicing import get_slice_bboxes

        height, width = frame.image.shape[:2]
        tiles = get_slice_bboxes(height, width, self._tile, self._tile, False, self._overlap, self._overlap)
        if len(tiles) > 1:
            tiles.append([0, 0, width, height])
        crops = [Frame(frame.source, np.ascontiguousarray(frame.image[y1:y2, x1:x2])) for x1, y1, x2, y2 in tiles]
        samples = [sample for _, sample in self._predictor(crops)]
        whole = samples[-1]
        if "pred_instances" not in whole or "pred_panoptic_seg" in whole:
            raise UsageError(
                "--tile joins boxes, so it is for detectors; a semantic segmentor predicts tiles with --cfg-options "
                "model.test_cfg.mode=slide model.test_cfg.crop_size=(512,512) model.test_cfg.stride=(384,384)"
            )
        if len(tiles) == 1:
            return whole
        parts = [sample.pred_instances for sample in samples]
        sides = parts[-1].bboxes[:, 2:] - parts[-1].bboxes[:, :2]
        parts[-1] = parts[-1][sides.amax(1) > self._tile]  # of the whole image: the rest is found better in the tiles
        boxes = torch.cat([part.bboxes + torch.tensor(tile[:2] * 2) for part, tile in zip(parts, tiles, strict=True)])
        scores, labels = (torch.cat([part[key] for part in parts]) for key in ("scores", "labels"))
        rows: Any = torch.cat([boxes, scores[:, None], labels[:, None]], 1).double()
        rows = rows if hasattr(combine, "torch") else rows.numpy()  # sahi 0.11 takes tensors
        kept = torch.tensor(combine.batched_nms(rows, "IOS", OVERLAPPING), dtype=torch.long)
        kept = kept[scores[kept].argsort(descending=True)]
        found = InstanceData(bboxes=boxes[kept], scores=scores[kept], labels=labels[kept])
        if "masks" in whole.pred_instances:
            masks = torch.zeros(len(kept), height, width, dtype=torch.bool)
            places = [
                (part, index, tile) for part, tile in zip(parts, tiles, strict=True) for index in range(len(part))
            ]
            for mask, number in zip(masks, kept.tolist(), strict=True):
                part, index, (x1, y1, x2, y2) = places[number]
                mask[y1:y2, x1:x2] = torch.as_tensor(part.masks[index])
            found.masks = masks
        whole.pred_instances = found
        return whole
