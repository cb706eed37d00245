"""Feature pyramids for transformers that have one resolution: stride 16 in, strides 4, 8, 16, 32 out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from .checks import are_wholes
from .layers import LayerNorm2d, ceil_div, crop, exporting, padding

MODELS.register_module(module=LayerNorm2d)  # norm_cfg=dict(type="LayerNorm2d") of ViTDet's heads


class Pyramid(nn.Module):
    """Independent levels, each made from one map.

    Args:
        levels: Name and module of each level, finest first. Names are those of published weights.
        channels: Channels of each level.
        strides: Stride of each level, in input pixels.
        in_stride: Stride of the block outputs it takes.
    """

    def __init__(
        self,
        levels: Mapping[str, nn.Module],
        channels: Sequence[int],
        strides: Sequence[int],
        in_stride: int = 16,
    ) -> None:
        super().__init__()
        for name, level in levels.items():
            self.add_module(name, level)
        self.channels = tuple(channels)
        self.strides = tuple(strides)
        self.in_stride = in_stride

    @property
    def levels(self) -> list[nn.Module]:
        return list(self.children())

    def levels_for(self, indices: Sequence[int]) -> list[nn.Module]:
        """The modules that the levels ``indices`` need."""
        return [self.levels[i] for i in indices]

    def freeze_unused(self, indices: Sequence[int]) -> None:
        """Freezes the modules that the levels ``indices`` do not need."""
        used = self.levels_for(indices)
        for level in self.levels:
            if level not in used:
                level.requires_grad_(False)

    def forward(self, maps: Sequence[Tensor], indices: Sequence[int]) -> Sequence[Tensor]:
        """Makes the levels ``indices``, each from its map ``(B, C, h, w)``."""
        return [self.levels[i](x) for i, x in zip(indices, maps, strict=True)]


def raw_pyramid(width: int, count: int, stride: int) -> Pyramid:
    """``count`` maps as they are, each of the same width and stride."""
    levels = {f"level{i}": nn.Identity() for i in range(count)}
    return Pyramid(levels, [width] * count, [stride] * count, in_stride=stride)


def tap_pyramid(width: int) -> Pyramid:
    """Four block outputs brought to four strides, finest from the earliest: BEiT's and MAE's segmentation models.

    Source: Bao et al., BEiT, arXiv:2106.08254, appendix; batch norm as there.
    """
    levels = {
        "fpn1": nn.Sequential(_double(width, width), nn.BatchNorm2d(width), nn.GELU(), _double(width, width)),
        "fpn2": nn.Sequential(_double(width, width)),
        "fpn3": nn.Identity(),
        "fpn4": _Half(),
    }
    return Pyramid(levels, channels=[width] * 4, strides=(4, 8, 16, 32))


@MODELS.register_module()
class SimpleFeaturePyramid(Pyramid):
    """ViTDet's pyramid: every level from the same stride-16 map, no top-down path.

    Serves as the ``pyramid`` of a backbone, and as a neck behind any backbone whose last map has stride 16.

    Args:
        in_channels: Channels of the stride-16 map, divisible by 4.
        out_channels: Channels of every level.
        num_outs: 4, or 5 with a level of stride 64: every second pixel of the fourth.

    Shapes:
        maps: ``(B, in_channels, h, w)``, or a sequence whose last entry is that.
        returns: ``num_outs`` maps (tuple), ``(B, out_channels, 4h, 4w)``, ``2h``, ``h``, ``ceil(h / 2)``
        [, ``ceil(h / 4)``].

    Raises:
        ValueError: for other numbers of levels or channels.

    Source: Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection", arXiv:2203.16527, section 3.
    """

    def __init__(self, in_channels: int, out_channels: int = 256, num_outs: int = 4) -> None:
        if num_outs not in (4, 5):
            raise ValueError(f"num_outs is {num_outs}; SimpleFeaturePyramid has 4 levels, or 5 with stride 64")
        if not are_wholes((in_channels, out_channels)) or in_channels % 4:
            raise ValueError(
                f"in_channels is {in_channels} and out_channels {out_channels}; both must be positive and in_channels "
                "a multiple of 4 (the finest level halves the channels twice)"
            )
        half, quarter = in_channels // 2, in_channels // 4
        layers: list[tuple[list[nn.Module], int]] = [
            ([_double(in_channels, half), LayerNorm2d(half), nn.GELU(), _double(half, quarter)], quarter),
            ([_double(in_channels, half)], half),
            ([], in_channels),
            ([_Half()], in_channels),
        ]
        levels: dict[str, nn.Module] = {
            f"simfp_{i}": nn.Sequential(
                *resample, ConvNorm(width, out_channels, 1), ConvNorm(out_channels, out_channels, 3)
            )
            for i, (resample, width) in enumerate(layers, start=2)
        }
        strides = (4, 8, 16, 32, 64)[:num_outs]
        super().__init__(levels, [out_channels] * num_outs, strides)

    def levels_for(self, indices: Sequence[int]) -> list[nn.Module]:
        return super().levels_for([min(i, 3) for i in indices])  # stride 64 is made from stride 32

    def forward(self, maps: Tensor | Sequence[Tensor], indices: Sequence[int] | None = None) -> Sequence[Tensor]:
        x = maps if isinstance(maps, Tensor) else maps[-1]
        indices = range(len(self.strides)) if indices is None else indices
        return self.make([x] * len(indices), indices)

    def make(self, maps: Sequence[Tensor], indices: Sequence[int]) -> tuple[Tensor, ...]:
        """The levels ``indices``, each from its map; stride 64 comes from stride 32."""
        sources = {min(i, 3): x for i, x in zip(indices, maps, strict=True)}
        feats = dict(zip(sources, super().forward(list(sources.values()), list(sources)), strict=True))
        # Contiguous, since as a neck its maps go straight to RoIAlign, which reads the memory as NCHW.
        return tuple((_every_second(feats[3]) if i == 4 else feats[i]).contiguous() for i in indices)


@MODELS.register_module()
class LevelPyramid(SimpleFeaturePyramid):
    """``SimpleFeaturePyramid`` with a map for each level, of stride 16 as well: ``RevColViT``'s, from its four levels.

    Args:
        in_channels: As in ``SimpleFeaturePyramid``, like the others.

    Shapes:
        maps: One ``(B, in_channels, h, w)`` for each of ``indices``.
        returns: As ``SimpleFeaturePyramid``.
    """

    def forward(self, maps: Sequence[Tensor], indices: Sequence[int]) -> Sequence[Tensor]:  # type: ignore[override]
        return self.make(maps, indices)


def build_pyramid(pyramid: Any, in_channels: int, wanted: str) -> Pyramid:
    """The pyramid of a config, or for ``'simple'`` ViTDet's with its defaults.

    Args:
        pyramid: As a backbone was given it.
        in_channels: Channels of the stride-16 map.
        wanted: The backbone's values of ``pyramid``, for the errors.

    Raises:
        ValueError: for a config that builds no pyramid.
    """
    cfg = dict(type="SimpleFeaturePyramid") if pyramid == "simple" else pyramid
    if not isinstance(cfg, Mapping) or "type" not in cfg:
        raise ValueError(f"pyramid is {pyramid!r}; it must be {wanted}")
    try:
        module = MODELS.build({"in_channels": in_channels, **cfg})
    except Exception as error:  # an unknown type, or arguments that it does not take
        raise ValueError(f"pyramid is {pyramid!r}; it must be {wanted}. {error}") from error
    if not isinstance(module, Pyramid):
        raise ValueError(f"pyramid is a {type(module).__name__}, which is a neck; it must be {wanted}")
    return module


class ConvNorm(nn.Conv2d):
    """Convolution without bias, size kept, followed by a layer norm over channels (keys as in detectron2)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = LayerNorm2d(out_channels)

    def forward(self, input: Tensor) -> Tensor:
        return self.norm(super().forward(input))


