"""Multi-head self-attention on the tokens of a grid."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .exporting import exporting
from .linear import Linear, linear
from .rotary import Rotation, rotate

CHUNK_BYTES = 24 * 2**20  # scores of all heads that are held at a time on a CPU, where there is a bias
Bias = tuple[Tensor, Tensor]  # (B, h, N, rows) and (B, h, N, columns)


class KeysWithoutBias(Linear):
    """Projection to queries, keys and values with biases of queries and values: ``(B, N, C)`` to ``(B, N, 3 C)``."""

    def __init__(self, embed_dims: int) -> None:
        super().__init__(embed_dims, 3 * embed_dims, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(embed_dims))
        self.v_bias = nn.Parameter(torch.zeros(embed_dims))

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias]))


class Attention(nn.Module):
    """Softmax attention; subclasses override ``attend``, the part from scores to values.

    Args:
        embed_dims: C, a multiple of ``num_heads``.
        num_heads: h.
        rel_pos_size: Grid (rows, columns) for which tables of relative positions are made; None makes none.
        biases: Which of queries, keys and values have one: ``'qkv'``, ``'qv'`` or ``''``.

    Shapes:
        x: ``(B, N, C)``; grid: (rows, columns) of the tokens, read for relative positions only; rotation: of the
        tokens, None without rotary positions; returns ``(B, N, C)``.

    Source: Vaswani et al., arXiv:1706.03762; relative positions: Li et al., MViTv2, arXiv:2112.01526, eq. 4.
    """

    mixes_heads: ClassVar[bool] = False  # whether ``attend`` forms combinations of the heads' maps

    def __init__(
        self, embed_dims: int, num_heads: int, rel_pos_size: tuple[int, int] | None = None, biases: str = "qkv"
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = (
            KeysWithoutBias(embed_dims) if biases == "qv" else Linear(embed_dims, 3 * embed_dims, bias=biases == "qkv")
        )
        self.proj = Linear(embed_dims, embed_dims)
        self.has_rel_pos = rel_pos_size is not None
        if rel_pos_size is not None:
            head_dims = embed_dims // num_heads
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * rel_pos_size[0] - 1, head_dims))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * rel_pos_size[1] - 1, head_dims))

    def forward(self, x: Tensor, grid: tuple[int, int], rotation: Rotation | None = None) -> Tensor:
        return self.proj(rearrange(self.read(x, grid, rotation), "b h n d -> b n (h d)"))

    def read(
        self,
        x: Tensor,
        grid: tuple[int, int],
        rotation: Rotation | None = None,
        *,
        values: Tensor | None = None,
        mixed: bool = True,
    ) -> Tensor:
        """The attention weights times values, ``(B, h, N, d)``, which ``forward`` projects.

        Args:
            x: As in ``forward``, like ``grid`` and ``rotation``.
            grid: (rows, columns).
            rotation: Of the tokens.
            values: ``(N, d)``, the same for every head, in place of the tokens' own; the unit matrix gives the weights
                themselves, queries first, which ``forward`` never holds.
            mixed: Mix the maps of the heads, where a subclass does so; False reads the plain softmax.
        """
        q, k, v = self._project(x, rotation)
        if values is not None:
            v = values.to(v).expand(*v.shape[:2], -1, -1)
        attend = self.attend if mixed or not self.mixes_heads else partial(Attention.attend, self)
        return attend(q, k, v, q.shape[-1] ** -0.5, self._bias(q, grid))

    def _project(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each ``(B, h, N, d)``."""
        q, k, v = rearrange(self.qkv(x), "b n (qkv h d) -> qkv b h n d", qkv=3, h=self.num_heads).unbind()
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return q, k, v

    def _bias(self, q: Tensor, grid: tuple[int, int]) -> Bias | None:
        return relative_bias(q, self.rel_pos_h, self.rel_pos_w, grid) if self.has_rel_pos else None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Bias | None = None) -> Tensor:
        """``softmax(scale * q k^T + bias) v``, each ``(B, h, N, d)``; ``bias`` as from ``relative_bias``."""
        if bias is None:
            return F.scaled_dot_product_attention(q, k, v, scale=scale)
        heads, n, d = v.shape[1:]
        rows = CHUNK_BYTES // (heads * n * v.element_size())
        if q.is_cpu and rows < n and not torch.compiler.is_compiling():
            return _attend_by_rows(q, k, v, scale, bias, max(rows, 1))
        q, k = fold_bias(q, k, scale, bias)
        # Fused kernels want one width for all three; wider values are read as they are.
        return F.scaled_dot_product_attention(q, k, F.pad(v, (0, max(0, q.shape[-1] - d))), scale=scale)[..., :d]


