"""Tables of absolute positions: one row for each token of a grid, rows of prefix tokens in front."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .exporting import exporting


def resize_pos_embed(
    table: Tensor,
    num_prefix: int,
    grid: tuple[int, int],
    new_grid: tuple[int, int],
    *,
    antialias: bool = False,
    offset: float = 0.0,
) -> Tensor:
    """Brings a position table to another grid: bicubic with half-pixel centres, in float32 or wider.

    The defaults are the rule by which DeiT, MAE and ViTDet were fine-tuned at other sizes.

    Args:
        table: ``(1, num_prefix + h * w, C)``.
        num_prefix: Rows of prefix tokens in front; they are not resized.
        grid: (h, w), the rows and columns of patches that the table is for.
        new_grid: (H, W), likewise for the result.
        antialias: Use the kernel, and where the grid shrinks the extent, of antialiasing.
        offset: Places are those of a grid that is this many rows and columns longer (DINOv2: 0.1).

    Returns:
        ``(1, num_prefix + H * W, C)`` with the dtype of ``table``; ``table`` itself if the grids are equal.
    """
    if not exporting() and grid == new_grid:  # an export resizes always, which is exact for equal grids
        return table
    places = rearrange(table[:, num_prefix:], "b (h w) c -> b c h w", h=grid[0])
    places = places.to(torch.promote_types(table.dtype, torch.float32))
    if offset:
        factors = tuple((new + offset) / old for new, old in zip(new_grid, grid, strict=True))
        places = F.interpolate(places, scale_factor=factors, mode="bicubic", align_corners=False, antialias=antialias)
    else:
        places = F.interpolate(places, size=new_grid, mode="bicubic", align_corners=False, antialias=antialias)
    places = rearrange(places, "b c h w -> b (h w) c").to(table.dtype)
    return torch.cat([table[:, :num_prefix], places], dim=1)


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
