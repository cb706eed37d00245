"""Arithmetic that must not be rounded to half precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Context without autocast on the device of ``x``; the inputs must be wide enough themselves."""
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):  # the meta device has no autocast
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)
