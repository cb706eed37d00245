"""Non-overlapping windows of a token grid (Li et al., ViTDet, arXiv:2203.16527, section 3)."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .exporting import crop


def ceil_div(length: int, divisor: int) -> int:
    """Quotient rounded up; ``-(-length // divisor)`` is beyond ONNX, which rounds quotients towards zero."""
    return (length + divisor - 1) // divisor


def padding(length: int, multiple: int) -> int:
    """Length to add for the next multiple. ``-length % multiple`` is beyond TorchInductor's symbolic sizes."""
    return ceil_div(length, multiple) * multiple - length


def window_partition(x: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Cuts a grid into windows, padded with zeros at the bottom and the right.

    The zeros take part in the attention as tokens: ViTDet has no mask, and its weights were trained that way.

    Shapes:
        x: ``(B, h * w, C)``; returns ``(B * windows, size * size, C)``.
    """
    h, w = grid
    x = F.pad(rearrange(x, "b (h w) d -> b h w d", h=h), (0, 0, 0, padding(w, size), 0, padding(h, size)))
    return rearrange(x, "b (r i) (c j) d -> (b r c) (i j) d", i=size, j=size)


def window_unpartition(x: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Undoes ``window_partition``, padding cut off: ``(B * windows, size * size, C)`` to ``(B, h * w, C)``."""
    (h, w), (rows, columns) = grid, ((side + padding(side, size)) // size for side in grid)
    x = rearrange(x, "(b r c) (i j) d -> b (r i) (c j) d", r=rows, c=columns, i=size)
    return rearrange(crop(x, 1, (h, w)), "b h w d -> b (h w) d")
