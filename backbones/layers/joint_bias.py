"""Attention with a bias for each distance in rows and columns, in memory that grows with N instead of N^2 (BEiT)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import CHUNK_BYTES, Attention
from .exporting import exporting

BISECTIONS = 30
LARGEST_RATIO = 1.5  # of neighbouring steps between distances


class JointBias(NamedTuple):
    """The biases of a grid.

    Attributes:
        distances: ``(h, 2 * rows - 1, 2 * columns - 1)``, query minus key; distance 0 is in the middle.
        class_token: ``(h, 3)``: class token to patch, patch to class token, class token to itself.
        grid: (rows, columns).
    """

    distances: Tensor
    class_token: Tensor
    grid: tuple[int, int]


class JointBiasAttention(Attention):
    """Attention with a table of one bias for each head and each pair of distances; keys have no bias of their own.

    A joint table is no sum of a row's and a column's part, so it cannot be folded into longer queries and keys. The
    biases exist for a few rows of queries at a time, and backward computes them again.

    Args:
        embed_dims: C.
        num_heads: h.
        size: Grid (rows, columns) for which the table is made; other grids resize it.

    Source: Bao et al., BEiT, arXiv:2106.08254, appendix.
    """

    def __init__(self, embed_dims: int, num_heads: int, size: tuple[int, int]) -> None:
        super().__init__(embed_dims, num_heads, biases="qv")
        self.size = size
        distances = (2 * size[0] - 1) * (2 * size[1] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(distances + 3, num_heads))

    def _bias(self, q: Tensor, grid: tuple[int, int]) -> Any:
        """The biases between the tokens of a grid."""
        table = self.relative_position_bias_table.T
        distances = table[:, :-3].unflatten(1, (2 * self.size[0] - 1, 2 * self.size[1] - 1))
        return JointBias(resize_distances(distances, grid).to(q.dtype), table[:, -3:].to(q.dtype), grid)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Any = None) -> Tensor:
        """``softmax(scale * q k^T + bias) v``, each ``(B, h, N, d)``; N is the grid, behind a class token or none."""
        rows, columns = bias.grid
        prefix = q.shape[2] - rows * columns
        k, v = k.contiguous(), v.contiguous()
        outputs: list[Any] = [_attend(q[:, :, :prefix], k, v, scale, _class_row(bias))] if prefix else []
        for first, last in self._chunks(q, bias.grid):
            queries = q[:, :, prefix + first * columns : prefix + last * columns]
            args = (queries, k, v, scale, bias, first, last)
            if torch.is_grad_enabled() and not exporting():
                outputs.append(checkpoint(_attend_from_rows, *args, use_reentrant=False, preserve_rng_state=False))
            else:
                outputs.append(_attend_from_rows(*args))
        return torch.cat(outputs, dim=2)

    def _chunks(self, q: Tensor, grid: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """First and last row of the grid, exclusive, for each chunk of queries."""
        rows, columns = grid
        if exporting():  # whose formats have no loops over free sizes
            yield 0, rows
            return
        step = max(1, CHUNK_BYTES // (q.shape[1] * columns * q.shape[2] * q.element_size()))
        yield from ((first, min(first + step, rows)) for first in range(0, rows, step))


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor) -> Tensor:
    """Attention of some queries to all keys; bias: ``(h, queries, N)``."""
    if not q.is_cpu or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None].expand(q.shape[0], -1, -1, -1), scale=scale)
    # On CPUs the fused kernel has no gradient of the bias.
    return ((q * scale) @ k.mT).add_(bias).softmax(-1) @ v


def _attend_from_rows(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: JointBias, first: int, last: int) -> Tensor:
    """Attention of the queries of rows ``first`` to ``last`` of the grid."""
    rows, columns = bias.grid
    if exporting():  # in which windows have no free size
        by_row, by_column = (_differences(n, q) for n in bias.grid)
        chosen = bias.distances[:, by_row[:, None, :, None], by_column[:, None, :]]
    else:
        # (h, rows, columns, rows, columns): for each query, in reverse order, the part of the table that its keys see.
        # A view of the table; a copy is made of the chosen rows only.
        parts = bias.distances.flip(1, 2).unfold(1, rows, 1).unfold(2, columns, 1)
        chosen = parts[:, rows - last : rows - first].flip(1, 2)
    chosen = chosen.flatten(3).flatten(1, 2)  # (h, queries, rows * columns)
    if k.shape[2] != rows * columns:
        chosen = torch.cat([bias.class_token[:, 1:2, None].expand(-1, chosen.shape[1], 1), chosen], dim=2)
    return _attend(q, k, v, scale, chosen)


def _differences(length: int, like: Tensor) -> Tensor:
    """``(length, length)``: place of each difference between a query and a key in a table of distances."""
    places = torch.arange(length, device=like.device)
    return places[:, None] - places + length - 1


def _class_row(bias: JointBias) -> Tensor:
    """Biases of the class token as a query, ``(h, 1, 1 + rows * columns)``."""
    to_patches = bias.class_token[:, :1].expand(-1, bias.grid[0] * bias.grid[1])
    return torch.cat([bias.class_token[:, 2:], to_patches], dim=1)[:, None]


def resize_distances(distances: Tensor, grid: tuple[int, int]) -> Tensor:
    """Brings biases of distances to another grid: near distances keep theirs, far ones are stretched geometrically.

    BEiT's rule, with linear interpolation where the official code has cubic splines. A smaller grid has the near
    distances only.

    Args:
        distances: ``(h, 2 * rows - 1, 2 * columns - 1)``.
        grid: (rows, columns) of the result.
    """
    for axis, n in enumerate(grid, start=1):
        if exporting() or distances.shape[axis] != 2 * n - 1:  # exact for equal grids
            matrix = _interpolation((distances.shape[axis] + 1) // 2, n, distances)
            distances = torch.movedim(torch.movedim(distances, axis, -1) @ matrix.to(distances.dtype).T, -1, axis)
    return distances


def _interpolation(old: int, new: int, like: Tensor) -> Tensor:
    """``(2 * new - 1, 2 * old - 1)``: weights of the old distances in each new one, float64."""
    steps = torch.arange(old - 1, device=like.device, dtype=torch.float64)
    low, high = torch.ones_like(steps[:1]), torch.full_like(steps[:1], LARGEST_RATIO)
    for _ in range(BISECTIONS):  # the ratio with which the old distances reach the farthest new one
        ratio = (low + high) / 2
        beyond = (ratio**steps).sum() > new - 1
        low, high = torch.where(beyond, low, ratio), torch.where(beyond, ratio, high)
    reached = (low**steps).cumsum(0)
    places = torch.cat([-reached.flip(0), torch.zeros_like(reached[:1]), reached])  # of the old distances, in new ones
    wanted = torch.arange(2 * new - 1, device=like.device, dtype=torch.float64) - (new - 1)
    wanted = torch.minimum(torch.maximum(wanted, places[0]), places[-1])[:, None]
    width = places.diff()
    rising = (wanted - places[:-1]) / width  # 0 to 1 in the interval before an old distance
    ones = torch.ones_like(rising[:, :1])
    before, after = torch.cat([ones, rising], dim=1), torch.cat([1 - rising, ones], dim=1)
    return torch.minimum(before, after).clamp(0, 1)
