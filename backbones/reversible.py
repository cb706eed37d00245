"""Runs columns forward and rebuilds their activations in backward.

This knows no RevCol, only the equation of a column,

    c_l = F_l(d_l, p_j, ...) + a_l * p_l        with d_0 = s, d_l = c_{l-1} and every source j > l,

where s is the stem, p are the previous column's maps and c this column's. Three laws (a *set* is one column's maps):

*memory*: the activations inside a level are recomputed from the maps when its gradient is due, and released before the
next level. A step holds one level's activations, and every ``keep_every``-th set of maps; the sets between
are recovered by undoing columns, ``p_l = (c_l - F_l) / a_l`` from the coarsest level to the finest.

*rounding*: with ``keep_every=1`` nothing is undone and the gradients are those of ordinary autograd. Undoing a column
divides by the shortcut scale and feeds recovered maps to F, so an error grows up to ``2 * max |1 / a|``-fold with each.

*modules*: every column, level and block is entered through ``__call__``, and parameters join the graph inside it, by
ordinary operations of autograd. What a wrapper hangs on a module (FSDP gathers parameters before its forward and
before its backward, DDP waits for gradients) therefore happens as in any network. A level runs again inside its own
call, after the gradient of its output has arrived, so its parameters are there; the same run gives the activations and
undoes the column. Nothing outside a column's forward reads its parameters, save the smallest shortcut scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from .layers import recompute_options, without_statistics

AUTO_BOUND = 1e-4  # largest predicted relative error of the gradients that keep_every='auto' accepts

Run = Callable[..., Any]


def call(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``: how a column and its levels run by themselves."""
    return function(*args)


class Column(Protocol):
    """Protocol of a column, a module.

    ``column(run, stem, *previous)`` returns ``run(levels, shortcuts, stem, previous)``: ``levels`` are F_0, F_1, ... as
    modules, ``shortcuts`` are ``a_l``, ``(C_l,)``, nowhere zero.

    ``level(scales, d_l, p_j, ..., run=run)`` returns ``run(F_l, scales, d_l, p_j, ...)``. F_l is deterministic, every
    random draw coming in through ``scales``. Batch norms inside count a batch once, however often F_l runs.

    Attributes:
        sources: For each level, the indices j of the previous maps that its F takes, all larger than l.
    """

    @property
    def sources(self) -> Sequence[Sequence[int]]: ...

    def __call__(self, run: Run, stem: Tensor, *previous: Tensor) -> list[Tensor]: ...


def run_columns(
    columns: Sequence[Column],
    stem: Tensor,
    branch_scales: Sequence[Sequence[Any]],
    reversible: bool,
    keep_every: int = 1,
    wanted: Sequence[int] = (),
) -> tuple[list[Tensor], list[Tensor]]:
    """Runs all columns and returns the maps of the last one, and the coarsest maps of the columns in ``wanted``.

    Args:
        columns: From left to right.
        stem: ``s``, channels last.
        branch_scales: For each column and level, the draws that its F takes.
        reversible: Rebuild activations in backward; False is ordinary autograd.
        keep_every: k >= 1 keeps the maps of every k-th column, counted from the last. Under ``torch.compile`` every k
            acts as 1.
        wanted: Indices of columns, increasing.

    Raises:
        ValueError: with ``reversible``, for an F that draws random numbers.
    """
    coarsest: list[Tensor] = []
    # Tensors without data, whose memory backbones.info counts, are of another type and cannot be compared.
    checked = reversible and not torch.compiler.is_compiling() and type(stem) is Tensor
    state = _random_state(stem) if checked else None
    # Before the first column all maps are zero. As a tensor, they give its shortcuts a gradient, which is zero too.
    previous = [stem.new_zeros(1)] * len(columns[0].sources)
    if torch.compiler.is_compiling() or not reversible:
        keep_every = 1
    maps: list[_Map] | None = None  # of the previous column, unless its maps are kept
    for i, (column, scales) in enumerate(zip(columns, branch_scales, strict=True)):
        if keep_every == 1:
            run: Run = partial(_run_column, column.sources, scales, reversible)
        else:
            here = [_Map() for _ in column.sources]
            kept = (len(columns) - 1 - i) % keep_every == 0
            run = partial(_run_invertible_column, column.sources, scales, maps, here, kept)
            maps = None if kept else here
        previous = column(run, stem, *previous)
        if i in wanted:
            coarsest.append(previous[-1])
    if state is not None and not torch.equal(state, _random_state(stem)):
        raise ValueError(
            "a block drew random numbers (dropout, or a drop-path of its own); backward runs it again and would draw "
            "others. Set its rates to 0 and use drop_path_rate, or reversible=False"
        )
    return previous, coarsest


