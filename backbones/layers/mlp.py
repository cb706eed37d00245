"""The transformer's feed-forward branch."""

import torch.nn.functional as F
from torch import Tensor, nn

from .linear import Linear


class Mlp(nn.Module):
    """Linear, GELU (erf), linear: ``(B, N, C)`` to ``(B, N, C)`` through ``hidden`` channels."""

    def __init__(self, embed_dims: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(embed_dims, hidden)
        self.fc2 = Linear(hidden, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))
