"""Runs columns forward and rebuilds their activations in backward.

This knows no RevCol, only the equation of a column,

    c_l = F_l(d_l, p_j, ...) + a_l * p_l        with d_0 = s, d_l = c_{l-1} and every source j > l,

where s is the stem, p are the previous column's maps and c this column's. Two laws (a *set* is one column's maps):

*memory*: the activations inside a level are recomputed from the maps when its gradient is due, and released before the
next level. A step holds one level's activations, and every ``keep_every``-th set of maps; the sets between
are recovered by undoing columns, ``p_l = (c_l - F_l) / a_l`` from the coarsest level to the finest.

*rounding*: with ``keep_every=1`` nothing is undone and the gradients are those of ordinary autograd. Undoing a column
divides by the shortcut scale and feeds recovered maps to F, so an error grows up to ``2 * max |1 / a|``-fold with each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

AUTO_BOUND = 1e-4  # largest predicted relative error of the gradients that keep_every='auto' accepts

# F draws nothing itself, so there is no random state to restore.
CHECKPOINT: dict[str, Any] = dict(use_reentrant=False, preserve_rng_state=False)


class Column(Protocol):
    """Protocol of a column.

    Attributes:
        levels: F_0, F_1, ... as modules called with (branch_scales, d_l, p_j, ...); deterministic, every random draw
            coming in through ``branch_scales``.
        sources: For each level, the indices j of the previous maps that its F takes, all larger than l.
    """

    @property
    def levels(self) -> Sequence[nn.Module]: ...

    @property
    def sources(self) -> Sequence[Sequence[int]]: ...


def run_columns(
    columns: Sequence[Column],
    stem: Tensor,
    shortcuts: Sequence[Sequence[Tensor]],
    branch_scales: Sequence[Sequence[Any]],
    reversible: bool,
    keep_every: int | str = 1,
    wanted: Sequence[int] = (),
) -> tuple[list[Tensor], list[Tensor]]:
    """Runs all columns and returns the maps of the last one, and the coarsest maps of the columns in ``wanted``.

    Args:
        columns: From left to right.
        stem: ``s``, channels last.
        shortcuts: ``a_l`` of each column, ``(C_l,)``, nowhere zero.
        branch_scales: For each column and level, the draws that its F takes.
        reversible: Rebuild activations in backward; False is ordinary autograd.
        keep_every: k >= 1 keeps the maps of every k-th column, counted from the last; ``'auto'`` lets
            ``largest_safe_run`` choose k. Under ``torch.compile`` every k acts as 1.
        wanted: Indices of columns, increasing.
    """
    coarsest: list[Tensor] = []
    # Before the first column all maps are zero. As a tensor, they give its shortcuts a gradient, which is zero too.
    previous = [stem.new_zeros(1)] * len(shortcuts[0])
    if torch.compiler.is_compiling() or not reversible:
        keep_every = 1
    if isinstance(keep_every, str):
        keep_every = largest_safe_run(shortcuts, stem)
    if keep_every == 1:
        for i, (column, scales, shortcut) in enumerate(zip(columns, branch_scales, shortcuts, strict=True)):
            previous = _run_column(column, scales, stem, previous, shortcut, recompute=reversible)
            if i in wanted:
                coarsest.append(previous[-1])
        return previous, coarsest

    before = _Handover()
    before_kept = True
    for i, (column, scales, shortcut) in enumerate(zip(columns, branch_scales, shortcuts, strict=True)):
        here, kept = _Handover(), (len(columns) - 1 - i) % keep_every == 0
        parameters = [p for level in column.levels for p in level.parameters()]
        link = _Link(column, scales, before, here, before_kept, kept)
        previous = list(_InvertibleColumn.apply(link, stem, *previous, *shortcut, *parameters))
        before, before_kept = here, kept
        if i in wanted:
            coarsest.append(previous[-1])
    return previous, coarsest


def _run_column(
    column: Column,
    scales: Sequence[Any],
    stem: Tensor,
    previous: Sequence[Tensor],
    shortcut: Sequence[Tensor],
    recompute: bool,
) -> list[Tensor]:
    feats: list[Tensor] = []
    down = stem
    for l, (level, sources) in enumerate(zip(column.levels, column.sources, strict=True)):
        inputs = (scales[l], down, *(previous[j] for j in sources))
        # The shortcut stays outside: recomputation ends with the last activation that F's gradient needs, before F's
        # last layer has run again.
        branch: Any = checkpoint(level, *inputs, **CHECKPOINT) if recompute else level(*inputs)
        down = torch.addcmul(branch, shortcut[l], previous[l])
        feats.append(down)
    return feats


def largest_safe_run(shortcuts: Sequence[Sequence[Tensor]], stem: Tensor) -> int:
    """The largest ``keep_every`` whose ``predicted_error`` stays under ``AUTO_BOUND``; at least 1."""
    # (columns,), fetched from the device at once: the smallest scale of a column decides.
    smallest = torch.stack([torch.cat([a.detach() for a in column]).abs().min() for column in shortcuts])
    device = stem.device.type
    dtypes = [stem.dtype] + ([torch.get_autocast_dtype(device)] if torch.is_autocast_enabled(device) else [])
    eps = max(torch.finfo(dtype).eps for dtype in dtypes)
    scales = smallest.tolist()
    runs = range(2, len(scales) + 1)
    return max((k for k in runs if predicted_error(scales, k, eps) <= AUTO_BOUND), default=1)


def predicted_error(smallest_scales: Sequence[float], keep_every: int, eps: float) -> float:
    """Predicted relative error of the gradients when the maps of every k-th column are kept.

    Undoing a column multiplies an error by at most ``1 / |a|`` in the division, and by about 2 on the recovered maps'
    way through F. That factor and the start, two rounding steps, come from small random networks, whose errors stay
    below the prediction (``tests/test_reversible.py`` checks it).

    Args:
        smallest_scales: Smallest ``|a|`` of each column.
        keep_every: k.
        eps: Rounding step (``torch.finfo(dtype).eps``) of the least precise arithmetic in use.
    """
    worst = error = 0.0
    for place, scale in enumerate(reversed(smallest_scales[1:]), start=1):
        # Undoing this column recovers the maps of the one `place` columns before the last, unless they are kept.
        error = 0.0 if place % keep_every == 0 else (error or 2 * eps) * 2 / scale
        worst = max(worst, error)
    return worst


class _Handover:
    """Carries a column's recovered maps from the backward of the next column to its own, which empties the list."""

    maps: list[Any]


