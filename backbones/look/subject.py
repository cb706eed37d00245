"""The model that is looked at, and the photographs that it is shown."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from backbones.predict.inputs import Frame
from backbones.usage import UsageError


@dataclass(frozen=True)
class Photo:
    """A photograph.

    Attributes:
        path: Its file.
        pixels: ``(height, width, 3)``, RGB bytes, as large as the model sees it.
    """

    path: Path
    pixels: np.ndarray

    @property
    def folder(self) -> str:
        """The name of its folder: its class, where there is a folder for each class."""
        return self.path.absolute().parent.name


@dataclass(frozen=True)
class Subject:
    """A model in evaluation mode, its parameters frozen, and how it takes images.

    Attributes:
        title: Its name.
        model: The whole model, or the backbone.
        backbone: Its backbone.
        settings: Config of the backbone.
        order: ``RGB`` or ``BGR``.
        mean: Of the pixels, in that order.
        std: Likewise.
    """

    title: str
    model: Any
    backbone: Any
    settings: dict[str, Any]
    order: str
    mean: Sequence[float]
    std: Sequence[float]

    def images(self, pixels: np.ndarray) -> Tensor:
        """Images ``(B, height, width, 3)``, RGB, in bytes, as the backbone takes them: ``(B, 3, height, width)``."""
        values = torch.tensor(pixels if self.order == "RGB" else pixels[..., ::-1].copy()).float()
        parameter: nn.Parameter = next(self.backbone.parameters())
        images = (values - torch.tensor(self.mean)) / torch.tensor(self.std)
        return images.permute(0, 3, 1, 2).contiguous().to(parameter)


def read_pixels(path: Path) -> np.ndarray:
    """An image file, upright, as RGB bytes ``(height, width, 3)``; raises what the decoder raises."""
    with Image.open(path) as file:
        return np.asarray(ImageOps.exif_transpose(file).convert("RGB"))


def fit(pixels: np.ndarray, longest: int) -> np.ndarray:
    """An image whose longer side has at most ``longest`` pixels, its shape kept."""
    height, width = pixels.shape[:2]
    factor = min(1.0, longest / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def squash(pixels: np.ndarray, side: int) -> np.ndarray:
    """An image brought to a square, so that images of any shape form a batch."""
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def read_photos(frames: Iterable[Frame], longest: int) -> list[Photo]:
    """Photographs as large as the model sees them.

    Args:
        frames: Images that were read by ``read_pixels``.
        longest: Of the longer side, in pixels.
    """
    return [Photo(frame.source.path, fit(frame.image, longest)) for frame in frames]


def labels(photos: Sequence[Photo]) -> list[str] | None:
    """The class of each photograph, or None where the folders are no classes: where there is one, or one for each."""
    folders = [photo.path.absolute().parent for photo in photos]
    if not 1 < len(set(folders)) < len(folders):
        return None
    common = os.path.commonpath(folders)
    return [os.path.relpath(folder, common) for folder in folders]


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the indices below ``count``, evenly spaced, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})


def check_size(subject: Subject, photo: Photo) -> None:
    """Refuse a photograph that is too small for the backbone, at the size it is shown at.

    Raises:
        UsageError: naming both sizes.
    """
    height, width = photo.pixels.shape[:2]
    least = getattr(subject.backbone, "min_size", 1)
    if min(height, width) < least:
        raise UsageError(
            f"{photo.path} has {width} x {height} pixels at this --size, and {type(subject.backbone).__name__} takes "
            f"{least} x {least} or more; give a larger --size, or another image"
        )
