"""A model with the test pipeline of its config: images in, the host's data samples out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import TRANSFORMS
from torch import nn

from backbones.datasets.find import inner_datasets
from backbones.datasets.metainfo import test_loader
from backbones.predict.inputs import Frame
from backbones.usage import UsageError


class Predictor:
    """Predicts frames in batches. Images of one size form a batch, so that padding changes no result.

    Args:
        model: The model, on its device, with its weights.
        cfg: Its config, whose default scope must be the current one.
        batch_size: Images in a batch at most; default: the config's for testing.

    Raises:
        UsageError: if the config has no pipeline for testing that loads images from files.
    """

    def __init__(self, model: nn.Module, cfg: Config, batch_size: int | None = None) -> None:
        loader = test_loader(cfg)
        dataset = next(inner_datasets(loader), {})
        load, *rest = dataset.get("pipeline") or [{}]
        if "LoadImage" not in str(load.get("type")):
            raise UsageError(
                "the config's test_dataloader has no pipeline that starts with loading an image file; "
                "predict prepares images as it does"
            )
        self.model: Any = model.eval()
        self.batch_size = batch_size or loader.get("batch_size") or 1
        try:
            self._load: Any = TRANSFORMS.build(load)
            self._transform = Compose([step for step in rest if "Annotations" not in str(step["type"])])
        except Exception as error:  # classes of the hosts raise anything
            raise UsageError(f"the pipeline of the config's test_dataloader cannot be built: {error}") from error

    def read(self, path: Path) -> np.ndarray:
        """Read an image file as testing does, height x width x BGR; raises what the decoder raises."""
        return self._load(dict(img_path=str(path)))["img"]

    def __call__(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Any]]:
        """Give each frame with its data sample, which has the host's fields and is on the CPU."""
        batch: list[tuple[Frame, dict[str, Any]]] = []
        for frame in frames:
            data = self._prepare(frame)
            if batch and (len(batch) == self.batch_size or batch[0][1]["inputs"].shape != data["inputs"].shape):
                yield from self._run(batch)
                batch = []
            batch.append((frame, data))
        if batch:
            yield from self._run(batch)

    def _prepare(self, frame: Frame) -> dict[str, Any]:
        size = frame.image.shape[:2]
        data = dict(img=frame.image, img_path=str(frame.source.path), img_id=0, img_shape=size, ori_shape=size)
        prepared: Any = self._transform(data)
        return prepared

    @torch.no_grad()
    def _run(self, batch: list[tuple[Frame, dict[str, Any]]]) -> list[tuple[Frame, Any]]:
        samples = self.model.test_step(pseudo_collate([data for _, data in batch]))
        return [(frame, sample.cpu()) for (frame, _), sample in zip(batch, samples, strict=True)]
