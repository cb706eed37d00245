"""Whether a model is being exported (``torch.export``, ONNX), where sizes of images are symbols."""

import torch
from torch import Tensor


def exporting() -> bool:
    """True while ``torch.export`` traces; older versions of torch, which cannot export these models, have no flag."""
    flag = getattr(torch.compiler, "is_exporting", None)
    return flag is not None and flag()


def crop(x: Tensor, dim: int, size: tuple[int, int], step: int = 1) -> Tensor:
    """Every ``step``-th of the first ``size`` rows and columns of ``x``, its dimensions ``dim`` and ``dim + 1``.

    An export gathers them: the strides of a slice depend on comparisons of sizes that it does not know.
    """
    for i, length in enumerate(size, start=dim):
        if exporting():
            x = x.index_select(i, torch.arange(0, length, step, device=x.device))
        else:
            x = x[(slice(None),) * i + (slice(0, length, step),)]
    return x
