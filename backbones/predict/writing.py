"""Parts of all writers: the folder of the results, and pictures by the host's visualizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement

from backbones.config.own_data import palette


class Writer:
    """Collects the predictions of one task; a subclass says what is kept.

    Args:
        folder: Where everything is written.
        cfg: The model's config.
        classes: Class names by number.
        score_thr: Least score of a drawn object.
        categories: COCO's category ids by class number.
    """

    def __init__(
        self, folder: Path, cfg: Config, classes: tuple[str, ...], score_thr: float, categories: list[int]
    ) -> None:
        self.folder, self.classes, self.score_thr, self.categories = folder, classes, score_thr, categories
        self.results: list[dict[str, Any]] = []
        settings = dict(cfg.get("visualizer") or dict(type="Visualizer"), name=f"predict-{folder}", vis_backends=[])
        self.visualizer: Any = VISUALIZERS.build(settings)
        self.visualizer.dataset_meta = dict(classes=classes, palette=palette(len(classes)))

    def add(self, sample: BaseDataElement, image_id: int, name: str) -> None:
        """Keep the prediction of an image."""
        raise NotImplementedError

    def picture(self, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        """The image with its prediction; both ``(H, W, 3)`` in BGR."""
        rgb = np.ascontiguousarray(image[..., ::-1])
        self.draw(rgb, sample)
        return np.ascontiguousarray(self.visualizer.get_image()[..., ::-1])

    def draw(self, rgb: np.ndarray, sample: BaseDataElement) -> None:
        """Draw into the visualizer."""
        self.visualizer.add_datasample("prediction", rgb, sample, draw_gt=False)

    def write_picture(self, name: str, picture: np.ndarray) -> None:
        """Write a picture under the name of its image."""
        file = self.folder / "pictures" / Path(name).with_suffix(".jpg")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())  # unlike cv2.imwrite, raises when the disk is full

    def finish(self, images: list[dict[str, Any]]) -> None:
        """Write the results."""
        (self.folder / "predictions.json").write_text(json.dumps(self.results) + "\n")
        (self.folder / "images.json").write_text(json.dumps(self.index(images)) + "\n")

    def index(self, images: list[dict[str, Any]]) -> dict[str, Any]:
        """The images and classes in COCO's format, with which pycocotools loads the results."""
        categories = [dict(id=i, name=name) for i, name in zip(self.categories, self.classes, strict=True)]
        return dict(images=images, annotations=[], categories=categories)