def _random_state(stem: Tensor) -> Tensor:
    """State of the generator that operations on ``stem`` draw from; a CUDA graph, being captured, tells none."""
    if not stem.is_cuda:
        return torch.get_rng_state()
    return torch.empty(0) if torch.cuda.is_current_stream_capturing() else torch.cuda.get_rng_state(stem.device)


def _run_column(
    all_sources: Sequence[Sequence[int]],
    scales: Sequence[Any],
    recompute: bool,
    levels: Sequence[nn.Module],
    shortcuts: Sequence[Tensor],
    stem: Tensor,
    previous: Sequence[Tensor],
) -> list[Tensor]:
    feats: list[Tensor] = []
    down = stem
    for l, (level, sources) in enumerate(zip(levels, all_sources, strict=True)):
        run = partial(checkpoint, **recompute_options(level)) if recompute else call
        # The shortcut stays outside: recomputation ends with the last activation that F's gradient needs, before F's
        # last layer has run again.
        branch = level(scales[l], down, *(previous[j] for j in sources), run=run)
        down = torch.addcmul(branch, shortcuts[l], previous[l])
        feats.append(down)
    return feats


def smallest_scales(columns: Sequence[Sequence[Tensor]]) -> Tensor:
    """The smallest ``|a|`` of each column, ``(columns,)``, over all ranks if the parameters are sharded.

    Args:
        columns: The shortcut parameters of each column, ``(1, C_l, 1, 1)``, or this rank's shards of them.
    """
    flat = [a for column in columns for a in column]
    # FSDP2 and ZeRO-3 shard into tensors that know their local part, FSDP1 into one dimension. A part may be empty.
    sharded = any(hasattr(a, "to_local") or a.ndim == 1 for a in flat)
    infinity = torch.full((1,), torch.inf, device=flat[0].device)
    smallest = torch.stack(
        [torch.cat([infinity, *(_local(a).flatten().abs() for a in column)]).min() for column in columns]
    )
    if sharded:
        dist.all_reduce(smallest, dist.ReduceOp.MIN)
    return smallest


def _local(a: Any) -> Tensor:
    if hasattr(a, "ds_tensor") and a.numel() != a.ds_numel:  # ZeRO-3; the last part is padded
        return a.ds_tensor[: max(0, a.ds_numel - dist.get_rank() * a.ds_tensor.numel())]
    return a.detach().to_local() if hasattr(a, "to_local") else a.detach()


def largest_safe_run(smallest: Tensor, stem: Tensor) -> int:
    """The largest ``keep_every`` whose ``predicted_error`` stays under ``AUTO_BOUND``; at least 1.

    Args:
        smallest: ``smallest_scales``.
        stem: A tensor of the device and precision in use.
    """
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


class _Map:
    """A map as backward sees it: empty, until the undoing of the next column recovers it; emptied at its last use."""

    value: Tensor | None = None
    recover: Callable[[], Tensor] | None = None

    def get(self) -> Tensor:
        """The map, recovered on the spot if the gradient of the next column has not come this way."""
        if self.value is None:
            if self.recover is None:
                raise RuntimeError(
                    "keep_every > 1 recovers the maps of a column from the last one's, which this loss does not depend "
                    "on; add the last column's maps to the loss, or use keep_every=1"
                )
            self.value = self.recover()
        return self.value


def _run_invertible_column(
    all_sources: Sequence[Sequence[int]],
    scales: Sequence[Any],
    before: list[_Map] | None,
    here: list[_Map],
    kept: bool,
    levels: Sequence[nn.Module],
    shortcuts: Sequence[Tensor],
    stem: Tensor,
    previous: Sequence[Tensor],
) -> list[Tensor]:
    """``_run_column`` whose backward recovers the previous column's maps, ``before``, unless they are kept (None).

    Args:
        all_sources: Of each level.
        scales: For each level, the draws that its F takes.
        before: The previous column's maps.
        here: This column's maps.
        kept: Whether backward keeps this column's maps; otherwise the next column's backward fills ``here``.
        levels: F of each level.
        shortcuts: ``a_l``.
        stem: ``s``.
        previous: The previous column's maps as they are now.
    """
    feats: list[Tensor] = []
    down, down_map = stem, None
    for l, (level, sources) in enumerate(zip(levels, all_sources, strict=True)):
        inputs = (down, *(previous[j] for j in sources))
        maps = [down_map, *(before[j] if before else None for j in sources)]
        if before is None:
            branch = level(scales[l], *inputs, run=partial(_recompute, level, maps, here[l], None))
            down = torch.addcmul(branch, shortcuts[l], previous[l])
        else:
            a = shortcuts[l].detach().clone()  # the parameter may have changed, or left this rank, until backward
            undo = partial(_undo, here[l], a, before[l], before[l + 1 :])
            before[l].recover = _recovery(level, scales[l], inputs, maps, here[l], a)
            # Made before F runs, so that autograd, which goes backwards, needs the map only after F has recovered it.
            product = _Product.apply(before[l], a, shortcuts[l], previous[l])
            branch = level(scales[l], *inputs, run=partial(_recompute, level, maps, here[l], undo))
            down = _Add.apply(branch, product, a, previous[l].detach())
        down_map = None if kept else here[l]
        feats.append(down)
    return list(_Keep.apply(here, *feats)) if kept and before else feats


