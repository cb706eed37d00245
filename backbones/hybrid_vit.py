"""Hybrid ViT: a ResNet makes the map that a vision transformer reads (Dosovitskiy et al., arXiv:2010.11929).

The ResNet is that of BiT (Kolesnikov et al., arXiv:1912.11370) with the activations behind the normalisations: group
norms, standardised weights, and padding that depends on the actual size of the map ("SAME"), so that every stride-2
layer maps a length n to ceil(n / 2). Names and numbers are those of timm, which distributes the weights for PyTorch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from .base import Part
from .checks import are_wholes, is_whole
from .dense_transformer import DenseTransformer
from .layers import padding
from .pyramid import Pyramid
from .trunk import Trunk

CONV_EPS = 1e-8  # added to the variance of weights, as in timm; the original code adds 1e-5 to the deviation
NORM_EPS = 1e-5
NUM_GROUPS = 32
BOTTLENECK = 4  # output channels of a block, in multiples of its inner ones


def pad_same(x: Tensor, kernel_size: int, stride: int, value: float = 0.0) -> Tensor:
    """Pads ``(B, C, H, W)`` so that a layer without padding returns ``ceil(H / stride)`` by ``ceil(W / stride)``.

    Bottom and right get the odd pixel, as in TensorFlow and JAX. For even lengths a symmetric padding would shift the
    map by a pixel.
    """
    if kernel_size == 1:
        return x
    totals = [kernel_size - stride + padding(n, stride) for n in x.shape[2:]]
    top, left = (total // 2 for total in totals)
    return F.pad(x, (left, totals[1] - left, top, totals[0] - top), value=value)


class StandardizedConv2d(nn.Conv2d):
    """Convolution without bias, weights standardised per output channel, padding "SAME".

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the kernel, odd.
        stride: 1 or more.
    Shapes:
        x: ``(B, in_channels, H, W)``; returns ``(B, out_channels, ceil(H / stride), ceil(W / stride))``.

    Source: Qiao et al., arXiv:1903.10520.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        padding = kernel_size // 2 if stride == 1 else 0  # with a stride it depends on the input
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False)

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, input: Tensor) -> Tensor:
        if self.stride[0] > 1:
            input = pad_same(input, self.kernel_size[0], self.stride[0])
        weight = F.layer_norm(self.weight, self.weight.shape[1:], eps=CONV_EPS)  # over (in, kh, kw), biased variance
        return F.conv2d(input, weight, stride=self.stride, padding=self.padding)


def _conv_norm(in_channels: int, out_channels: int, kernel_size: int, stride: int) -> nn.Sequential:
    conv = StandardizedConv2d(in_channels, out_channels, kernel_size, stride)
    return nn.Sequential(OrderedDict(conv=conv, norm=_group_norm(out_channels)))


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(NUM_GROUPS, channels, NORM_EPS)


