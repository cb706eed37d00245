"""CeiT: convolutions before and inside a vision transformer (Yuan et al., ICCV 2021, arXiv:2103.11816).

The encoder is the backbone. Attention over the class tokens of all layers (``LayerwiseClassAttention``) reads the
encoder and never changes the patches, so a detector does without it; classification feeds it with
``CeiTTrunk.class_tokens``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from mmengine.registry import MODELS
from torch import Tensor, nn

from .dense_transformer import DenseTransformer
from .layers import Attention, Mlp
from .layers.attention import Bias
from .trunk import NORM_EPS, Block, Trunk

STEM_CHANNELS = 64
STEM_STRIDE = 4


class ImageToTokens(nn.Module):
    """A small convolutional stem, then patches of its map: ``(B, 3, H, W)`` to ``(B, C, H / P, W / P)``.

    Args:
        embed_dims: C.
        patch_size: P, in pixels of the image, a multiple of 4.
    """

    def __init__(self, embed_dims: int, patch_size: int) -> None:
        super().__init__()
        if patch_size % STEM_STRIDE or patch_size < STEM_STRIDE:
            raise ValueError(
                f"patch_size is {patch_size}; it must be a positive multiple of {STEM_STRIDE}, the stem's stride"
            )
        conv = nn.Conv2d(3, STEM_CHANNELS, 7, stride=2, padding=3, bias=False)
        self.backbone = nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(STEM_CHANNELS)))
        patch = patch_size // STEM_STRIDE
        self.proj = nn.Conv2d(STEM_CHANNELS, embed_dims, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.max_pool2d(self.backbone(x), 3, stride=2, padding=1))


class LocallyEnhancedFeedForward(nn.Module):
    """Feed-forward branch with a depthwise 3 x 3 convolution over the patch map (eqs. 3 to 8 of the paper).

    The official code, which this follows, has no activation behind the last batch norm; the paper has one.

    Shapes:
        x: ``(B, prefix + h * w, C)``; grid: (h, w); returns the same shape, the prefix tokens as they came in.
    """

    def __init__(self, embed_dims: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(embed_dims, hidden, 1)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, embed_dims, 1)
        self.bn3 = nn.BatchNorm2d(embed_dims)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        prefix = x.shape[1] - grid[0] * grid[1]
        y = rearrange(x[:, prefix:], "b (h w) c -> b c h w", h=grid[0])
        y = F.gelu(self.bn1(self.conv1(y)))
        y = F.gelu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.cat([x[:, :prefix], rearrange(y, "b c h w -> b (h w) c")], dim=1)


class CeiTBlock(Block):
    """Transformer block with ``LocallyEnhancedFeedForward``.

    The branch hands the normalised class token back unchanged and the residual adds it, so the second half of the block
    updates the class token as ``cls + norm2(cls)``. The paper's figure lets it pass untouched, but the official weights
    were trained this way.
    """

    feedforward_name = "leff"
    leff: LocallyEnhancedFeedForward

    def feedforward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.leff(x, grid)


class _LastLayerAttention(Attention):
    """Attention with the last token as the only query: ``(B, L, C)`` to ``(B, 1, C)``."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Bias | None = None) -> Tensor:
        return super().attend(q[:, :, -1:], k, v, scale, bias)


class _LastLayerBlock(nn.Module):
    """Updates the last of L tokens from all of them: ``(B, L, C)`` to ``(B, 1, C)``."""

    def __init__(self, embed_dims: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims, eps=NORM_EPS)
        self.attn = _LastLayerAttention(embed_dims, num_heads)
        self.norm2 = nn.LayerNorm(embed_dims, eps=NORM_EPS)
        self.feedforward = Mlp(embed_dims, int(embed_dims * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        last = x[:, -1:] + self.attn(self.norm1(x), (x.shape[1], 1))
        return last + self.feedforward(self.norm2(last))


class LayerwiseClassAttention(nn.Module):
    """The last layer's class token gathers from those of all layers; for classification (section 3.4 of the paper).

    The layers between encoder and linear head, under their official names.

    Args:
        embed_dims: C.
        depth: L, the number of layers.
        num_heads: Heads of the attention; the official models have those of the encoder.
        mlp_ratio: Hidden width of the feed-forward branch, in multiples of C.

    Shapes:
        class_tokens: ``(B, L, C)``, from ``CeiTTrunk.class_tokens``; returns the class vector, ``(B, C)``.
    """

    def __init__(self, embed_dims: int, depth: int, num_heads: int, mlp_ratio: float = 4) -> None:
        super().__init__()
        self.pos_layer_embed = nn.Parameter(torch.zeros(1, depth, embed_dims))
        self.lca = _LastLayerBlock(embed_dims, num_heads, mlp_ratio)
        self.norm = nn.LayerNorm(embed_dims, eps=NORM_EPS)

    def forward(self, class_tokens: Tensor) -> Tensor:
        return self.norm(self.lca(class_tokens + self.pos_layer_embed)).squeeze(1)


CEIT_ARCHS = {  # parameters of the classifier with 1000 classes at 224 pixels, in millions
    "tiny": dict(embed_dims=192, depth=12, num_heads=3),  # 6.36
    "small": dict(embed_dims=384, depth=12, num_heads=6),  # 24.20
    "base": dict(embed_dims=768, depth=12, num_heads=12),  # 94.41
}


@MODELS.register_module()
class CeiTTrunk(Trunk):
    """CeiT's encoder.

    Arguments and shapes are those of ``backbones.trunk.Trunk``; ``patch_size`` of a dict ``arch`` is the
    stride of the tokens in pixels of the image, a multiple of 4.

    There are batch norms in the stem and three in every block: train detectors, whose batches are small, with
    ``norm_eval=True`` or with synchronised batch norms.

    Source: Yuan et al., "Incorporating Convolution Designs into Visual Transformers", arXiv:2103.11816.
    """

    archs = CEIT_ARCHS
    default_arch = "small"
    classifier_keys = (*Trunk.classifier_keys, "pos_layer_embed", "lca.")
    stem_name = "i2t"

    def make_patch_embed(self, settings: Mapping[str, Any]) -> nn.Module:
        return ImageToTokens(self.embed_dims, settings["patch_size"])

    def make_feedforward(self, settings: Mapping[str, Any]) -> nn.Module:
        return LocallyEnhancedFeedForward(self.embed_dims, int(self.embed_dims * settings["mlp_ratio"]))

    def make_block(
        self, index: int, settings: Mapping[str, Any], *, rel_pos_size: tuple[int, int] | None, **kwargs: Any
    ) -> Block:
        attention = self.make_attention(index, settings, rel_pos_size)
        return CeiTBlock(self.embed_dims, attention, self.make_feedforward(settings), **kwargs)

    def class_tokens(self, x: Tensor) -> Tensor:
        """The class token after each block, ``(B, depth, C)``, for ``LayerwiseClassAttention``.

        Raises:
            ValueError: if the model was built without a class token (``window_size`` or ``rel_pos``).
        """
        if not self.tokens:
            raise ValueError("this CeiT has no class token; build it without window_size and rel_pos to classify")
        self.check_input(x)
        layers = range(self.depth)
        tokens = self.run_blocks(self.embed(x)[-1], layers)
        return torch.stack([tokens[i][:, 0] for i in layers], dim=1)


@MODELS.register_module()
class CeiT(DenseTransformer, CeiTTrunk):
    """``CeiTTrunk`` with a feature pyramid."""
