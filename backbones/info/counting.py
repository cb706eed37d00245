"""Counts multiply-accumulates and allocated bytes of PyTorch operations, also of tensors without data."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import backbones.layers  # noqa: F401  (registers the operator)


def mac_counter() -> FlopCounterMode:
    """PyTorch's counter of operations, which also knows attention that is mixed over the heads.

    Use it as a context and read it with ``macs``.
    """
    mixed = torch.ops.backbones.mixed_attention  # type: ignore[attr-defined]
    return FlopCounterMode(display=False, custom_mapping={mixed: _mixed_attention_flops})


def macs(counter: FlopCounterMode, module: str = "Global") -> int:
    """Multiply-accumulates of one module, by its name in the counter, or of everything."""
    # a multiplication and an addition are two operations
    return sum(counter.get_flop_counts().get(module, {}).values()) // 2


def _mixed_attention_flops(
    q: Sequence[int], k: Sequence[int], v: Sequence[int], scale: float, pre: Sequence[int] | None, *_: Any, **__: Any
) -> int:
    """Operations of ``backbones::mixed_attention``, from the shapes of its arguments."""
    batch, heads, tokens, width = q
    mixes = heads * (1 if pre is None else 2)
    return 2 * batch * heads * tokens**2 * (width + v[-1] + mixes)


class Allocations(TorchDispatchMode):
    """Context that follows the bytes which operations allocate and free, as the device's allocator would.

    Tensors that exist before are not counted. Buffers that a kernel uses inside, such as cuDNN's workspaces, are
    invisible.

    Attributes:
        level: Bytes that are allocated now.
        peak: Largest level so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.level = self.peak = 0
        self._storages: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (key := tensor.untyped_storage()._cdata) not in given:
                self._add(key, tensor.untyped_storage())
        self.peak = max(self.peak, self.level)
        return result

    def _add(self, key: int, storage: torch.UntypedStorage) -> None:
        if key not in self._storages:
            size = storage.nbytes()
            self.level += size
            self._storages[key] = weakref.ref(storage, partial(self._free, key, size))

    def _free(self, key: int, size: int, _: Any) -> None:
        self.level -= size
        del self._storages[key]
