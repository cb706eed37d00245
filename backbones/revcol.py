"""RevCol: reversible column networks (Cai et al., ICLR 2023, arXiv:2212.11696).

Several columns refine the same four feature levels. With column i and level l (0 is the finest, stride 4; s is the
stem)

    c_l^i = a_l^i * c_l^{i-1} + F_l^i(c_{l-1}^i, c_{l+1}^{i-1}),    c_{-1}^i = s,    c_l^{-1} = 0

so a column can be undone level by level, from the coarsest to the finest, where every a is away from zero.

Reproduced: the backbone of the classification models T to H and of the detection and segmentation models. Coarse maps
are resized to the finer map's size, as the official segmentation code does, so that any image size works; for multiples
of 32 this is the factor 2 of the other two. Parameter names are the official ones. Inside, maps are ``(B, H, W, C)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from .base import DenseBackbone, Part
from .checkpoints import CheckpointError
from .checks import are_wholes, check_flag, is_whole
from .layers import ChannelsLastConv2d, Linear, drop_path_rates, drop_path_scale, linear
from .reversible import Run, call, largest_safe_run, run_columns, smallest_scales

LEVELS = 4
INITIAL_SHORTCUT = 0.5
MIN_SHORTCUT = 1e-3  # smallest |shortcut|, so that a column can be undone
NORM_EPS = 1e-6
CACHED_VALUES = 2**18  # of a map, at a time, on a CPU: 4 MiB of hidden values in float32
UP_NAMES = ("up", "up2")  # official names of the links from the previous column

REVCOL_ARCHS: dict[str, dict[str, Any]] = {  # backbone parameters in millions; GMACs at 224 x 224 with the 1k head
    "tiny": dict(channels=(64, 128, 256, 512), depths=(2, 2, 4, 2), num_columns=4),  # 29.94, 4.5
    "small": dict(channels=(64, 128, 256, 512), depths=(2, 2, 4, 2), num_columns=8),  # 60.05, 9.0
    "base": dict(channels=(72, 144, 288, 576), depths=(1, 1, 3, 2), num_columns=16),  # 138.04, 16.6
    "large": dict(channels=(128, 256, 512, 1024), depths=(1, 2, 6, 2), num_columns=8),  # 272.07, 39.3
    "xlarge": dict(channels=(224, 448, 896, 1792), depths=(1, 2, 6, 2), num_columns=8),  # 832.01, 120.2
    "huge": dict(channels=(360, 720, 1440, 2880), depths=(1, 2, 6, 2), num_columns=8, top_link=True),  # 2154.71, 310.6
    # ours, for detectors in real time, as large as CSPNeXt-s; there are no published weights
    "nano": dict(channels=(32, 64, 128, 256), depths=(1, 1, 2, 1), num_columns=4),  # 4.18, 0.6
}


class ConvNeXtBlock(nn.Module):
    """Depthwise conv, then a pointwise MLP, scaled per channel (Liu et al., arXiv:2201.03545, figure 4).

    Args:
        channels: C.
        kernel_size: Of the depthwise convolution, odd.
        expansion: Hidden width of the MLP, in multiples of C.

    Shapes:
        x: ``(B, H, W, C)``; scale: a draw of ``drop_path_scale``, or None; returns ``(B, H, W, C)``.
    """

    def __init__(self, channels: int, kernel_size: int, expansion: int = 4) -> None:
        super().__init__()
        self.dwconv = ChannelsLastConv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.pwconv1 = Linear(channels, expansion * channels)
        self.pwconv2 = Linear(expansion * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        y = self.norm(self.dwconv(x))
        # gamma multiplies the small weight instead of the large map: less arithmetic, one map less kept for backward.
        weight, bias = self.gamma[:, None] * self.pwconv2.weight, self.gamma * self.pwconv2.bias

        def mlp(pixels: Tensor) -> Tensor:
            return linear(F.gelu(self.pwconv1(pixels)), weight, bias)

        if x.is_cpu and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # A few pixels at a time, (n, C): the wider hidden map never leaves the processor's cache.
            parts = [mlp(pixels) for pixels in y.flatten(0, 2).split(max(1, CACHED_VALUES // y.shape[-1]))]
            branch = torch.cat(parts).view(y.shape)
        else:
            branch = mlp(y)
        return x + branch if scale is None else torch.addcmul(x, branch, scale.to(x.dtype))


class Upsample(nn.Module):
    """A coarser level of the previous column, brought to this level's width and size (nearest)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.channel_reschedule = nn.Sequential(
            Linear(in_channels, out_channels), nn.LayerNorm(out_channels, eps=NORM_EPS)
        )

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        x = self.channel_reschedule(x).permute(0, 3, 1, 2)
        return F.interpolate(x, size=tuple(size), mode="nearest").permute(0, 2, 3, 1)