def _double(in_channels: int, out_channels: int) -> nn.Module:
    return nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)


def _every_second(x: Tensor) -> Tensor:
    return crop(x, 2, (x.shape[2], x.shape[3]), step=2)


class _Half(nn.Module):
    """Maxima of 2 x 2 cells; odd grids keep their last row and column."""

    def forward(self, x: Tensor) -> Tensor:
        if exporting():  # whose symbols know no rounding up
            rows, columns = (padding(n, 2) for n in x.shape[2:])
            return F.max_pool2d(F.pad(x, (0, columns, 0, rows), value=float("-inf")), 2)
        return F.max_pool2d(x, 2, ceil_mode=True)


def cut_levels(feats: Sequence[Tensor], size: tuple[int, int], strides: Sequence[int]) -> tuple[Tensor, ...]:
    """Cuts what an image's padding to whole patches added; contiguous.

    RoIAlign and other mmcv operators read the memory as NCHW and ignore strides.

    Args:
        feats: Levels of the padded image.
        size: (height, width) of the image, in pixels.
        strides: Of each level, in input pixels.

    Returns:
        For each level ``(B, C, ceil(height / stride), ceil(width / stride))``.
    """
    return tuple(
        crop(feat, 2, (ceil_div(size[0], stride), ceil_div(size[1], stride))).contiguous()
        for feat, stride in zip(feats, strides, strict=True)
    )


def to_stride(x: Tensor, stride: int, wanted: int, size: tuple[int, int]) -> Tensor:
    """Resamples a map to another stride, bilinearly, every value staying where it lies in the image.

    Args:
        x: ``(B, C, h, w)``, whose first value is the centre of the image's first ``stride`` x ``stride`` pixels.
        stride: Of ``x``, in input pixels.
        wanted: Stride of the result.
        size: (height, width) of the image, in pixels.

    Returns:
        ``(B, C, ceil(height / wanted), ceil(width / wanted))``.
    """
    if stride == wanted:
        return x
    ys, xs = (
        # centres of the new cells, in [-1, 1] over the extent of the old ones
        (2 * torch.arange(ceil_div(pixels, wanted), device=x.device, dtype=torch.float32) + 1)
        * wanted
        / (cells * stride)
        - 1
        for pixels, cells in zip(size, x.shape[2:], strict=True)
    )
    places = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1).to(x.dtype)
    places = places.expand(x.shape[0], -1, -1, -1)
    return F.grid_sample(x, places, mode="bilinear", padding_mode="border", align_corners=False)
