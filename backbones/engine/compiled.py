"""Compiled inference that is not slower than eager code."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from backbones.layers.linear import convolve_when_compiled


def compile_inference(model: nn.Module) -> Callable[..., Any]:
    """Compiles a model in evaluation mode for inference with its present weights.

    ``torch.compile`` alone sends linear layers to MKL, and is then slower than eager code on many CPUs. Here they stay
    convolutions, as in ``layers.linear``, whose weights TorchInductor packs once for oneDNN ("freezing").

    Args:
        model: A backbone or any other model that compiles into one graph. Weights that change later have no effect.

    Returns:
        A function with the model's arguments. It compiles at the first call and for each new kind of shape, and keeps
        no gradients: ``levels = compile_inference(backbone.eval())(images)``.

    Raises:
        ValueError: for a model in training mode.
    """
    if model.training:
        raise ValueError(f"{type(model).__name__} is in training mode; call eval() on it first")
    compiled = torch.compile(model, fullgraph=True, options={"freezing": True})

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad(), convolve_when_compiled():
            return compiled(*args, **kwargs)

    return forward
