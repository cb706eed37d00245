"""Stochastic depth (Huang et al., arXiv:1603.09382)."""

import torch
from torch import Tensor


def drop_path_rates(largest: float, count: int) -> list[float]:
    """Chances of dropping each of ``count`` branches, rising linearly from 0 to ``largest``."""
    return [largest * i / max(count - 1, 1) for i in range(count)]


def drop_path_scale(x: Tensor, rate: float) -> Tensor:
    """Samples the drop-path mask: 0 for a dropped branch, 1 / (1 - rate) for a kept one.

    The mask is a tensor rather than a module inside the branch, so that recomputing a branch in backward reuses the
    mask and needs no random state.

    Args:
        x: Any tensor with the batch first; gives device, batch size and number of dimensions.
        rate: Chance in [0, 1) that a sample's branch is dropped.

    Shapes:
        returns: ``(B, 1, ...)`` with as many dimensions as ``x``, float32.
    """
    keep = 1.0 - rate
    return torch.empty((x.shape[0], *[1] * (x.ndim - 1)), device=x.device).bernoulli_(keep) / keep
