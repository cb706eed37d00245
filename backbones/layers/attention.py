"""Multi-head self-attention on the tokens of a grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import Linear


class Attention(nn.Module):
    """Softmax attention; a subclass changes what happens between scores and values by overriding :meth:`attend`.

    Args:
        embed_dims: C, a multiple of ``num_heads``.
        num_heads: h.
        rel_pos_size: Grid (rows, columns) for which tables of relative positions are made; None makes none.

    Shapes:
        x: ``(B, N, C)``; grid: (rows, columns) of the tokens, read for relative positions only; returns ``(B, N, C)``.

    Source: Vaswani et al., arXiv:1706.03762; relative positions: Li et al., MViTv2, arXiv:2112.01526, eq. 4.
    """

    def __init__(self, embed_dims: int, num_heads: int, rel_pos_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(embed_dims, 3 * embed_dims)
        self.proj = Linear(embed_dims, embed_dims)
        self.has_rel_pos = rel_pos_size is not None
        if rel_pos_size is not None:
            head_dims = embed_dims // num_heads
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * rel_pos_size[0] - 1, head_dims))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * rel_pos_size[1] - 1, head_dims))

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1))  # (B, N, 3, h, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # (B, h, N, d)
        scale = q.shape[-1] ** -0.5
        if self.has_rel_pos:
            q, k = fold_relative_positions(q, k, scale, self.rel_pos_h, self.rel_pos_w, grid)
        x = self.attend(q, k, v, scale)
        return self.proj(x.transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """``softmax(scale * q k^T) v``: ``(B, h, N, D)`` twice and ``(B, h, N, d)`` to ``(B, h, N, d)``, D >= d."""
        d = v.shape[-1]
        # Fused kernels want one width for all three.
        return F.scaled_dot_product_attention(q, k, F.pad(v, (0, q.shape[-1] - d)), scale=scale)[..., :d]


def fold_relative_positions(
    q: Tensor, k: Tensor, scale: float, table_h: Tensor, table_w: Tensor, grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Makes queries and keys longer, so that their product contains the bias of decomposed relative positions.

    The bias ``q . R_h[row_q - row_k] + q . R_w[column_q - column_k]`` depends on a key through its row and its column
    only. So the query carries its products with the tables, one for each row and each column, and the key carries a
    one-hot row and a one-hot column that pick the two out: no N x N tensor is needed, and fused attention applies.

    Args:
        q: ``(B, h, N, d)`` with N = rows * columns.
        k: ``(B, h, N, d)``.
        scale: What the caller multiplies the products with; the bias is divided by it beforehand.
        table_h: ``(2 * size - 1, d)``; interpolated linearly for other numbers of rows than ``size``.
        table_w: Likewise for columns.
        grid: (rows, columns).

    Returns:
        q and k of shape ``(B, h, N, d + rows + columns)``.
    """
    rows, columns = grid
    by_row = q.unflatten(2, grid)  # (B, h, rows, columns, d)
    bias_h = torch.einsum("bhrcd,rkd->bhrck", by_row, _relative(table_h, rows).to(q.dtype))
    bias_w = torch.einsum("bhrcd,ckd->bhrck", by_row, _relative(table_w, columns).to(q.dtype))
    row = torch.eye(rows, dtype=k.dtype, device=k.device).repeat_interleave(columns, 0)  # (N, rows)
    column = torch.eye(columns, dtype=k.dtype, device=k.device).repeat(rows, 1)  # (N, columns)
    bias = torch.cat([bias_h, bias_w], dim=-1).flatten(2, 3) / scale
    picks = torch.cat([row, column], dim=-1).expand(*k.shape[:2], -1, -1)
    return torch.cat([q, bias.to(q.dtype)], dim=-1), torch.cat([k, picks], dim=-1)


def _relative(table: Tensor, size: int) -> Tensor:
    """``(size, size, d)``: the table's row for each pair (position of the query, position of the key)."""
    if table.shape[0] != 2 * size - 1:
        table = F.interpolate(table.T[None], size=2 * size - 1, mode="linear")[0].T
    positions = torch.arange(size, device=table.device)
    return table[positions[:, None] - positions[None, :] + size - 1]
