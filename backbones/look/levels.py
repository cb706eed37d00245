"""The levels as pictures, beside the photograph."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from backbones.base import DenseBackbone
from backbones.look.colors import energy_colors, pca_colors
from backbones.look.record import Look, View
from backbones.look.subject import Photo, fit
from backbones.pictures.html import captioned, grid, image_uri, picture

THUMBNAIL = 200  # pixels
TEXT = """<h2>Levels</h2>
<p>The maps that the next part of a model reads, each value a square. Above, their first three principal components as
red, green and blue, the same for all photographs: places with equal colours have similar features. Below, their energy,
the root mean square over the channels, from the smallest (dark) to the largest in that level.</p>"""


def show(look: Look) -> Iterator[str]:
    """A row for each photograph: the photograph, then its levels."""
    by_level = list(zip(*(view.levels for view in look.views), strict=True))
    if not by_level:
        return
    yield TEXT
    strides = level_strides(look.subject.backbone, look.views[0])
    colors = [(pca_colors(maps), energy_colors(maps)) for maps in by_level]
    for i, view in enumerate(look.views):
        figures = [photograph(view.photo)]
        for l, (level, (components, energy)) in enumerate(zip(view.levels, colors, strict=True)):
            channels, height, width = level.shape
            caption = f"level {l}, stride {strides[l]}: {width} x {height}, {channels} channels"
            figures.append(pair(picture(components[i], "principal components"), picture(energy[i], "energy"), caption))
        yield grid(figures, "maps")


def level_strides(backbone: Any, view: View) -> Sequence[int]:
    """Stride of each level, in pixels of the photograph."""
    if isinstance(backbone, DenseBackbone):
        return backbone.strides
    longer = max(view.photo.pixels.shape)
    return [round(longer / max(level.shape[1:])) for level in view.levels]


def photograph(photo: Photo, longest: int | None = None) -> str:
    """The photograph as the model sees it, or with a longer side of at most ``longest`` pixels."""
    pixels = photo.pixels if longest is None else fit(photo.pixels, longest)
    caption = f"{photo.path.name}, {photo.pixels.shape[1]} x {photo.pixels.shape[0]}"
    return captioned(image_uri(Image.fromarray(pixels), "jpeg"), caption)


def pair(above: str, below: str, caption: str) -> str:
    """Two pictures, one above the other, with a caption for both."""
    return f'<div class="pair">{above}{below}<p>{html.escape(caption)}</p></div>'