def _recompute(
    level: nn.Module,
    maps: Sequence[_Map | None],
    here: _Map,
    undo: Callable[[Tensor], None] | None,
    function: Callable[..., Tensor],
    scales: Any,
    *inputs: Tensor,
) -> Tensor:
    """``function(scales, *inputs)``, which backward runs again to the end, then ``undo`` with its output.

    Args:
        level: The module that F is part of.
        maps: For each input, the map that backward takes in its place; None keeps the input.
        here: The map of this level, whose last use this is.
        undo: Recovers the previous column's map.
        function: F.
        scales: The draws that F takes.
        inputs: As F takes them; a wrapper of the level may have cast them.
    """
    now = list(inputs)  # emptied below: what this function holds, backward keeps
    kinds = [(x.dtype, x.requires_grad) for x in inputs]

    def run(*kept: Tensor | None) -> Tensor:
        if now:
            return function(scales, *now)
        again = [
            x if m is None else m.get().detach().to(dtype).requires_grad_(requires_grad)
            for x, m, (dtype, requires_grad) in zip(kept, maps, kinds, strict=True)
        ]
        out = function(scales, *again)
        with torch.no_grad():
            if undo:
                undo(out)
        here.value = None
        return out

    with set_checkpoint_early_stop(False):
        kept = (x if m is None else None for x, m in zip(inputs, maps, strict=True))
        out: Any = checkpoint(run, *kept, **recompute_options(level))
    now.clear()
    return out


def _undo(here: _Map, a: Tensor, before: _Map, coarser: Sequence[_Map], branch: Tensor) -> None:
    for m in coarser:  # in this order; nearly always they are there
        m.get()
    before.value = (here.get() - branch) / a


def _recovery(
    level: nn.Module, scales: Any, inputs: Sequence[Tensor], maps: Sequence[_Map | None], here: _Map, a: Tensor
) -> Callable[[], Tensor]:
    """Undoes one level without a gradient, for a backward that does not pass through it."""
    kept = [x.detach() if m is None else None for x, m in zip(inputs, maps, strict=True)]
    device = inputs[0].device.type
    autocast = partial(
        torch.autocast,
        device,
        enabled=torch.is_autocast_enabled(device),
        dtype=torch.get_autocast_dtype(device),
        cache_enabled=False,  # casts made here know no gradient
    )

    def recover() -> Tensor:
        with torch.no_grad(), autocast(), without_statistics(level):
            branch = level(scales, *(m.get() if m else x for x, m in zip(kept, maps, strict=True)), run=call)
            return (here.get() - branch) / a

    return recover


class _Product(torch.autograd.Function):
    """The gradients of ``a * p``, of which forward makes a stand-in without memory."""

    @staticmethod
    def forward(ctx: Any, before: _Map, a: Tensor, shortcut: Tensor, previous: Tensor) -> Tensor:
        ctx.before = before
        ctx.save_for_backward(a)
        return previous.new_empty(1).expand_as(previous)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (a,) = ctx.saved_tensors
        return None, None, (grad * ctx.before.get()).sum_to_size(a.shape), grad * a


class _Add(torch.autograd.Function):
    """``branch + a * p``, whose gradient for the product goes to ``_Product``."""

    @staticmethod
    def forward(ctx: Any, branch: Tensor, product: Tensor, a: Tensor, previous: Tensor) -> Tensor:
        return torch.addcmul(branch, a, previous)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad, grad, None, None


class _Keep(torch.autograd.Function):
    """Keeps a column's maps until its backward begins, which puts them where the recomputation looks for them."""

    @staticmethod
    def forward(ctx: Any, maps: Sequence[_Map], *feats: Tensor) -> tuple[Tensor, ...]:
        ctx.maps = maps
        ctx.set_materialize_grads(False)
        kept = tuple(feat.detach() for feat in feats)
        ctx.save_for_backward(*kept)
        return kept

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        for m, value in zip(ctx.maps, ctx.saved_tensors, strict=True):
            m.value = value
        return None, *grads
