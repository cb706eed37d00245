"""Networks of reversible columns: levels, columns, and the backbone around them, for any blocks.

With column i and level l of four (s is the stem, F a level: a fusion of its inputs, then blocks)

    c_l^i = a_l^i * c_l^{i-1} + F_l^i(c_{l-1}^i, c_{l+1}^{i-1}),    c_{-1}^i = s,    c_l^{-1} = 0

so a column can be undone level by level, from the last to the first, where every a is away from zero. Inside, maps are
``(B, H, W, C)``. ``backbones.reversible`` runs the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .base import Backbone, Part
from .checks import are_wholes, check_flag, is_whole
from .layers import drop_path_rates, drop_path_scale
from .reversible import Run, call, largest_safe_run, run_columns, smallest_scales

LEVELS = 4
INITIAL_SHORTCUT = 0.5
MIN_SHORTCUT = 1e-3  # smallest |shortcut|, so that a column can be undone


class Level(nn.Module):
    """F_l of a column: fusion, then blocks, the way ``backbones.reversible`` runs them.

    Args:
        fusion: ``(down, *ups) -> (B, H, W, C)``: the finer level of this column, and levels of the previous one.
        blocks: Each ``(x, scale) -> (B, H, W, C)``, where ``scale`` is a draw of ``ColumnNetwork.draw``.
    """

    def __init__(self, fusion: nn.Module, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.fusion = fusion
        self.blocks = nn.ModuleList(blocks)

    def forward(self, scales: Sequence[Any], down: Tensor, *ups: Tensor, run: Run = call) -> Tensor:
        return run(self.branch, scales, down, *ups)

    def branch(self, scales: Sequence[Any], down: Tensor, *ups: Tensor) -> Tensor:
        """F_l itself."""
        return self.run_blocks(self.fusion(down, *ups), scales)

    def run_blocks(self, x: Tensor, scales: Sequence[Any]) -> Tensor:
        """The blocks on the fused map."""
        for block, scale in zip(self.blocks, scales, strict=True):
            x = block(x, scale)
        return x


class Column(nn.Module):
    """Four levels and their shortcuts; keeps the protocol that ``backbones.reversible`` asks for.

    Args:
        channels: Widths of the four levels.
        sources: For each level, the coarser levels of the previous column that feed it.
        make_level: Makes a level from its number and its sources.
    """

    def __init__(
        self,
        channels: Sequence[int],
        sources: Sequence[Sequence[int]],
        make_level: Callable[[int, Sequence[int]], Level],
    ) -> None:
        super().__init__()
        self.sources = sources
        for l in range(LEVELS):
            self.register_parameter(f"alpha{l}", nn.Parameter(torch.full((1, channels[l], 1, 1), INITIAL_SHORTCUT)))
            self.add_module(f"level{l}", make_level(l, sources[l]))

    def forward(self, run: Run, stem: Tensor, *previous: Tensor) -> list[Tensor]:
        return run(self.levels, self.shortcuts(), stem, previous)

    @property
    def levels(self) -> list[nn.Module]:
        return [getattr(self, f"level{l}") for l in range(LEVELS)]

    @property
    def alphas(self) -> list[nn.Parameter]:
        return [getattr(self, f"alpha{l}") for l in range(LEVELS)]

    def shortcuts(self) -> list[Tensor]:
        """The four shortcut scales, each ``(C_l,)``, at least 1e-3 away from zero."""
        return [(alpha if self.training else clamped(alpha)).flatten() for alpha in self.alphas]

    def clamp_shortcuts(self) -> None:
        """Moves the shortcut scales away from zero, in place; part of a training step.

        The official code does so before every forward. In evaluation ``shortcuts`` gives the same values and
        changes nothing.
        """
        for alpha in self.alphas:
            # .data: an earlier forward's graph may hold alpha, and this changes no value that it has read.
            alpha.data.copy_(clamped(alpha).detach())


def clamped(alpha: Tensor) -> Tensor:
    """Shortcut scales, moved away from zero."""
    return torch.where(alpha < 0, alpha.clamp(max=-MIN_SHORTCUT), alpha.clamp(min=MIN_SHORTCUT))


class ColumnNetwork(Backbone):
    """Columns that refine four levels; the maps of the last column are the result.

    A subclass makes its stem, calls ``_add_columns`` and ``_freeze``, and gives the stem's map in ``embed``.

    Args:
        reversible: Rebuild activations in backward instead of storing them. Same outputs and same gradients.
        keep_every: With ``reversible``, keep the maps of every k-th column and recover those between by undoing
            columns. 1 undoes nothing and is exact up to float rounding. Larger values save one set of maps per column
            at the price of rounding errors that grow with each column undone; ``'auto'`` chooses the largest k whose
            predicted gradient error stays below ``backbones.reversible.AUTO_BOUND``, from the shortcut scales and
            the precision in use. Under ``torch.compile`` k is 1.
        base: As in ``backbones.base.Backbone``.

    Raises:
        ValueError: for a ``keep_every`` out of range.
    """

    undecayed = ("alpha",)
    stem_parts: ClassVar[tuple[str, ...]] = ("stem",)  # modules and parameters in front of the columns
    undropped: ClassVar[Any] = None  # the draw for a block that is never dropped

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    num_columns: int

    def __init__(self, *, reversible: bool = False, keep_every: int | str = 1, **base: Any) -> None:
        super().__init__(**base)
        check_flag("reversible", reversible)
        if keep_every != "auto" and not is_whole(keep_every):
            raise ValueError(f"keep_every is {keep_every!r}; it must be an integer of at least 1, or 'auto'")
        self.reversible = reversible
        self.keep_every = keep_every

    def _add_columns(
        self,
        channels: Any,
        depths: Any,
        num_columns: Any,
        make_level: Callable[[int, Sequence[int]], Level],
        top_link: bool = False,
    ) -> None:
        """Makes the columns, ``subnet0`` first.

        Args:
            channels: Of each level.
            depths: Blocks of each level.
            num_columns: Number of columns.
            make_level: Makes a level from its number and its sources in the previous column.
            top_link: Whether the last level of the previous column also feeds the first one.
        """
        self.channels, self.depths, self.num_columns = tuple(channels), tuple(depths), num_columns
        links: list[tuple[int, ...]] = [(1, 3) if top_link else (1,), (2,), (3,), ()]
        for i in range(num_columns):
            sources = links if i else [()] * LEVELS
            self.add_module(f"subnet{i}", Column(channels, sources, make_level))

    def _check_columns(self, channels: Any, depths: Any, num_columns: Any) -> None:
        if not (are_wholes(channels, LEVELS) and are_wholes(depths, LEVELS) and is_whole(num_columns)):
            raise ValueError(
                f"channels {channels}, depths {depths}, num_columns {num_columns}: "
                f"{type(self).__name__} has {LEVELS} levels, each with at least one block, and at least one column"
            )

    @property
    def columns(self) -> list[Column]:
        return [getattr(self, f"subnet{i}") for i in range(self.num_columns)]

    def embed(self, x: Tensor) -> Tensor:
        """The stem's map of images ``(B, 3, H, W)``, channels last."""
        raise NotImplementedError

    def draw(self, stem: Tensor, rate: float) -> Any:
        """The drop-path factors of a block in this forward, for a batch as large as ``stem``'s."""
        return drop_path_scale(stem, rate)

    def last_maps(self, x: Tensor) -> list[Tensor]:
        """The four levels of the last column, finest first, each ``(B, C_l, H_l, W_l)``."""
        return [feat.permute(0, 3, 1, 2) for feat in self._run(x)[0]]

    def coarsest_maps(self, x: Tensor, columns: Sequence[int]) -> list[Tensor]:
        """The last level of some columns, for classifiers.

        Args:
            x: Images, as in ``forward``.
            columns: Indices of columns, increasing.

        Returns:
            For each, ``(B, C_3, H_3, W_3)``.
        """
        return [feat.permute(0, 3, 1, 2) for feat in self._run(x, columns)[1]]

    def _run(self, x: Tensor, wanted: Sequence[int] = ()) -> tuple[list[Tensor], list[Tensor]]:
        self.check_input(x)
        stem = self.embed(x)
        for column in self.columns if self.training else ():
            column.clamp_shortcuts()
        reversible, keep_every = self.reversible and torch.is_grad_enabled(), self.keep_every
        if isinstance(keep_every, str):
            keep_every = 1
            if reversible and not torch.compiler.is_compiling():
                smallest = smallest_scales([column.alphas for column in self.columns])
                keep_every = largest_safe_run(smallest.clamp(min=MIN_SHORTCUT), stem)
        return run_columns(
            self.columns,
            stem,
            branch_scales=[self._draw_drop_path(stem, column) for column in self.columns],
            reversible=reversible,
            keep_every=keep_every,
            wanted=wanted,
        )

    def _draw_drop_path(self, stem: Tensor, column: nn.Module) -> list[list[Any]]:
        """Drop-path factors of one column in this forward, by level and block; a frozen one drops nothing."""
        if not column.training or self.drop_path_rate == 0:
            return [[self.undropped] * depth for depth in self.depths]
        rates = iter(drop_path_rates(self.drop_path_rate, sum(self.depths)))
        return [[self.draw(stem, next(rates)) for _ in range(depth)] for depth in self.depths]

    def memory_modes(self) -> dict[str, dict[str, Any]]:
        """Reversible with ``keep_every`` 1, 4, the present one, and the one that ``'auto'`` starts training with."""
        start = torch.full((self.num_columns,), INITIAL_SHORTCUT)
        auto = largest_safe_run(start, start)
        runs = {4, auto} | ({self.keep_every} if isinstance(self.keep_every, int) else set())
        return {
            "plain": dict(reversible=False),
            "reversible": dict(reversible=True, keep_every=1),
            **{
                f"keep_every={k}" + (" ('auto')" if k == auto else ""): dict(reversible=True, keep_every=k)
                for k in sorted(runs - {1})
            },
        }

    def stages(self) -> dict[str, list[Part]]:
        columns: dict[str, list[Part]] = {f"column{i}": [column] for i, column in enumerate(self.columns)}
        return {"stem": [getattr(self, name) for name in self.stem_parts], **columns}

    def units(self) -> list[nn.Module]:
        return [level for column in self.columns for level in column.levels]

    def _freeze_unused_levels(self, last: int, top_link: bool = False) -> None:
        """Freezes what reaches no output, so that every trainable parameter gets a gradient.

        Args:
            last: The last level of the last column that an output is made from.
            top_link: As for ``_add_columns``.
        """
        for i, column in enumerate(self.columns):
            columns_after = self.num_columns - 1 - i
            # A level reaches one level finer with each column after it; the finest at once through the top link.
            reach = LEVELS - 1 if top_link and columns_after else last + columns_after
            for l in range(reach + 1, LEVELS):
                column.levels[l].requires_grad_(False)
                column.alphas[l].requires_grad_(False)

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Official rule: the stem is 0, a block 1 + its column + its number within the column, over all levels."""
        num_depths = sum(self.depths) + self.num_columns + 1
        part, _, inner = param_name.removeprefix(prefix).partition(".")
        if not param_name.startswith(prefix) or not (part in self.stem_parts or part.startswith("subnet")):
            return num_depths - 1, num_depths
        if part in self.stem_parts:
            return 0, num_depths
        column = int(part.removeprefix("subnet"))
        level, *rest = inner.split(".")
        if level.startswith("alpha"):
            return 1 + column, num_depths
        block = sum(self.depths[: int(level.removeprefix("level"))])
        if rest[0] == "blocks":  # the fusion counts with its level's first block
            block += int(rest[1])
        return 1 + column + block, num_depths