class Fusion(nn.Module):
    """Input of a level: the finer level of this column plus coarser levels of the previous one.

    Args:
        channels: Widths of the four levels.
        level: Which level this is.
        sources: Levels of the previous column that are added; the first through ``up``, the second through ``up2``.
    """

    def __init__(self, channels: Sequence[int], level: int, sources: Sequence[int]) -> None:
        super().__init__()
        width = channels[level]
        if level > 0:
            self.down = nn.Sequential(
                ChannelsLastConv2d(channels[level - 1], width, kernel_size=2, stride=2),
                nn.LayerNorm(width, eps=NORM_EPS),
            )
        else:
            self.down = nn.Identity()  # the stem already has this level's width and size
        for name, source in zip(UP_NAMES[: len(sources)], sources, strict=True):
            self.add_module(name, Upsample(channels[source], width))

    def forward(self, down: Tensor, *ups: Tensor) -> Tensor:
        x = self.down(down)
        for name, up in zip(UP_NAMES[: len(ups)], ups, strict=True):
            x = x + getattr(self, name)(up, x.shape[1:3])
        return x


class Level(nn.Module):
    """F_l of a column: fusion, then blocks, the way ``backbones.reversible`` runs them."""

    def __init__(
        self, channels: Sequence[int], level: int, depth: int, kernel_size: int, sources: Sequence[int]
    ) -> None:
        super().__init__()
        self.fusion = Fusion(channels, level, sources)
        self.blocks = nn.ModuleList(ConvNeXtBlock(channels[level], kernel_size) for _ in range(depth))

    def forward(self, scales: Sequence[Tensor | None], down: Tensor, *ups: Tensor, run: Run = call) -> Tensor:
        return run(self.branch, scales, down, *ups)

    def branch(self, scales: Sequence[Tensor | None], down: Tensor, *ups: Tensor) -> Tensor:
        """F_l itself."""
        x = self.fusion(down, *ups)
        for i, block in enumerate(self.blocks):
            x = block(x, scales[i])
        return x


class Column(nn.Module):
    """Four levels and their shortcuts; keeps the protocol that ``backbones.reversible`` asks for.

    Attributes:
        sources: For each level, the coarser levels of the previous column that feed it.
    """

    def __init__(
        self, channels: Sequence[int], depths: Sequence[int], kernel_size: int, top_link: bool, first: bool
    ) -> None:
        super().__init__()
        self.sources: list[tuple[int, ...]] = [()] * LEVELS
        if not first:
            self.sources = [(1, 3) if top_link else (1,), (2,), (3,), ()]
        for l in range(LEVELS):
            self.register_parameter(f"alpha{l}", nn.Parameter(torch.full((1, channels[l], 1, 1), INITIAL_SHORTCUT)))
            self.add_module(f"level{l}", Level(channels, l, depths[l], kernel_size, self.sources[l]))

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
        return [(alpha if self.training else _clamped(alpha)).flatten() for alpha in self.alphas]

    def clamp_shortcuts(self) -> None:
        """Moves the shortcut scales away from zero, in place; part of a training step.

        The official code does so before every forward. In evaluation ``shortcuts`` gives the same values and
        changes nothing.
        """
        for alpha in self.alphas:
            # .data: an earlier forward's graph may hold alpha, and this changes no value that it has read.
            alpha.data.copy_(_clamped(alpha).detach())


def _clamped(alpha: Tensor) -> Tensor:
    return torch.where(alpha < 0, alpha.clamp(max=-MIN_SHORTCUT), alpha.clamp(min=MIN_SHORTCUT))