def relative_bias(q: Tensor, table_h: Tensor, table_w: Tensor, grid: tuple[int, int]) -> Bias:
    """Decomposed relative positions: the bias of a query's scores by the key's row, and by its column.

    The bias of a pair is ``q . R_h[row_q - row_k] + q . R_w[column_q - column_k]`` and needs no N x N tensor.

    Args:
        q: ``(B, h, N, d)`` with N = rows * columns.
        table_h: ``(2 * size - 1, d)``; interpolated linearly for other numbers of rows than ``size``.
        table_w: Likewise for columns.
        grid: (rows, columns).

    Returns:
        ``(B, h, N, rows)`` and ``(B, h, N, columns)``.
    """
    rows, columns = grid
    by_place = q.unflatten(2, grid)  # (B, h, rows, columns, d)
    bias_h = torch.einsum("bhrcd,rkd->bhrck", by_place, _relative(table_h, rows).to(q.dtype))
    bias_w = torch.einsum("bhrcd,ckd->bhrck", by_place, _relative(table_w, columns).to(q.dtype))
    return bias_h.flatten(2, 3), bias_w.flatten(2, 3)


def fold_bias(q: Tensor, k: Tensor, scale: float, bias: Bias | None) -> tuple[Tensor, Tensor]:
    """Makes queries and keys longer, so that their product contains the bias and fused attention applies.

    The query carries its bias for each row and each column, the key a one-hot row and a one-hot column that pick the
    two out.

    Args:
        q: ``(B, h, N, d)``.
        k: ``(B, h, N, d)``.
        scale: The caller's factor of the products, by which the bias is divided here.
        bias: As from ``relative_bias``; None returns q and k as they are.

    Returns:
        q and k of shape ``(B, h, N, d + rows + columns)``.
    """
    if bias is None:
        return q, k
    rows, columns = (b.shape[-1] for b in bias)
    row = torch.eye(rows, dtype=k.dtype, device=k.device)[:, None].expand(-1, columns, -1)  # (rows, columns, rows)
    column = torch.eye(columns, dtype=k.dtype, device=k.device).expand(rows, -1, -1)  # (rows, columns, columns)
    picks = torch.cat([row, column], dim=-1).flatten(0, 1).expand(*k.shape[:2], -1, -1)  # (B, h, N, rows + columns)
    return torch.cat([q, *(b.to(q.dtype) / scale for b in bias)], dim=-1), torch.cat([k, picks], dim=-1)


def _attend_by_rows(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Bias, rows: int) -> Tensor:
    """Attention of some query rows at a time, computed again in backward.

    On a CPU faster than the fused kernel, whose backward works on all of the longer width five times.
    """
    k, v = k.contiguous(), v.contiguous()
    outputs: list[Any] = []
    for chunk in zip(q.split(rows, 2), bias[0].split(rows, 2), bias[1].split(rows, 2), strict=True):
        args = (*chunk, k, v, scale)
        if torch.is_grad_enabled():
            outputs.append(checkpoint(_attend, *args, use_reentrant=False, preserve_rng_state=False))
        else:
            outputs.append(_attend(*args))
    return torch.cat(outputs, dim=2)


def _attend(q: Tensor, bias_h: Tensor, bias_w: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    scores = (q * scale) @ k.mT  # (B, h, rows, N)
    scores.unflatten(3, (bias_h.shape[3], bias_w.shape[3])).add_(bias_h[..., :, None]).add_(bias_w[..., None, :])
    return scores.softmax(-1) @ v


def _relative(table: Tensor, size: int) -> Tensor:
    """``(size, size, d)``: the table's row for each pair (position of the query, position of the key)."""
    if exporting() or table.shape[0] != 2 * size - 1:  # exact for equal sizes, so an export needs no comparison
        table = F.interpolate(table.T[None], size=2 * size - 1, mode="linear")[0].T
    positions = torch.arange(size, device=table.device)
    return table[positions[:, None] - positions[None, :] + size - 1]
