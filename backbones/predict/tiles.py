"""Prediction in overlapping tiles, for images much larger than the model's: sahi's slices and merging."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData

from backbones.predict.inputs import Frame
from backbones.predict.predictor import Predictor
from backbones.usage import UsageError

OVERLAPPING = 0.5  # share of the smaller box above which two boxes of a class are parts of one object; sahi's default


class TiledPredictor:
    """Predicts the tiles of an image, and boxes larger than a tile from the whole image, and merges the boxes.

    Args:
        predictor: Predicts tiles.
        tile: Side of a tile in pixels.
        overlap: Share of a tile that the next one covers again, from 0 to below 1.
        score_thr: Boxes below this score are dropped before merging, as they would enlarge the others.

    Raises:
        UsageError: if sahi is not installed, or for a wrong number.
    """

    def __init__(self, predictor: Predictor, tile: int, overlap: float, score_thr: float) -> None:
        try:
            import sahi  # noqa: F401
        except ImportError as error:
            raise UsageError("--tile needs sahi; install it: pip install 'densebackbones[predict]'") from error
        if tile < 1 or not 0 <= overlap < 1:
            raise UsageError(f"--tile {tile} --overlap {overlap}: tiles have 1 pixel or more, overlaps 0 to below 1")
        self.read = predictor.read
        self._predictor, self._tile, self._overlap, self._score_thr = predictor, tile, overlap, score_thr

    def __call__(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Any]]:
        """Give each frame with its data sample."""
        for frame in frames:
            yield frame, self._predict(frame)

    def _predict(self, frame: Frame) -> Any:
        from sahi.postprocess.combine import GreedyNMMPostprocess
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
                "--tile merges boxes, so it is for detectors; a semantic segmentor predicts tiles with --cfg-options "
                "model.test_cfg.mode=slide model.test_cfg.crop_size=(512,512) model.test_cfg.stride=(384,384)"
            )
        if len(tiles) == 1:
            return whole
        parts = [sample.pred_instances for sample in samples]
        sides = parts[-1].bboxes[:, 2:] - parts[-1].bboxes[:, :2]
        parts[-1] = parts[-1][sides.amax(1) > self._tile]  # of the whole image: the rest is found better in the tiles
        found = [
            prediction
            for (x, y, *_), part in zip(tiles, parts, strict=True)
            for prediction in self._predictions(part, (x, y), (height, width))
        ]
        merge = GreedyNMMPostprocess(match_threshold=OVERLAPPING, match_metric="IOS", class_agnostic=False)
        whole.pred_instances = _instances(merge(found) if found else [], "masks" in whole.pred_instances, height, width)
        return whole

    def _predictions(self, found: Any, shift: tuple[int, int], size: tuple[int, int]) -> Iterator[Any]:
        """The boxes of a tile as sahi's, in pixels of the whole image."""
        from sahi.prediction import ObjectPrediction
        from sahi.utils.cv import get_coco_segmentation_from_bool_mask

        for index in torch.nonzero(found.scores >= self._score_thr).flatten().tolist():
            polygons = None
            if "masks" in found:
                polygons = get_coco_segmentation_from_bool_mask(np.asarray(found.masks[index]))
                if not polygons:  # a box without a mask
                    continue
            yield ObjectPrediction(
                bbox=found.bboxes[index].tolist(),
                category_id=int(found.labels[index]),
                score=float(found.scores[index]),
                segmentation=polygons,
                shift_amount=list(shift),
                full_shape=list(size),
            ).get_shifted_object_prediction()


def _instances(predictions: list[Any], with_masks: bool, height: int, width: int) -> InstanceData:
    """Boxes of sahi as the host's, the best first."""
    predictions = sorted(predictions, key=lambda p: -p.score.value)
    found = InstanceData(
        bboxes=torch.tensor([p.bbox.to_xyxy() for p in predictions]).reshape(-1, 4).float(),
        scores=torch.tensor([p.score.value for p in predictions]),
        labels=torch.tensor([p.category.id for p in predictions], dtype=torch.long),
    )
    if with_masks:
        masks = [p.mask.bool_mask for p in predictions]
        found.masks = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, height, width))
    return found
