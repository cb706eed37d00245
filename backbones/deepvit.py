"""DeepViT: re-attention keeps the maps of deep blocks apart (Zhou et al., arXiv:2103.11886)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from .checks import check_flag, is_number
from .dense_transformer import DenseTransformer
from .layers import Attention, re_attention
from .layers.attention import Bias, fold_bias
from .trunk import NORM_EPS, Block, PatchEmbed, Trunk


class ReAttention(Attention):
    """Attention whose maps are mixed over the heads and batch-normalised after the softmax (eq. 3 of the paper).

    The maps of all heads are needed at once, so fused attention does not apply; ``re_attention`` holds a few rows
    of them at a time.

    Args:
        embed_dims: C.
        num_heads: h.
        rel_pos_size: As in ``Attention``.
        transform_scale: Multiply the normalised maps with d^-0.5, as DeepViT-S does.
    """

    mixes_heads = True

    def __init__(
        self, embed_dims: int, num_heads: int, rel_pos_size: tuple[int, int] | None, transform_scale: bool
    ) -> None:
        super().__init__(embed_dims, num_heads, rel_pos_size)
        self.map_scale = (embed_dims // num_heads) ** -0.5 if transform_scale else 1.0
        self.reatten_matrix = nn.Conv2d(num_heads, num_heads, 1)
        self.var_norm = nn.BatchNorm2d(num_heads)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Bias | None = None) -> Tensor:
        q, k = fold_bias(q, k, scale, bias)
        matrix = self.reatten_matrix
        matrix_bias: Any = matrix.bias
        return re_attention(q, k, v, scale, matrix.weight, matrix_bias, self.var_norm, self.map_scale)


class ConvPatchEmbed(nn.Module):
    """Two convolutions at half resolution, then patches of their map: ``(B, 3, H, W)`` to ``(B, C, H / P, W / P)``."""

    def __init__(self, embed_dims: int, patch_size: int) -> None:
        super().__init__()
        if patch_size % 2:
            raise ValueError(f"patch_size is {patch_size}; with cnn_stem it must be even, as the stem's stride is 2")
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.proj = nn.Conv2d(64, embed_dims, patch_size // 2, stride=patch_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.proj(x)


def _last(transformed: int, depth: int) -> tuple[bool, ...]:
    return (False,) * (depth - transformed) + (True,) * transformed


_COMMON = dict(num_heads=12, mlp_ratio=3, patch_size=16)
_CNN = dict(cnn_stem=True, scale_adjustment=0.5)
DEEPVIT_ARCHS: dict[
    str, dict[str, Any]
] = {  # parameters of the classifier with 1000 classes at 224 pixels, in millions
    "16b": dict(embed_dims=384, depth=16, **_COMMON),  # 24.43
    "24b": dict(embed_dims=384, depth=24, **_COMMON),  # 36.26
    "32b": dict(embed_dims=384, depth=32, **_COMMON),  # 48.10
    "s": dict(embed_dims=396, depth=16, **_COMMON, **_CNN, apply_transform=_last(5, 16), transform_scale=True),  # 27.31
    "l": dict(embed_dims=420, depth=32, **_COMMON, **_CNN, apply_transform=_last(12, 32)),  # 58.88
}


@MODELS.register_module()
class DeepViTTrunk(Trunk):
    """DeepViT's blocks.

    A dict ``arch`` may also give ``apply_transform`` (for each block, whether it re-attends; None: all), ``cnn_stem``
    (convolutions before the patches), ``transform_scale`` (re-attended maps times d^-0.5) and ``scale_adjustment`` (r:
    every branch is multiplied with 1 / r). Other arguments and shapes are those of ``backbones.trunk.Trunk``.

    The batch norms inside the attention see all pairs of tokens, so their statistics change with the image size:
    fine-tune with ``norm_eval=True`` at other sizes than those of pre-training. In training mode they take the
    statistics of one process.

    Source: Zhou et al., "DeepViT: Towards Deeper Vision Transformer", arXiv:2103.11886; the official code's
    normalisation is a batch norm.
    """

    archs = DEEPVIT_ARCHS
    arch_defaults = dict(
        mlp_ratio=3, patch_size=16, apply_transform=None, cnn_stem=False, transform_scale=False, scale_adjustment=1.0
    )
    default_arch = "s"
    published_layout = ("state_dict", "")
    pixel_mean = pixel_std = (127.5, 127.5, 127.5)

    def make_patch_embed(self, settings: Mapping[str, Any]) -> nn.Module:
        check_flag("cnn_stem", settings["cnn_stem"])
        stem = ConvPatchEmbed if settings["cnn_stem"] else PatchEmbed
        return stem(self.embed_dims, settings["patch_size"])

    def make_attention(
        self, index: int, settings: Mapping[str, Any], rel_pos_size: tuple[int, int] | None
    ) -> nn.Module:
        transformed = settings["apply_transform"]
        entries = len(transformed) if isinstance(transformed, (list, tuple)) else 0
        if transformed is not None and entries != self.depth:
            raise ValueError(f"apply_transform has {entries} entries; depth is {self.depth}")
        check_flag("transform_scale", settings["transform_scale"])
        if transformed is None or transformed[index]:
            return ReAttention(self.embed_dims, self.num_heads, rel_pos_size, settings["transform_scale"])
        return Attention(self.embed_dims, self.num_heads, rel_pos_size)

    def make_block(
        self, index: int, settings: Mapping[str, Any], *, rel_pos_size: tuple[int, int] | None, **kwargs: Any
    ) -> Block:
        # The official block computes x + f(norm(r x)) / r. The norm undoes r up to its eps, which is relative to r^2.
        r = settings["scale_adjustment"]
        if not is_number(r) or r <= 0:
            raise ValueError(f"scale_adjustment is {r!r}; it must be a positive number")
        return Block(
            self.embed_dims,
            self.make_attention(index, settings, rel_pos_size),
            self.make_feedforward(settings),
            branch_factor=1 / r,
            norm_eps=NORM_EPS / r**2,
            **kwargs,
        )


@MODELS.register_module()
class DeepViT(DenseTransformer, DeepViTTrunk):
    """``DeepViTTrunk`` with a feature pyramid."""