@MODELS.register_module()
class RevCol(DenseBackbone):
    """Reversible column network: columns refine four levels, and the last column's levels are returned.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, ``'large'``, ``'xlarge'``, ``'huge'``, ``'nano'``, or a dict with
            ``channels`` and ``depths`` (four each, finest first), ``num_columns``, and optionally ``kernel_size`` (odd,
            default 3) and ``top_link`` (default False; the coarsest level of the previous column also feeds the finest
            one).
        out_indices: Which of the four levels to return, increasing; negative ones count from the last. Parameters that
            the chosen levels do not depend on are frozen, so that data-parallel training does not wait for them.
        frozen_stages: -1 trains everything, 0 freezes the stem, ``n`` also the first ``n`` columns.
        norm_eval: Part of the common contract; there is no batch norm here.
        drop_path_rate: Largest chance, in [0, 1), of skipping a residual branch; rises linearly over the blocks of a
            column, the same in every column.
        reversible: Rebuild activations in backward instead of storing them. Same outputs and same gradients.
        keep_every: With ``reversible``, keep the maps of every k-th column and recover those between by undoing
            columns. 1 undoes nothing and is exact up to float rounding. Larger values save one set of maps per column
            at the price of rounding errors that grow with each column undone; ``'auto'`` chooses the largest k whose
            predicted gradient error stays below ``backbones.reversible.AUTO_BOUND``, from the shortcut scales and
            the precision in use. Under ``torch.compile`` k is 1.
        init_cfg: mmengine's initialisation config; official RevCol files load as they are, also into a larger
            ``kernel_size``, to which their kernels are padded with zeros.

    Shapes:
        x: ``(B, 3, H, W)``, float, H and W at least 32 and otherwise free.
        returns: tuple of contiguous ``(B, channels[i], H_i, W_i)`` for ``i`` in ``out_indices``; ``strides`` are 4, 8,
            16, 32 input pixels, sizes are halved rounding down (75 x 101 gives 18 x 25, 9 x 12, 4 x 6, 2 x 3).

    Raises:
        ValueError: for an unknown ``arch``, ``out_indices``, ``frozen_stages``, ``drop_path_rate`` or ``keep_every``
            out of range, or an input that is no such batch.

    Source: arXiv:2212.11696, "Multi-level reversible unit" and "Reversible column architecture".

    Examples:
        >>> [tuple(f.shape) for f in RevCol("tiny")(torch.zeros(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 256, 4, 6), (1, 512, 2, 3)]
    """

    archs = REVCOL_ARCHS
    arch_defaults = dict(kernel_size=3, top_link=False)
    classifier_keys = ("cls.", "cls_blocks.", "decoder_blocks.")
    undecayed = ("alpha",)

    def __init__(
        self,
        arch: str | dict[str, Any] = "tiny",
        *,
        drop_path_rate: float = 0.0,
        reversible: bool = False,
        keep_every: int | str = 1,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(
            frozen_stages=frozen_stages, norm_eval=norm_eval, drop_path_rate=drop_path_rate, init_cfg=init_cfg
        )
        check_flag("reversible", reversible)
        if keep_every != "auto" and not is_whole(keep_every):
            raise ValueError(f"keep_every is {keep_every!r}; it must be an integer of at least 1, or 'auto'")
        settings = self.parse_arch(arch)
        channels, depths = settings["channels"], settings["depths"]
        if not (are_wholes(channels, LEVELS) and are_wholes(depths, LEVELS) and is_whole(settings["num_columns"])):
            raise ValueError(
                f"channels {channels}, depths {depths}, num_columns {settings['num_columns']}: "
                f"RevCol has {LEVELS} levels, each with at least one block, and at least one column"
            )
        if not is_whole(settings["kernel_size"]) or settings["kernel_size"] % 2 == 0:
            raise ValueError(f"kernel_size is {settings['kernel_size']!r}; it must be odd")
        check_flag("top_link", settings["top_link"])

        self.channels = channels = tuple(channels)
        self.depths = depths = tuple(depths)
        self.num_columns = settings["num_columns"]
        self.kernel_size = settings["kernel_size"]
        self.reversible = reversible
        self.keep_every = keep_every
        self.stem = nn.Sequential(
            ChannelsLastConv2d(3, channels[0], kernel_size=4, stride=4), nn.LayerNorm(channels[0], eps=NORM_EPS)
        )
        for i in range(self.num_columns):
            column = Column(channels, depths, settings["kernel_size"], settings["top_link"], first=i == 0)
            self.add_module(f"subnet{i}", column)
        self.apply(init_weights)
        self._set_levels(channels, (4, 8, 16, 32), out_indices)
        self._freeze()
        self._freeze_unused_levels(settings["top_link"])

    @property
    def columns(self) -> list[Column]:
        return [getattr(self, f"subnet{i}") for i in range(self.num_columns)]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        feats, _ = self._run(x)
        # Contiguous, since RoIAlign and other mmcv operators read the memory as NCHW and ignore strides.
        return tuple(feats[i].permute(0, 3, 1, 2).contiguous() for i in self.out_indices)

    def coarsest_maps(self, x: Tensor, columns: Sequence[int]) -> list[Tensor]:
        """The coarsest level of some columns, for classifiers.

        Args:
            x: Images, as in ``forward``.
            columns: Indices of columns, increasing.

        Returns:
            For each, ``(B, C_3, H / 32, W / 32)``.
        """
        return [feat.permute(0, 3, 1, 2) for feat in self._run(x, columns)[1]]

    def _run(self, x: Tensor, wanted: Sequence[int] = ()) -> tuple[list[Tensor], list[Tensor]]:
        self.check_input(x)
        stem = self.stem(x.permute(0, 2, 3, 1))
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
            branch_scales=[self._draw_drop_path(stem) for _ in self.columns],
            reversible=reversible,
            keep_every=keep_every,
            wanted=wanted,
        )

    def _draw_drop_path(self, stem: Tensor) -> list[list[Tensor | None]]:
        """Drop-path factors of one column in this forward, by level and block."""
        if not self.training or self.drop_path_rate == 0:
            return [[None] * depth for depth in self.depths]
        rates = iter(drop_path_rates(self.drop_path_rate, sum(self.depths)))
        return [[drop_path_scale(stem, next(rates)) for _ in range(depth)] for depth in self.depths]

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
        return {"stem": [self.stem], **columns}

    def units(self) -> list[nn.Module]:
        return [level for column in self.columns for level in column.levels]

    def _freeze_unused_levels(self, top_link: bool) -> None:
        for i, column in enumerate(self.columns):
            columns_after = self.num_columns - 1 - i
            # A level reaches one level finer with each column after it; the finest at once through the top link.
            reach = LEVELS - 1 if top_link and columns_after else self.out_indices[-1] + columns_after
            for l in range(reach + 1, LEVELS):
                column.levels[l].requires_grad_(False)
                column.alphas[l].requires_grad_(False)

    def adapt_weights(self, weights: dict[str, Tensor]) -> list[str]:
        """Zero-pads smaller depthwise kernels, which computes the same; so the authors enlarged RevCol-H's to 7x7."""
        kernels = {name: weights[name] for name in self.state_dict().keys() & weights if name.endswith("dwconv.weight")}
        sizes = sorted({kernel.shape[-1] for kernel in kernels.values()} - {self.kernel_size})
        if not sizes:
            return []
        size = sizes[-1]
        if size > self.kernel_size or size % 2 == 0:
            raise CheckpointError(
                f"its depthwise kernels are {size}x{size}, but kernel_size is {self.kernel_size}, and only smaller odd "
                f"kernels can be padded to it; pass arch=dict(..., kernel_size={size})"
            )
        for name, kernel in kernels.items():
            weights[name] = F.pad(kernel, ((self.kernel_size - kernel.shape[-1]) // 2,) * 4)
        return [f"depthwise kernels zero-padded from {size}x{size} to {self.kernel_size}x{self.kernel_size}"]

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Official rule: the stem is 0, a block 1 + its column + its number within the column, over all levels."""
        num_depths = sum(self.depths) + self.num_columns + 1
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix) or not name.startswith(("stem.", "subnet")):
            return num_depths - 1, num_depths
        if name.startswith("stem."):
            return 0, num_depths
        subnet, part, *rest = name.split(".")
        column = int(subnet.removeprefix("subnet"))
        if part.startswith("alpha"):
            return 1 + column, num_depths
        block = sum(self.depths[: int(part.removeprefix("level"))])
        if rest[0] == "blocks":  # the fusion counts with its level's first block
            block += int(rest[1])
        return 1 + column + block, num_depths


def init_weights(module: nn.Module) -> None:
    """Initialises as the official code, except that biases of convolutions keep torch's small random values.

    With zero biases the padding of an image stays exactly zero up to the norms, each of which then multiplies its
    gradient by 1 / sqrt(eps) = 1000. Several in a row overflow half precision.
    """
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
