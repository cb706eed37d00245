"""Recomputing a block in backward instead of storing its activations."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute(block: nn.Module, *args: Any) -> Any:
    """``block(*args)``, of which only ``args`` are kept for backward, where the block runs again.

    The block must be deterministic. Batch norms count the batch once: the second run leaves their running statistics
    unchanged.
    """
    return checkpoint(block, *args, **recompute_options(block))


def recompute_options(block: nn.Module) -> dict[str, Any]:
    """Arguments of PyTorch's ``checkpoint`` that recompute a part of a deterministic ``block``."""
    options: dict[str, Any] = dict(use_reentrant=False, preserve_rng_state=False)
    # The compiler takes no context; it keeps buffer updates out of the second run by itself.
    if not torch.compiler.is_compiling():
        options["context_fn"] = lambda: (nullcontext(), without_statistics(block))
    return options


class without_statistics:
    """Context in which batch norms update copies of their buffers, thrown away at its end; can be entered repeatedly.

    Args:
        module: A module with batch norms, or a batch norm.
    """

    def __init__(self, module: nn.Module) -> None:
        self.norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
        self.kept: list[dict[str, Tensor | None]] = []

    def __enter__(self) -> None:
        self.kept = [dict(norm._buffers) for norm in self.norms]
        for norm, buffers in zip(self.norms, self.kept, strict=True):
            norm._buffers.update({name: None if b is None else b.clone() for name, b in buffers.items()})

    def __exit__(self, *exception: object) -> None:
        for norm, buffers in zip(self.norms, self.kept, strict=True):
            norm._buffers.update(buffers)
