"""Pictures of predictions, drawn by the hosts' visualizers."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import VISUALIZERS

from backbones.pictures.classification import readable_names
from backbones.pictures.samples import enlarge
from backbones.predict.inputs import Frame


class Pictures:
    """Draws the prediction of a frame.

    Args:
        cfg: The config, whose visualizer draws.
        meta: ``classes`` and ``palette``, as for the visualizer's ``dataset_meta``.
        score_thr: Boxes below this score are not drawn.
    """

    def __init__(self, cfg: Config, meta: dict[str, Any], score_thr: float) -> None:
        settings = dict(cfg.visualizer, vis_backends=None, name="predict")
        self._visualizer: Any = VISUALIZERS.build(settings)
        self._visualizer.dataset_meta = meta
        self._visualizer.add_image = self._keep  # where the hosts' visualizers put a picture that has no file
        self._classes = readable_names(meta["classes"])
        self._score_thr = score_thr
        self._drawn = np.empty(0)

    def _keep(self, name: str, image: np.ndarray, step: int = 0) -> None:
        self._drawn = image

    def draw(self, frame: Frame, sample: Any) -> np.ndarray:
        """The picture, height x width x BGR, 8 bits; small images are enlarged."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Warning: The (bbox|polygon|text) is out of bounds")  # of mmengine
            self._draw(*enlarge(np.ascontiguousarray(frame.image[..., ::-1].astype(np.uint8)), sample))
        return np.ascontiguousarray(self._drawn[..., ::-1])

    def _draw(self, image: np.ndarray, sample: Any) -> None:
        if hasattr(self._visualizer, "visualize_cls"):
            self._visualizer.visualize_cls(image, sample, classes=self._classes, draw_gt=False)
        else:
            thresholds = {"pred_score_thr": self._score_thr} if "pred_instances" in sample else {}
            self._visualizer.add_datasample("predict", image, sample, draw_gt=False, **thresholds)
