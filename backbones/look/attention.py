"""The attention of a point that the reader clicks, and of the tokens in front of the patches."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backbones.attention_maps import AttentionInput
from backbones.look.colors import PALETTE
from backbones.look.record import Look, View
from backbones.look.subject import spread
from backbones.pictures.html import image_uri

CELLS = 20  # a side of the grid of points at most
BLOCKS = 4  # drawn unless they are chosen
TOKENS = {"cls_token": "class token", "dist_token": "distillation token"}
TEXT = """<h2>Attention</h2>
<p>Click into a photograph: the maps show where each head looks from there, dark to bright from the least to the largest
weight of the map.</p>"""
STYLE = """
.attention { display: grid; grid-template-columns: minmax(200px, 1fr) 2fr; gap: 1rem; margin-bottom: 2rem; }
.attention > div:first-child { position: sticky; top: 0; align-self: start; z-index: 1; padding: .3rem 0;
  background: #fff; }
.attention .photo { position: relative; cursor: crosshair; }
.attention .photo span { position: absolute; width: 14px; height: 14px; margin: -9px; border: 2px solid #fff;
  border-radius: 50%; box-shadow: 0 0 0 2px #d00; pointer-events: none; }
.attention button { font: inherit; margin: .5rem .5rem 0 0; }
.attention button[aria-pressed=true] { background: #3366aa; color: #fff; }
.heads { display: grid; grid-template-columns: repeat(auto-fill, minmax(90px, 1fr)); gap: .4rem; }
.heads canvas { width: 100%; image-rendering: pixelated; display: block; }
.heads img { display: none; }
.attention h4 { margin: .2rem 0; }
@media (max-width: 700px) { .attention { grid-template-columns: 1fr; } .attention .photo { width: 45%; } }
"""
SCRIPT = """
for (const box of document.querySelectorAll(".attention")) {
  const [rows, columns, prefix] = box.dataset.grid.split(" ").map(Number);
  const [height, width] = box.dataset.covers.split(" ").map(Number);
  const photo = box.querySelector(".photo"), mark = photo.querySelector("span");
  const buttons = [...box.querySelectorAll("button")];
  const show = (token) => {
    for (const heads of box.querySelectorAll(".heads")) {
      const sprite = heads.querySelector("img");
      heads.querySelectorAll("canvas").forEach((canvas, head) => canvas.getContext("2d").drawImage(
        sprite, token * columns, head * rows, columns, rows, 0, 0, columns, rows));
    }
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === token));
    const place = token - prefix;
    mark.hidden = place < 0;
    mark.style.left = 100 * (place % columns + .5) / columns / width + "%";
    mark.style.top = 100 * (Math.floor(place / columns) + .5) / rows / height + "%";
  };
  buttons.forEach((button, i) => button.addEventListener("click", () => show(i)));
  photo.addEventListener("click", (event) => {
    const area = photo.getBoundingClientRect();
    const at = (share, count) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
    const row = at((event.clientY - area.top) / area.height * height, rows);
    const column = at((event.clientX - area.left) / area.width * width, columns);
    show(prefix + row * columns + column);
  });
  const start = prefix ? 0 : Math.floor(rows / 2) * columns + Math.floor(columns / 2);
  window.addEventListener("load", () => show(start));
}
"""


class Cells(NamedTuple):
    """The grid of points of a page, no finer than ``CELLS``.

    Attributes:
        shape: Its rows and columns.
        means: ``(N, rows * columns)``: takes the mean over the tokens of each cell, without the prefix.
        points: Indices of the prefix tokens, and of the token in the middle of each cell.
    """

    shape: tuple[int, int]
    means: Tensor
    points: Tensor


def show(look: Look) -> Iterator[str]:
    """The photographs to click, and the maps of the chosen blocks."""
    if not look.views or not look.views[0].blocks:
        return
    yield TEXT
    for view in look.views:
        yield clickable(look, view)


def clickable(look: Look, view: View) -> str:
    """A photograph to click, beside the maps of all heads of the chosen blocks."""
    names = view.blocks
    chosen = spread(len(names), BLOCKS) if look.blocks is None else [range(len(names))[i] for i in look.blocks]
    given = view.attention[0]
    cells = make_cells(given)
    prefix = given.x.shape[1] - given.grid[0] * given.grid[1]
    rows, columns = cells.shape
    maps = []
    for i in chosen:
        heads = view.attention[i].attention.num_heads
        canvas = f'<canvas width="{columns}" height="{rows}"></canvas>'
        drawn = "".join(f"<figure>{canvas}<figcaption>head {head}</figcaption></figure>" for head in range(heads))
        sprite = image_uri(make_sprite(view.attention[i], cells))
        maps.append(f'<h4>{html.escape(names[i])}</h4><div class="heads"><img src="{sprite}" alt="">{drawn}</div>')
    buttons = "".join(f"<button>{html.escape(name)}</button>" for name in prefix_names(look.subject.backbone, prefix))
    height, width = covered(look.subject.backbone, view)
    photo = image_uri(Image.fromarray(view.photo.pixels), "jpeg")
    return (
        f'<div class="attention" data-grid="{rows} {columns} {prefix}" data-covers="{height:.6g} {width:.6g}">'
        f'<div><div class="photo"><img src="{photo}" alt="{html.escape(view.photo.path.name)}"><span></span></div>'
        f"{buttons}</div><div>{''.join(maps)}</div></div>"
    )


def make_cells(given: AttentionInput) -> Cells:
    """The cells of a forward's tokens."""
    factor = min(1.0, CELLS / max(given.grid))
    shape = [max(1, round(side * factor)) for side in given.grid]
    rows, columns = (torch.arange(side) * n // side for side, n in zip(given.grid, shape, strict=True))
    cell = (rows[:, None] * shape[1] + columns).flatten()  # of each patch
    inside = torch.nn.functional.one_hot(cell, shape[0] * shape[1]).float()
    prefix = given.x.shape[1] - len(cell)
    means = torch.cat([torch.zeros(prefix, inside.shape[1]), inside / inside.sum(0)])
    middle = [(2 * torch.arange(n) + 1) * side // (2 * n) for side, n in zip(given.grid, shape, strict=True)]
    points = (middle[0][:, None] * given.grid[1] + middle[1]).flatten()
    return Cells((shape[0], shape[1]), means, torch.cat([torch.arange(prefix), prefix + points]))


def point_maps(given: AttentionInput, cells: Cells) -> Tensor:
    """Mean weight that each point gives to the tokens of each cell: ``(h, points, rows, columns)``."""
    weights = given.read(cells.means.to(given.x))[0]  # (h, N, rows * columns)
    return weights[:, cells.points].unflatten(2, cells.shape).float().cpu()


def make_sprite(given: AttentionInput, cells: Cells) -> Image.Image:
    """The maps of all heads (downwards) and points (to the right) in one image."""
    maps = point_maps(given, cells)
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    values = ((maps - low) / (high - low).clamp(min=1e-30) * 255).round().byte()
    sheet = values.permute(0, 2, 1, 3).flatten(2, 3).flatten(0, 1)  # (h * rows, points * columns)
    image = Image.fromarray(sheet.numpy())
    image.putpalette(PALETTE.tobytes())
    return image


def prefix_names(backbone: Any, count: int) -> list[str]:
    """What the tokens in front of the patches are."""
    tokens: dict[str, int] = getattr(backbone, "tokens", {})
    names = [name for name, number in tokens.items() for _ in range(number)]
    if len(names) != count:
        return [f"prefix token {i}" for i in range(count)]
    return [TOKENS.get(name, name) for name in names]


def covered(backbone: Any, view: View) -> np.ndarray:
    """Share of the tokens' grid that the photograph covers, in height and in width; padding takes the rest."""
    stride = getattr(backbone, "stride", None)
    sides = np.array(view.photo.pixels.shape[:2])
    padded = np.array(view.attention[0].grid) * stride if stride else sides
    return np.minimum(1, sides / padded)
