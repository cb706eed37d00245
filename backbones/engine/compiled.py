"""Compiled inference that is not slower than eager mode."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from backbones.layers.linear import convolve_when_compiled


def compile_inference(model: nn.Module) -> Callable[..., Any]:
    """Compiles a model in evaluation mode.

    ``torch.compile`` alone sends linear layers to MKL, and is then slower than eager mode on many CPUs. Here they stay
    convolutions, as in ``layers.linear``. TorchInductor must then leave the memory layout as it is: its own choice
    copies every map.

    Args:
        model: A backbone, or any other model that ``torch.compile`` takes.

    Returns:
        A function with the model's arguments, without gradients: ``compile_inference(backbone.eval())(images)``. It
        compiles once for each shape of the input; beyond PyTorch's ``torch._dynamo.config.recompile_limit`` (8),
        further shapes run in eager mode. (For windows, TorchInductor did not finish one program for all sizes in nine
        minutes.)

    Raises:
        ValueError: for a model in training mode.
    """
    if model.training:
        raise ValueError(f"{type(model).__name__} is in training mode; call eval() on it first")
    compiled = torch.compile(model, dynamic=False, options={"layout_optimization": False})

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad(), convolve_when_compiled():
            return compiled(*args, **kwargs)

    return forward
