"""Tables of absolute positions: one row for each token of a grid, rows of prefix tokens in front."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .exporting import exporting
from .precision import full_precision


def resize_pos_embed(table: Tensor, num_prefix: int, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Brings a position table to another grid: bicubic with half-pixel centres, no antialiasing, in float32 or wider.

    The rule by which DeiT, MAE and ViTDet were fine-tuned at other sizes.

    Args:
        table: ``(1, num_prefix + h * w, C)``.
        num_prefix: Rows of prefix tokens in front; they are not resized.
        grid: (h, w), the rows and columns of patches that the table is for.
        new_grid: (H, W), likewise for the result.

    Returns:
        ``(1, num_prefix + H * W, C)`` with the dtype of ``table``; ``table`` itself if the grids are equal.
    """
    if not exporting() and grid == new_grid:  # an export resizes always, which is exact for equal grids
        return table
    places = rearrange(table[:, num_prefix:], "b (h w) c -> b c h w", h=grid[0])
    places = places.to(torch.promote_types(table.dtype, torch.float32))
    places = F.interpolate(places, size=new_grid, mode="bicubic", align_corners=False)
    places = rearrange(places, "b c h w -> b (h w) c").to(table.dtype)
    return torch.cat([table[:, :num_prefix], places], dim=1)


def resize_with_matrices(
    table: Tensor, num_prefix: int, grid: tuple[int, int], new_grid: tuple[int, int], *, antialias: bool, offset: float
) -> Tensor:
    """``resize_pos_embed`` by DINOv2's rules, which an export cannot express by ``F.interpolate``.

    Args:
        table: As there, like the other arguments.
        num_prefix: Likewise.
        grid: Likewise.
        new_grid: Likewise.
        antialias: Use the kernel, and where the grid shrinks the extent, of antialiasing.
        offset: Places are those of a grid that is this many rows and columns longer.
    """
    if not exporting() and grid == new_grid:
        return table
    wide = torch.promote_types(table.dtype, torch.float32)
    places = table[0, num_prefix:].to(wide).unflatten(0, grid)  # (h, w, C)
    rows, columns = (
        cubic_weights(old, new, places, antialias=antialias, offset=offset)
        for old, new in zip(grid, new_grid, strict=True)
    )
    if exporting():  # which does not know whether the grids are equal
        one_to_one = [
            torch.arange(new, device=places.device)[:, None] == torch.arange(old, device=places.device)
            for old, new in zip(grid, new_grid, strict=True)
        ]
        equal = one_to_one[0][-1, -1] & one_to_one[1][-1, -1]
        rows, columns = (
            torch.where(equal, same.to(wide), weights)
            for same, weights in zip(one_to_one, (rows, columns), strict=True)
        )
    with full_precision(places):
        places = (rows @ places.flatten(1)).unflatten(1, (grid[1], -1))  # (H, w, C)
        places = columns @ places  # (H, W, C)
    return torch.cat([table[:, :num_prefix], places.flatten(0, 1)[None].to(table.dtype)], dim=1)


def cubic_weights(old: int, new: int, like: Tensor, *, antialias: bool, offset: float) -> Tensor:
    """Weights of ``old`` places in each of ``new`` ones, ``(new, old)``, by PyTorch's bicubic rules.

    Without antialiasing the kernel has a = -0.75 and places beyond the edge repeat it; with it a is -0.5, the kernel is
    stretched where the places become fewer, and those beyond the edge do not count.
    """
    places = torch.arange(new, device=like.device, dtype=like.dtype)
    step = old / (places[-1:] + 1 + offset)  # a tensor, since an export does not know the number
    centres = ((places + 0.5) * step - 0.5)[:, None]
    beyond = 0 if antialias else 2
    sources = torch.arange(-beyond, old + beyond, device=like.device, dtype=like.dtype)
    if old == 1:
        return torch.ones_like(centres)
    if antialias:
        weights = _keys((sources - centres) / step.clamp(min=1), -0.5)
        return weights / weights.sum(1, keepdim=True)
    weights = _keys(sources - centres, -0.75)
    first, inner, last = weights.split([beyond + 1, old - 2, beyond + 1], dim=1)
    return torch.cat([first.sum(1, keepdim=True), inner, last.sum(1, keepdim=True)], dim=1)


def _keys(x: Tensor, a: float) -> Tensor:
    """The cubic convolution kernel (Keys, 1981), 1 at 0 and 0 from a distance of 2 on."""
    x = x.abs().clamp(max=2)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x < 1, near, far)


def sincos_pos_embed(embed_dims: int, grid: tuple[int, int], num_prefix: int) -> Tensor:
    """MAE's fixed table: sines and cosines of the column in the first half of the channels, of the row in the second.

    Args:
        embed_dims: C, a multiple of 4.
        grid: (h, w), rows and columns of patches.
        num_prefix: Rows of zeros in front.

    Returns:
        ``(1, num_prefix + h * w, C)``, float32.

    Raises:
        ValueError: if C is no multiple of 4.

    Source: He et al., arXiv:2111.06377; the column comes first in the official code.
    """
    if embed_dims % 4:
        raise ValueError(f"embed_dims is {embed_dims}; a sine-cosine table needs a multiple of 4")
    frequencies = 10000 ** (-torch.arange(embed_dims // 4, dtype=torch.float64) / (embed_dims / 4))

    def code(positions: int) -> Tensor:  # (positions, C / 2)
        angles = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies)
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    rows, columns = grid
    places = torch.cat([code(columns).repeat(rows, 1), code(rows).repeat_interleave(columns, dim=0)], dim=1)
    return F.pad(places, (0, 0, num_prefix, 0))[None].float()
