"""A trained model of mmdet, mmseg or mmpretrain, from images to the host's data samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import MODELS, TRANSFORMS
from mmengine.structures import BaseDataElement

from backbones.usage import UsageError


def build_model(cfg: Config) -> Any:
    """Build the model of a config as the runner does; errors of its classes become a ``UsageError``."""
    settings = cfg.model
    if "data_preprocessor" in cfg and "data_preprocessor" not in settings:
        settings = {**settings, "data_preprocessor": cfg.data_preprocessor}
    try:
        return MODELS.build(settings)
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"the model cannot be built: {error}") from error


class Predictor:
    """Runs the test pipeline of a config and its model.

    Args:
        cfg: The config; its default scope must be the current one.
        model: Its model, with weights; moved to ``device`` and set to evaluation mode.
        device: Such as ``cpu`` or ``cuda:0``.

    Raises:
        UsageError: for a config without a test pipeline.
    """

    def __init__(self, cfg: Config, model: Any, device: str) -> None:
        self.model = model.to(device)
        self.model.eval()  # returns None in some hosts
        dataset = (cfg.get("test_dataloader") or {}).get("dataset") or {}
        while "dataset" in dataset:
            dataset = dataset["dataset"]
        steps = dataset.get("pipeline") or cfg.get("test_pipeline")
        if not steps:
            raise UsageError("the config has no test pipeline (test_dataloader.dataset.pipeline)")
        steps = [step for step in steps if "Annotations" not in str(step["type"])]
        self._load = TRANSFORMS.build(steps[0])
        self._transforms = Compose([TRANSFORMS.build(step) for step in steps[1:]])

    def read(self, path: Path) -> np.ndarray:
        """An image as ``test`` reads it, ``(H, W, 3)`` in BGR.

        Raises:
            OSError: if it cannot be decoded.
        """
        try:
            if path.stat().st_size == 0:
                raise OSError("it is empty")
            results = self._load(dict(img_path=str(path), img_id=0))
        except OSError:
            raise
        except Exception as error:  # decoders raise anything
            raise OSError(str(error).partition("\n")[0] or type(error).__name__) from error
        if results is None or results.get("img") is None:
            raise OSError("it is not an image")
        return results["img"]

    def __call__(self, images: Sequence[np.ndarray]) -> list[BaseDataElement]:
        """The data samples of a batch of images."""
        prepared = [
            self._transforms(
                dict(img=image, img_path="", img_id=index, img_shape=image.shape[:2], ori_shape=image.shape[:2])
            )
            for index, image in enumerate(images)
        ]
        with torch.no_grad():
            return [sample.cpu() for sample in self.model.test_step(pseudo_collate(prepared))]
