"""Traces a network with free batch, height and width, and compares the file with it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from backbones.export.outputs import Network
from backbones.usage import UsageError

Runner = Callable[[Tensor], Sequence[Tensor]]
FREE = {0: "batch", 2: "height", 3: "width"}
TRACED = (2, 3, 235, 331)  # no side is a multiple of another, so that the compiler sees no equality
COMPARED = ((1, 3, 224, 224), (2, 3, 192, 256), (1, 3, 203, 181))
BOUND = 1e-4  # largest difference, relative to the output's largest value


def trace(network: Network) -> Any:
    """The program of ``torch.export``, for any batch, height and width.

    Raises:
        UsageError: for a version of PyTorch that cannot, and a model that has no such program.
    """
    if not hasattr(torch.compiler, "is_exporting"):
        raise UsageError(
            f"PyTorch {torch.__version__} cannot export with free image sizes; use 2.12, as in the environment of "
            "pip install 'densebackbones[onedl,export]', which reads the same checkpoints"
        )
    free = dict.fromkeys(FREE, torch.export.Dim.DYNAMIC)
    try:
        with torch.no_grad():
            return torch.export.export(network, (torch.zeros(TRACED),), dynamic_shapes=(free,), strict=False)
    except Exception as error:  # the compiler raises anything
        raise UsageError(
            f"{type(network.model).__name__} has no graph for all image sizes: {type(error).__name__}, "
            f"{str(error).splitlines()[0]}"
        ) from error


def largest_error(network: Network, run: Runner) -> float:
    """Largest difference between a file and its network at ``COMPARED`` sizes, relative to an output's largest value.

    Raises:
        UsageError: for outputs of another number or shape.
    """
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for size in COMPARED:
        images = torch.randn(size, generator=generator)
        with torch.no_grad():
            wanted = network(images)
        got = run(images)
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (wanted, got)]
        if shapes[0] != shapes[1]:
            raise UsageError(f"for images {size} the file returns {shapes[1]}, PyTorch {shapes[0]}")
        for ours, theirs in zip(wanted, got, strict=True):
            difference = (ours - theirs).abs().max() / ours.abs().max().clamp(min=torch.finfo(ours.dtype).tiny)
            worst = max(worst, difference.item()) if difference.isfinite() else float("inf")
    return worst
