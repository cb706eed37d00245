"""Rotary positions of a grid: pairs of channels of queries and keys turn with the token's row and column."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from .windows import padding


class Rotation(NamedTuple):
    """Cosine and sine for each channel of each token.

    Attributes:
        cos: ``(windows, N, d)``; one window is the whole grid.
        sin: ``(windows, N, d)``.
        interleaved: Whether channels 2i and 2i + 1 form a pair; otherwise i and i + d / 2.
    """

    cos: Tensor
    sin: Tensor
    interleaved: bool


class Rotary(nn.Module):
    """Positions that are asked for a grid and turn queries and keys; a family gives coordinates and frequencies.

    The first half of the pairs of a head turns with the row, the second half with the column, each by coordinate times
    frequency.

    Args:
        head_dims: d, channels of a head, a multiple of 4.

    Raises:
        ValueError: for other numbers of channels.

    Source: Su et al., RoFormer, arXiv:2104.09864; on two axes: Fang et al., EVA-02, arXiv:2303.11331.
    """

    interleaved = False

    def __init__(self, head_dims: int) -> None:
        super().__init__()
        if head_dims % 4:
            raise ValueError(
                f"heads have {head_dims} channels, but rotary positions need a multiple of 4 (half turn with the row, "
                "half with the column); choose embed_dims and num_heads accordingly"
            )
        self.head_dims = head_dims

    def angles(self, length: int, count: int, like: Tensor) -> Tensor:
        """Angles at the first ``count`` places of an axis of ``length`` patches, ``(count, d / 4)``, like ``like``."""
        raise NotImplementedError

    def forward(self, grid: tuple[int, int], window_size: int | None, tokens: Tensor) -> Rotation:
        """The rotation of a grid's tokens.

        Args:
            grid: (h, w), rows and columns of patches.
            window_size: Side of the windows into which the grid is cut, in which every token keeps its place in the
                whole grid; None cuts none.
            tokens: Gives the device, and the dtype if it is wider than float32.
        """
        h, w = grid
        rows, columns = (n if window_size is None else n + padding(n, window_size) for n in grid)
        like = tokens.new_empty(0, dtype=torch.promote_types(tokens.dtype, torch.float32))
        by_row = self.angles(h, rows, like)[:, None].expand(-1, columns, -1)
        by_column = self.angles(w, columns, like).expand(rows, -1, -1)
        angles = torch.cat([by_row, by_column], dim=-1)  # (rows, columns, d / 2)
        if window_size is None:
            angles = angles.flatten(0, 1)[None]
        else:
            angles = rearrange(angles, "(r i) (c j) d -> (r c) (i j) d", i=window_size, j=window_size)
        cos, sin = (self._of_each_channel(x) for x in (angles.cos(), angles.sin()))
        return Rotation(cos, sin, self.interleaved)

    def _of_each_channel(self, x: Tensor) -> Tensor:
        """``(..., d / 2)`` to ``(..., d)``: the value of a pair for both of its channels."""
        return x[..., None].expand(*x.shape, 2).flatten(-2) if self.interleaved else torch.cat([x, x], dim=-1)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turns the patches of queries or keys, in float32 or wider; prefix tokens in front stay.

    Args:
        x: ``(B * windows, h, prefix + N, d)``, the windows of an image next to each other.
        rotation: Of N tokens in each window.

    Returns:
        The same shape and dtype.
    """
    cos, sin, interleaved = rotation
    windows, patches, _ = cos.shape
    prefix = x.shape[2] - patches
    y = x[:, :, prefix:].unflatten(0, (-1, windows))  # (B, windows, h, N, d)
    if interleaved:
        turned = torch.stack([-y[..., 1::2], y[..., ::2]], dim=-1).flatten(-2)
    else:
        first, second = y.chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
    y = (y * cos[:, None] + turned * sin[:, None]).flatten(0, 1).to(x.dtype)
    return torch.cat([x[:, :, :prefix], y], dim=2) if prefix else y


class CentredRotary(Rotary):
    """Rotary positions of DINOv3: places from -1 to 1 along each axis, and periods in these units.

    Args:
        head_dims: d, channels of a head, a multiple of 4.
        base: Ratio of the longest to the shortest period, but for one step.

    Attributes:
        periods: ``(d / 4,)``, part of the weights: published ones are rounded to bfloat16.

    Source: Siméoni et al., DINOv3, arXiv:2508.10104, section 3.
    """

    periods: Tensor

    def __init__(self, head_dims: int, base: float = 100.0) -> None:
        super().__init__(head_dims)
        steps = torch.arange(head_dims // 4, dtype=torch.float32)
        self.register_buffer("periods", base ** (2 * steps / (head_dims // 2)))

    def angles(self, length: int, count: int, like: Tensor) -> Tensor:
        places = torch.arange(count, device=like.device, dtype=like.dtype)
        places = 2 * (places + 0.5) / length - 1
        return 2 * math.pi * places[:, None] / self.periods.to(like.dtype)


class IndexRotary(Rotary):
    """Rotary positions of EVA-02: indices of rows and columns, scaled to the grid of pre-training.

    Args:
        head_dims: d, channels of a head, a multiple of 4.
        side: Patches along an axis in pre-training.
        base: Ratio of the highest to the lowest frequency, but for one step.

    Source: Fang et al., EVA-02, arXiv:2303.11331; scaling of the official code.
    """

    interleaved = True

    def __init__(self, head_dims: int, side: int = 16, base: float = 10000.0) -> None:
        super().__init__(head_dims)
        self.side, self.base = side, base

    def angles(self, length: int, count: int, like: Tensor) -> Tensor:
        steps = torch.arange(self.head_dims // 4, device=like.device, dtype=like.dtype)
        places = torch.arange(count, device=like.device, dtype=like.dtype) / length * self.side
        return places[:, None] * self.base ** (-steps / (self.head_dims // 4))
