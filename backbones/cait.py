"""CaiT: deep image transformers whose heads talk (Touvron et al., ICCV 2021, arXiv:2103.17239).

The self-attention part is the backbone. Class attention (``ClassAttentionBlock``) reads the patches and never
changes them, so a detector does without it; classification puts it behind the last block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from mmengine.registry import MODELS
from torch import Tensor, nn

from .dense_transformer import DenseTransformer
from .layers import Attention, Linear, Mlp, talking_heads
from .layers.attention import Bias, fold_bias
from .trunk import NORM_EPS, Trunk


class TalkingHeadAttention(Attention):
    """Attention whose heads are mixed before and after the softmax (Shazeer et al., arXiv:2003.02436).

    The maps of all heads are needed at once, so fused attention does not apply; ``talking_heads`` holds a few rows
    of them at a time.
    """

    mixes_heads = True

    def __init__(self, embed_dims: int, num_heads: int, rel_pos_size: tuple[int, int] | None = None) -> None:
        super().__init__(embed_dims, num_heads, rel_pos_size)
        self.proj_l = nn.Linear(num_heads, num_heads)
        self.proj_w = nn.Linear(num_heads, num_heads)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Bias | None = None) -> Tensor:
        q, k = fold_bias(q, k, scale, bias)
        return talking_heads(q, k, v, scale, self.proj_l.weight, self.proj_l.bias, self.proj_w.weight, self.proj_w.bias)


class ClassAttention(nn.Module):
    """Attention with the class token as the only query: ``(B, 1 + N, C)`` to ``(B, 1, C)``. Heads do not talk."""

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = Linear(embed_dims, embed_dims)
        self.k = Linear(embed_dims, embed_dims)
        self.v = Linear(embed_dims, embed_dims)
        self.proj = Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self._project(x)
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"))

    def maps(self, x: Tensor) -> Tensor:
        """Weights that the class token gives to all tokens, itself first, ``(B, h, 1 + N)``."""
        q, k, _ = self._project(x)
        return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1).squeeze(2)

    def _project(self, x: Tensor) -> Iterator[Tensor]:
        """The class token's queries, and the keys and values of all, each ``(B, h, n, d)``."""
        pairs = ((self.q, x[:, :1]), (self.k, x), (self.v, x))
        return (rearrange(layer(tokens), "b n (h d) -> b h n d", h=self.num_heads) for layer, tokens in pairs)


class ClassAttentionBlock(nn.Module):
    """Updates the class token from itself and the patches (eqs. 5 and 6 of the paper); for classification.

    Shapes:
        cls_token: ``(B, 1, C)``; patches: ``(B, N, C)``, the tokens after the last block; returns ``(B, 1, C)``.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, mlp_ratio: float = 4, layer_scale_init_value: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims, eps=NORM_EPS)
        self.attn = ClassAttention(embed_dims, num_heads)
        self.norm2 = nn.LayerNorm(embed_dims, eps=NORM_EPS)
        self.mlp = Mlp(embed_dims, int(embed_dims * mlp_ratio))
        self.gamma_1 = nn.Parameter(torch.full((embed_dims,), layer_scale_init_value))
        self.gamma_2 = nn.Parameter(torch.full((embed_dims,), layer_scale_init_value))

    def forward(self, cls_token: Tensor, patches: Tensor) -> Tensor:
        attended = self.attn(self.norm1(torch.cat([cls_token, patches], dim=1)))
        cls_token = cls_token + self.gamma_1 * attended
        return cls_token + self.gamma_2 * self.mlp(self.norm2(cls_token))


CAIT_ARCHS = {  # parameters of the classifier with 1000 classes at 224 pixels, in millions; M48: at 448
    "xxs24": dict(embed_dims=192, depth=24, num_heads=4, layer_scale_init_value=1e-5),  # 11.96
    "xxs36": dict(embed_dims=192, depth=36, num_heads=4, layer_scale_init_value=1e-5),  # 17.30
    "xs24": dict(embed_dims=288, depth=24, num_heads=6, layer_scale_init_value=1e-5),  # 26.56
    "s24": dict(embed_dims=384, depth=24, num_heads=8, layer_scale_init_value=1e-5),  # 46.92
    "s36": dict(embed_dims=384, depth=36, num_heads=8, layer_scale_init_value=1e-6),  # 68.22
    "m36": dict(embed_dims=768, depth=36, num_heads=16, layer_scale_init_value=1e-6),  # 270.93
    "m48": dict(embed_dims=768, depth=48, num_heads=16, layer_scale_init_value=1e-6),  # 356.46
}


@MODELS.register_module()
class CaiTTrunk(Trunk):
    """CaiT's self-attention blocks.

    Every block attends among the patches with talking heads and LayerScale; drop-path has the same rate in all blocks.
    A dict ``arch`` may give ``layer_scale_init_value``, which the paper chooses by depth (1e-5 to 24 blocks, 1e-6
    beyond). Other arguments and shapes are those of ``backbones.trunk.Trunk``.

    Source: Touvron et al., "Going deeper with Image Transformers", arXiv:2103.17239. The position table has no row
    for a class token.
    """

    archs = CAIT_ARCHS
    arch_defaults = dict(mlp_ratio=4, patch_size=16, layer_scale_init_value=1e-5)
    default_arch = "s24"
    published_layout = ("model", "module.")
    classifier_keys = (*Trunk.classifier_keys, "cls_token", "blocks_token_only.")
    prefix_tokens = ()

    def make_attention(
        self, index: int, settings: Mapping[str, Any], rel_pos_size: tuple[int, int] | None
    ) -> nn.Module:
        return TalkingHeadAttention(self.embed_dims, self.num_heads, rel_pos_size)

    def drop_path_rates(self) -> list[float]:
        return [self.drop_path_rate] * self.depth


@MODELS.register_module()
class CaiT(DenseTransformer, CaiTTrunk):
    """``CaiTTrunk`` with a feature pyramid."""
