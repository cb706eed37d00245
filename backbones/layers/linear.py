"""A linear layer on the last dimension that takes the faster of two routes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_convolve_when_compiled = False


@contextmanager
def convolve_when_compiled() -> Iterator[None]:
    """Within it, compiled models take the convolution, too; a gain only without TorchInductor's layout optimization."""
    global _convolve_when_compiled
    before, _convolve_when_compiled = _convolve_when_compiled, True
    try:
        yield
    finally:
        _convolve_when_compiled = before


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear``; on a CPU computed as a 1 x 1 convolution over the same memory.

    PyTorch multiplies matrices with MKL, which leaves up to half of the speed of other makers' processors unused, but
    convolves with oneDNN, which does not (``docs/BENCHMARKS.md``). oneDNN has no float64. Under
    ``torch.compile`` it stays a linear layer, unless ``compile_inference`` compiles.

    Shapes:
        x: ``(..., C)``; weight: ``(D, C)``; bias: ``(D,)``; returns ``(..., D)``.
    """
    compiled_as_linear = torch.compiler.is_compiling() and not _convolve_when_compiled
    if not x.is_cpu or x.dtype == torch.float64 or compiled_as_linear:
        return F.linear(x, weight, bias)
    # (1, C, 1, N), channels last in memory. Along the width: along the height, oneDNN's backward takes more than twice
    # as long for the odd numbers of tokens that a class token makes.
    pixels = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    y = F.conv2d(pixels, weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


class Linear(nn.Linear):
    """``nn.Linear`` through ``linear``."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
