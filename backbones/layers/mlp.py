"""The transformer's feed-forward branches."""

import torch.nn.functional as F
from torch import Tensor, nn

from .linear import Linear


class Mlp(nn.Module):
    """Linear, GELU, linear: ``(B, N, C)`` to ``(B, N, C)`` through ``hidden`` channels.

    Args:
        embed_dims: C.
        hidden: Channels between the linear layers.
        approximate: Of the GELU: ``'none'`` or ``'tanh'``.
    """

    def __init__(self, embed_dims: int, hidden: int, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate
        self.fc1 = Linear(embed_dims, hidden)
        self.fc2 = Linear(hidden, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))


class SwiGLU(nn.Module):
    """Gated branch ``w3(norm(silu(gate) * value))`` with (gate, value) = ``w12(x)``: ``(B, N, C)`` to ``(B, N, C)``.

    Args:
        embed_dims: C.
        hidden: Channels of the gate, and of the value.
        norm_eps: Epsilon of a layer norm of the product; None has no norm.

    Source: Shazeer, arXiv:2002.05202; with the norm: Fang et al., EVA-02, arXiv:2303.11331.
    """

    def __init__(self, embed_dims: int, hidden: int, norm_eps: float | None = None) -> None:
        super().__init__()
        self.w12 = Linear(embed_dims, 2 * hidden)
        self.ffn_ln = None if norm_eps is None else nn.LayerNorm(hidden, eps=norm_eps)
        self.w3 = Linear(hidden, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        x = F.silu(gate) * value
        return self.w3(x if self.ffn_ln is None else self.ffn_ln(x))
