"""Non-overlapping windows of a token grid (Li et al., ViTDet, arXiv:2203.16527, section 3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def window_partition(x: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Cuts a grid into windows; bottom and right are filled up with zeros.

    The zeros take part in the attention as tokens: ViTDet masks nothing, and its weights were trained so.

    Shapes:
        x: ``(B, h * w, C)``; returns ``(B * windows, size * size, C)``.
    """
    (h, w), (rows, columns) = grid, _windows(grid, size)
    x = F.pad(x.unflatten(1, (h, w)), (0, 0, 0, columns * size - w, 0, rows * size - h))
    x = x.view(-1, rows, size, columns, size, x.shape[-1]).transpose(2, 3)
    return x.reshape(-1, size * size, x.shape[-1])


def window_unpartition(x: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Undoes :func:`window_partition`, filling cut off: ``(B * windows, size * size, C)`` to ``(B, h * w, C)``."""
    (h, w), (rows, columns) = grid, _windows(grid, size)
    x = x.view(-1, rows, columns, size, size, x.shape[-1]).transpose(2, 3)
    x = x.reshape(-1, rows * size, columns * size, x.shape[-1])
    return x[:, :h, :w].flatten(1, 2)


def _windows(grid: tuple[int, int], size: int) -> tuple[int, int]:
    return -(-grid[0] // size), -(-grid[1] // size)