@dataclass
class _Link:
    """One column's place in the chain."""

    column: Column
    scales: Sequence[Any]
    before: _Handover  # to the previous column, unless its maps are kept
    here: _Handover  # from the next column, unless this one's maps are kept
    before_kept: bool
    kept: bool


class _InvertibleColumn(torch.autograd.Function):
    """One column as a node of the autograd graph. All its parameters are inputs, and their gradients are returned."""

    @staticmethod
    def forward(ctx: Any, link: _Link, stem: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        n = len(link.column.sources)
        previous, shortcut = tensors[:n], tensors[n : 2 * n]
        ctx.link = link
        device = stem.device.type
        # Casts made here know no gradient and must not be cached (torch 2.4 would): the region may hold other forwards.
        ctx.autocast = partial(
            torch.autocast,
            device,
            enabled=torch.is_autocast_enabled(device),
            dtype=torch.get_autocast_dtype(device),
            cache_enabled=False,
        )
        with ctx.autocast():
            feats = _run_column(link.column, link.scales, stem, previous, shortcut, recompute=False)
        ctx.save_for_backward(stem, *shortcut, *(previous if link.before_kept else ()), *(feats if link.kept else ()))
        return tuple(feats)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *out_grads: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        link: _Link = ctx.link
        n = len(link.column.sources)
        stem, *saved = ctx.saved_tensors
        shortcut, saved = saved[:n], saved[n:]
        # Lists over the levels whose entries come and go; level 3 is undone first.
        previous: list[Any] = saved[:n] if link.before_kept else [None] * n
        feats: list[Any] = saved[-n:] if link.kept else link.here.maps
        grads: list[Any] = list(out_grads)
        previous_grads: list[Any] = [None] * n
        shortcut_grads: list[Any] = [None] * n
        parameter_grads: list[Any] = [None] * n
        stem_grad = None
        for l in reversed(range(n)):
            sources = link.column.sources[l]
            inputs = (stem if l == 0 else feats[l - 1], *(previous[j] for j in sources))
            wanted = [l > 0 or ctx.needs_input_grad[1], *([True] * len(sources))]
            with ctx.autocast():
                branch, input_grads, parameter_grads[l] = _level_gradients(
                    link.column.levels[l], link.scales[l], inputs, wanted, grads[l]
                )
            if not link.before_kept:
                previous[l] = (feats[l] - branch) / shortcut[l]
            feats[l] = branch = None  # their last use

            shortcut_grads[l] = (grads[l] * previous[l]).sum_to_size(shortcut[l].shape)
            previous_grads[l] = _sum(previous_grads[l], grads[l] * shortcut[l])
            for j, grad in zip(sources, input_grads[1:], strict=True):
                previous_grads[j] = _sum(previous_grads[j], grad)
            if l > 0:
                grads[l - 1] = _sum(grads[l - 1], input_grads[0])
            else:
                stem_grad = input_grads[0]
            grads[l] = None
        if not link.before_kept:
            link.before.maps = previous
        previous_grads = [g if ctx.needs_input_grad[2 + l] else None for l, g in enumerate(previous_grads)]
        return None, stem_grad, *previous_grads, *shortcut_grads, *(g for grads in parameter_grads for g in grads)


def _level_gradients(
    level: nn.Module, scales: Any, inputs: Sequence[Tensor], wanted: Sequence[bool], out_grad: Tensor
) -> tuple[Tensor, list[Any], list[Any]]:
    """Recomputes one level: ``(its output, the gradients of the wanted inputs, those of its parameters)``."""
    # Detached copies of the parameters (sharing memory): hooks on the real ones then fire once, when autograd hands
    # them the gradients that are returned here.
    parameters = {name: p.detach().requires_grad_(p.requires_grad) for name, p in level.named_parameters()}
    leaves = [x.detach().requires_grad_(w) for x, w in zip(inputs, wanted, strict=True)]
    with torch.enable_grad():
        out = functional_call(level, parameters, (scales, *leaves))
    candidates = [*leaves, *parameters.values()]
    targets = [t for t in candidates if t.requires_grad]
    found = iter(torch.autograd.grad(out, targets, out_grad.to(out.dtype)) if targets else ())
    grads = [next(found) if t.requires_grad else None for t in candidates]
    return out.detach(), grads[: len(leaves)], grads[len(leaves) :]


def _sum(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b
