"""RevCol: reversible column networks (Cai et al., ICLR 2023, arXiv:2212.11696).

Several columns refine the same four feature levels (``backbones.columns`` has the equation); level 0 is the finest,
stride 4.

Reproduced: the backbone of the classification models T to H and of the detection and segmentation models. Coarse maps
are resized to the finer map's size, as the official segmentation code does, so that any image size works; for multiples
of 32 this is the factor 2 of the other two. Parameter names are the official ones. Inside, maps are ``(B, H, W, C)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from .base import DenseBackbone
from .checkpoints import CheckpointError
from .checks import check_flag, is_whole
from .columns import ColumnNetwork, Level
from .layers import ChannelsLastConv2d, Linear, linear

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
        plain = isinstance(self.pwconv2, nn.Linear)  # otherwise wrapped, as by LoRA, and more than its weight

        def mlp(pixels: Tensor) -> Tensor:
            hidden = F.gelu(self.pwconv1(pixels))
            return linear(hidden, weight, bias) if plain else self.gamma * self.pwconv2(hidden)

        if x.is_cpu and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # A few pixels at a time, (n, C): the wider hidden map never leaves the processor's cache.
            parts = [mlp(pixels) for pixels in y.flatten(0, 2).split(max(1, CACHED_VALUES // y.shape[-1]))]
            branch = torch.cat(parts).view(y.shape)
        else:
            branch = mlp(y)
        return x + branch if scale is None else torch.addcmul(x, branch, scale.to(x.dtype))


class GivenBlock(nn.Module):
    """A block of anybody's, dropped as a whole: ``x + scale * (block(x) - x)``.

    Args:
        block: Config of a module of mmengine's registry, built with ``channels`` beside its own arguments. It maps
            ``(B, H, W, C)`` to the same shape, for any H and W.
        channels: C.

    Shapes:
        As of ``ConvNeXtBlock``.

    Raises:
        ValueError: for a config that builds no module; in forward, for a block that changes the shape.
    """

    def __init__(self, block: Mapping[str, Any], channels: int) -> None:
        super().__init__()
        wanted = (
            f"block is {block!r}; it must be the config of a registered module that takes channels, such as "
            "dict(type='MyBlock', expansion=2), or None for ConvNeXt's"
        )
        if not isinstance(block, Mapping) or "type" not in block:
            raise ValueError(wanted)
        try:
            self.block = MODELS.build({**block, "channels": channels})
        except Exception as error:  # an unknown type, or arguments that it does not take
            raise ValueError(f"{wanted}. {error}") from error

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        y = self.block(x)
        if y.shape != x.shape:
            raise ValueError(
                f"{type(self.block).__name__} returned {tuple(y.shape)} for {tuple(x.shape)}; a block of RevCol maps "
                "(B, H, W, C) to the same shape"
            )
        return y if scale is None else torch.addcmul(x, y - x, scale.to(x.dtype))


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


@MODELS.register_module()
class RevCol(DenseBackbone, ColumnNetwork):
    """Reversible column network: columns refine four levels, and the last column's levels are returned.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, ``'large'``, ``'xlarge'``, ``'huge'``, ``'nano'``, or a dict with
            ``channels`` and ``depths`` (four each, finest first), ``num_columns``, and optionally ``kernel_size`` (odd,
            default 3), ``top_link`` (default False; the coarsest level of the previous column also feeds the finest
            one), and ``block``, the config of a registered module to take in place of ConvNeXt's blocks: it is built
            with ``channels`` and maps ``(B, H, W, C)`` to the same shape, drawing no random numbers.
        out_indices: Which of the four levels to return, increasing; negative ones count from the last. Parameters that
            the chosen levels do not depend on are frozen, so that data-parallel training does not wait for them.
        frozen_stages: -1 trains everything, 0 freezes the stem, ``n`` also the first ``n`` columns.
        norm_eval: Part of the common contract; there is no batch norm here.
        drop_path_rate: Largest chance, in [0, 1), of skipping a residual branch; rises linearly over the blocks of a
            column, the same in every column.
        reversible: As in ``backbones.columns.ColumnNetwork``, like ``keep_every``.
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
    arch_defaults = dict(kernel_size=3, top_link=False, block=None)
    classifier_keys = ("cls.", "cls_blocks.", "decoder_blocks.")

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
            reversible=reversible,
            keep_every=keep_every,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            drop_path_rate=drop_path_rate,
            init_cfg=init_cfg,
        )
        settings = self.parse_arch(arch)
        channels, depths, num_columns = (settings[key] for key in ("channels", "depths", "num_columns"))
        self._check_columns(channels, depths, num_columns)
        if not is_whole(settings["kernel_size"]) or settings["kernel_size"] % 2 == 0:
            raise ValueError(f"kernel_size is {settings['kernel_size']!r}; it must be odd")
        if settings["block"] is not None and settings["kernel_size"] != self.arch_defaults["kernel_size"]:
            raise ValueError(f"kernel_size is {settings['kernel_size']}, but block has arguments of its own")
        check_flag("top_link", settings["top_link"])
        self.kernel_size, self.block = settings["kernel_size"], settings["block"]
        self.stem = nn.Sequential(
            ChannelsLastConv2d(3, channels[0], kernel_size=4, stride=4), nn.LayerNorm(channels[0], eps=NORM_EPS)
        )

        def make_level(level: int, sources: Sequence[int]) -> Level:
            fusion = Fusion(channels, level, sources)
            return Level(fusion, (self.make_block(channels[level]) for _ in range(depths[level])))

        self._add_columns(channels, depths, num_columns, make_level, settings["top_link"])
        self._init_parameters()
        self._set_levels(channels, (4, 8, 16, 32), out_indices)
        self._freeze()
        self._freeze_unused_levels(self.out_indices[-1], settings["top_link"])

    def make_block(self, channels: int) -> nn.Module:
        """A block of a level with this width."""
        if self.block is None:
            return ConvNeXtBlock(channels, self.kernel_size)
        return GivenBlock(self.block, channels)

    def _init_parameters(self) -> None:
        given = {m for block in self.modules() if isinstance(block, GivenBlock) for m in block.modules()}
        for module in self.modules():
            if module not in given:
                init_weights(module)

    def embed(self, x: Tensor) -> Tensor:
        return self.stem(x.permute(0, 2, 3, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        feats = self.last_maps(x)
        # Contiguous, since RoIAlign and other mmcv operators read the memory as NCHW and ignore strides.
        return tuple(feats[i].contiguous() for i in self.out_indices)

    def adapt_weights(self, weights: dict[str, Tensor]) -> list[str]:
        """Zero-pads smaller depthwise kernels, which computes the same; so the authors enlarged RevCol-H's to 7x7."""
        if self.block is not None:
            return []
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


def init_weights(module: nn.Module) -> None:
    """Initialises as the official code, except that biases of convolutions keep torch's small random values.

    With zero biases the padding of an image stays exactly zero up to the norms, each of which then multiplies its
    gradient by 1 / sqrt(eps) = 1000. Several in a row overflow half precision.
    """
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
