"""The model that is described: a config's, or a backbone alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from torch import nn

from backbones.config.hosts import find_config
from backbones.config.lookup import read_config
from backbones.config.swap import BACKBONES
from backbones.info.model import build, build_model
from backbones.usage import UsageError

SIZE = 800, 1333  # height and width, of COCO's images in most detectors
BATCH = 2


@dataclass(frozen=True)
class Subject:
    """A model on the meta device.

    Attributes:
        title: Its name.
        model: The whole model, or the backbone.
        backbone: Its backbone.
        settings: Config of the backbone.
        size: Usual height and width of its images, in pixels.
        batch: Usual number of images a step.
        divisor: Sides of a batch are padded to a multiple of this number of pixels.
    """

    title: str
    model: nn.Module
    backbone: nn.Module
    settings: Any
    size: tuple[int, int] = SIZE
    batch: int = BATCH
    divisor: int = 1

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of a batch of such images."""
        height, width = (-(-side // self.divisor) * self.divisor for side in size)
        return height, width


def read_backbone(name: str, arch: str | None = None) -> Subject:
    """A backbone of this package; its first preset unless ``arch`` names one.

    Raises:
        UsageError: for an unknown preset.
    """
    arch = arch or next(iter(BACKBONES[name].archs))
    settings = dict(type=f"backbones.{name}", arch=arch)
    try:
        backbone = build(settings)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from error
    return Subject(f"{name} {arch}", backbone, backbone, settings)


def read_model(name: str) -> Subject:
    """The model of a config, as for ``find_config``.

    Raises:
        UsageError: for an unknown config, or one without a backbone or whose model cannot be built.
    """
    try:
        path = find_config(name)
    except UsageError as error:
        raise UsageError(f"{name} is neither a backbone ({', '.join(BACKBONES)}) nor a config: {error}") from error
    cfg = read_config(path)
    settings = (cfg.get("model") or {}).get("backbone")
    if not settings:
        raise UsageError(f"{name} has no model.backbone; give the config of a whole model")
    try:
        model: Any = build_model(cfg)
    except Exception as error:  # classes of the hosts raise anything
        raise UsageError(f"the model of {name} cannot be built: {error}") from error
    batch = (cfg.get("train_dataloader") or {}).get("batch_size", BATCH)
    divisor = (cfg.model.get("data_preprocessor") or {}).get("pad_size_divisor", 1)
    return Subject(path.stem, model, model.backbone, settings, usual_size(cfg), batch, divisor)


def usual_size(cfg: Config) -> tuple[int, int]:
    """Height and width of a config's images: mmseg's crop, or where its (test) pipeline resizes, crops or pads to."""
    if crop := (cfg.model.get("data_preprocessor") or {}).get("size"):
        height, width = crop
        return height, width
    loader = cfg.get("test_dataloader") or cfg.get("train_dataloader") or {}
    for transform in reversed(loader.get("dataset", {}).get("pipeline", [])):
        for value in (transform.get(key) for key in ("crop_size", "size", "scale")):
            if isinstance(value, int):
                return value, value
            if isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(side, int) for side in value):
                width, height = value
                return height, width
    return SIZE