class Bottleneck(nn.Module):
    """Residual block 1 x 1, 3 x 3, 1 x 1 with the stride on the 3 x 3 convolution and the last ReLU after the sum.

    The shortcut is a convolution too if ``first``, in the first block of a stage.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, first: bool) -> None:
        super().__init__()
        inner = out_channels // BOTTLENECK
        self.downsample = _conv_norm(in_channels, out_channels, 1, stride) if first else None
        self.conv1 = StandardizedConv2d(in_channels, inner, 1)
        self.norm1 = _group_norm(inner)
        self.conv2 = StandardizedConv2d(inner, inner, 3, stride)
        self.norm2 = _group_norm(inner)
        self.conv3 = StandardizedConv2d(inner, out_channels, 1)
        self.norm3 = _group_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.norm1(self.conv1(x)), inplace=True)
        x = F.relu(self.norm2(self.conv2(x)), inplace=True)
        return F.relu(self.norm3(self.conv3(x)) + shortcut, inplace=True)


class ResNet(nn.Module):
    """Stem of stride 4, then stages of bottlenecks, each after the first halving the resolution.

    Shapes:
        x: ``(B, 3, H, W)``; returns the list of the stages' outputs, ``(B, channels[s], ceil(H / n), ceil(W / n))``
        with n = 4, 8, 16, ...
    """

    def __init__(self, depths: Sequence[int], channels: Sequence[int], stem_channels: int) -> None:
        super().__init__()
        self.stem = _conv_norm(3, stem_channels, 7, 2)
        self.stages = nn.ModuleList()
        widths = pairwise((stem_channels, *channels))
        for s, (depth, (in_channels, out_channels)) in enumerate(zip(depths, widths, strict=True)):
            blocks = [
                Bottleneck(
                    out_channels if j else in_channels,
                    out_channels,
                    stride=2 if s > 0 and j == 0 else 1,
                    first=j == 0,
                )
                for j in range(depth)
            ]
            self.stages.append(nn.Sequential(OrderedDict(blocks=nn.Sequential(*blocks))))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu(self._stem(x), inplace=True)
        x = F.max_pool2d(pad_same(x, 3, 2, value=float("-inf")), 3, stride=2)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def _stem(self, x: Tensor) -> Tensor:
        """The stem, in float32 under autocast.

        Its convolution sums 147 pixels with weights of variance 1. In half precision pixels of 6000 would overflow; the
        norm behind it makes any sum small again.
        """
        if x.is_meta or not torch.is_autocast_enabled(x.device.type):  # the meta device has no autocast
            return self.stem(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.stem(x.float())


class HybridEmbed(nn.Module):
    """ResNet, then one token per pixel of its last map.

    Shapes:
        x: ``(B, 3, H, W)``; returns the maps of the ResNet's stages, and the patches ``(B, C, h, w)``.
    """

    def __init__(self, backbone: ResNet, in_channels: int, embed_dims: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.proj = nn.Conv2d(in_channels, embed_dims, 1)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        maps = self.backbone(x)
        return maps, self.proj(maps[-1])


_R26 = dict(stage_depths=(2, 2, 2, 2), stage_channels=(256, 512, 1024, 2048))
_R50 = dict(stage_depths=(3, 4, 6, 3), stage_channels=(256, 512, 1024, 2048))
_R50_16 = dict(stage_depths=(3, 4, 9), stage_channels=(256, 512, 1024))  # the fourth stage's blocks are in the third
HYBRID_ARCHS: dict[str, dict[str, Any]] = {  # parameters with 1000 classes at 224 pixels, in millions
    "r26-small-32": dict(embed_dims=384, depth=12, num_heads=6, **_R26),  # 36.43
    "r50-base": dict(embed_dims=768, depth=12, num_heads=12, **_R50_16),  # 98.66
    "r50-large-32": dict(embed_dims=1024, depth=24, num_heads=16, **_R50),  # 328.99
}


@MODELS.register_module()
class HybridViTTrunk(Trunk):
    """ResNet and vision transformer in a row.

    Arguments and shapes are those of ``backbones.trunk.Trunk``, but for ``arch``: a preset name, or a dict with
    ``embed_dims``, ``depth``, ``num_heads``, ``mlp_ratio`` (4), ``stage_depths`` and ``stage_channels`` (three stages
    give tokens of stride 16, four of stride 32; channels are multiples of 128) and ``stem_channels`` (64, a multiple of
    32). The image is not padded to whole patches: the ResNet takes any size.

    ``frozen_stages`` counts the ResNet's stem, its stages, the embedding (projection, tokens and positions), and the
    blocks.

    Source: Dosovitskiy et al., arXiv:2010.11929, section 3.1.
    """

    archs = HYBRID_ARCHS
    arch_defaults = dict(mlp_ratio=4, stem_channels=64)
    default_arch = "r50-base"
    published_layout = ("", "")  # timm's
    pixel_mean = pixel_std = (127.5, 127.5, 127.5)
    patch_embed: HybridEmbed

    def patch_stride(self, settings: Mapping[str, Any]) -> int:
        depths, channels, stem = (settings[key] for key in ("stage_depths", "stage_channels", "stem_channels"))
        if not (are_wholes(depths) and are_wholes(channels) and 3 <= len(depths) <= 4 and len(channels) == len(depths)):
            raise ValueError(
                f"stage_depths is {depths} and stage_channels {channels}; both must have three entries (tokens of "
                "stride 16) or four (stride 32), and each stage at least one block"
            )
        if not is_whole(stem) or stem % NUM_GROUPS or any(width % (NUM_GROUPS * BOTTLENECK) for width in channels):
            raise ValueError(
                f"stem_channels is {stem} and stage_channels {channels}; they must be multiples of {NUM_GROUPS} and "
                f"{NUM_GROUPS * BOTTLENECK}, for {NUM_GROUPS} groups of channels in every norm"
            )
        return 2 ** (len(depths) + 1)

    def make_patch_embed(self, settings: Mapping[str, Any]) -> nn.Module:
        channels = settings["stage_channels"]
        resnet = ResNet(settings["stage_depths"], channels, settings["stem_channels"])
        return HybridEmbed(resnet, channels[-1], self.embed_dims)

    def embed(self, x: Tensor, names: Collection[str] = ()) -> tuple[dict[str, Tensor], Tensor]:
        maps, patches = self.patch_embed(x)
        # Maps that are not asked for are freed while the blocks run.
        return {name: x for i, x in enumerate(maps) if (name := f"stage{i}") in names}, patches

    def stages(self) -> dict[str, list[Part]]:
        (_, *tokens), *_ = (trunk := super().stages()).values()
        resnet = self.patch_embed.backbone
        stages: dict[str, list[Part]] = {f"stage{i}": [stage] for i, stage in enumerate(resnet.stages)}
        blocks = {name: parts for name, parts in trunk.items() if name != "stem"}
        return {"stem": [resnet.stem], **stages, "embedding": [self.patch_embed.proj, *tokens], **blocks}


@MODELS.register_module()
class HybridViT(DenseTransformer, HybridViTTrunk):
    """``HybridViTTrunk`` with levels from the maps of both.

    Args:
        arch: As in ``HybridViTTrunk``.
        pyramid: ``'taps'``: with tokens of stride 16 the first two stages of the ResNet, a block at three quarters of
            the depth, and the last one through a learned 3 x 3 convolution of stride 2 (DPT's choice); with tokens of
            stride 32 the first three stages and the last block. ``taps`` then has two blocks at stride 16, one at
            stride 32. ``'simple'``, a dict or None as in ``backbones.dense_transformer.DenseTransformer``.
        kwargs: As in ``backbones.dense_transformer.DenseTransformer``.

    Source: Ranftl et al. (DPT), arXiv:2103.13413, section 3.1, readout "ignore".
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] | None = None,
        *,
        pyramid: str | Mapping[str, Any] | None = "taps",
        **kwargs: Any,
    ) -> None:
        super().__init__(arch, pyramid=pyramid, **kwargs)

    def make_pyramid(
        self, pyramid: str | Mapping[str, Any] | None, taps: Sequence[int] | None
    ) -> tuple[Pyramid, list[str]]:
        if pyramid != "taps":
            return super().make_pyramid(pyramid, taps)
        width, last = self.embed_dims, self.depth - 1
        if self.stride == 16:
            blocks = self._check_taps((self.depth * 3 // 4 - 1, last) if taps is None else taps, 2)
            coarsest: nn.Module = nn.Conv2d(width, width, 3, stride=2, padding=1)
        else:
            blocks = self._check_taps((last,) if taps is None else taps, 1)
            coarsest = nn.Identity()
        num_stages = 4 - len(blocks)
        channels = (*self.arch["stage_channels"][:num_stages], *[width] * len(blocks))
        levels = {f"level{i}": nn.Identity() for i in range(3)} | {"level3": coarsest}
        sources = [*(f"stage{i}" for i in range(num_stages)), *(f"block{i}" for i in blocks)]
        return Pyramid(levels, channels, (4, 8, 16, 32), in_stride=self.stride), sources
