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

from backbones.datasets.find import dataset_class, inner_datasets
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
        self._load: Any = TRANSFORMS.build(load)
        self._transform = Compose([step for step in rest if "Annotations" not in str(step["type"])])

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


def test_loader(cfg: Config) -> dict[str, Any]:
    """The data loader for testing, or else for validation; empty without both."""
    return cfg.get("test_dataloader") or cfg.get("val_dataloader") or {}


def class_meta(cfg: Config, trained: dict[str, Any] | None) -> dict[str, Any]:
    """Names and colours of the classes: the checkpoint's, otherwise those that the config states.

    Args:
        cfg: The config.
        trained: ``meta.dataset_meta`` of the checkpoint.

    Returns:
        ``classes`` (names, or numbers if no names are known) and ``palette`` (RGB of each class).
    """
    dataset = next(inner_datasets(test_loader(cfg)), {})
    stated = {**getattr(dataset_class(dataset), "METAINFO", {}), **(dataset.get("metainfo") or {})}
    if isinstance(file := stated.get("classes"), str):  # a name a line
        stated["classes"] = Path(file).read_text().splitlines() if Path(file).is_file() else ()
    known = {**stated, **(trained or {})}
    classes = tuple(known.get("classes") or map(str, range(_class_number(cfg.model))))
    palette = known.get("palette")
    if not isinstance(palette, (list, tuple)) or len(palette) < len(classes):
        palette = np.random.default_rng(0).integers(0, 256, (len(classes), 3)).tolist()
    return dict(classes=classes, palette=[tuple(colour) for colour in palette])


def _class_number(settings: Any) -> int:
    """The largest ``num_classes`` in the config of a model."""
    values = settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else []
    return max([settings.get("num_classes", 0) if isinstance(settings, dict) else 0, *map(_class_number, values)])
