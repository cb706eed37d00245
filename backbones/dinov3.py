"""DINOv3: rotary positions instead of a table, four storage tokens (Siméoni et al., arXiv:2508.10104).

Written from the paper and the names of the published weights. LingBot-Vision and EUPE have the same layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from .checkpoints.vit import published_vit_name
from .checks import check_flag
from .dense_transformer import DenseTransformer
from .layers import Attention, CentredRotary, Rotary, SwiGLU
from .trunk import Trunk

STORAGE_TOKENS = 4
DINOV3_ARCHS = {  # parameters of trunk and final norm, in millions
    "tiny": dict(embed_dims=192, depth=12, num_heads=3),  # 5.49, EUPE's
    "small": dict(embed_dims=384, depth=12, num_heads=6),  # 21.60
    "small-plus": dict(embed_dims=384, depth=12, num_heads=6, swiglu=True),  # 28.69
    "base": dict(embed_dims=768, depth=12, num_heads=12),  # 85.66
    "large": dict(embed_dims=1024, depth=24, num_heads=16),  # 303.13
    "large-plus": dict(embed_dims=1024, depth=24, num_heads=16, swiglu=True),  # 403.89
    "huge-plus": dict(embed_dims=1280, depth=32, num_heads=20, swiglu=True),  # 840.59
    "giant": dict(  # 1134.49, LingBot-Vision's
        embed_dims=1536, depth=40, num_heads=24, mlp_ratio=8 / 3, swiglu=True, qkv_bias=False
    ),
    "7b": dict(embed_dims=4096, depth=40, num_heads=32, mlp_ratio=2, swiglu=True, qkv_bias=False),  # 6716.03
}


@MODELS.register_module()
class DINOv3Trunk(Trunk):
    """DINOv3's transformer.

    A dict ``arch`` may also give ``swiglu`` (a gated feed-forward branch), ``qkv_bias`` (of queries and values; keys
    never have one) and ``layer_scale_init_value``. Other arguments and shapes are those of ``backbones.trunk.Trunk``.

    Queries and keys of the patches turn with their places in the image, each axis from -1 to 1 whatever its length, so
    ``img_size`` plays no part. The periods belong to the weights. The random shifts and scalings of the places in the
    original training are left out.

    Source: Siméoni et al., DINOv3, arXiv:2508.10104.
    """

    archs = DINOV3_ARCHS
    arch_defaults = dict(mlp_ratio=4, patch_size=16, swiglu=False, qkv_bias=True, layer_scale_init_value=1e-5)
    published_layout = ("", "")
    classifier_keys = (*Trunk.classifier_keys, "local_cls_norm.", "projectors.")
    undecayed = (*Trunk.undecayed, "storage_tokens")
    norm_eps = 1e-5
    has_table = False
    other_positions = "rotary positions"

    def make_tokens(self, settings: Mapping[str, Any]) -> dict[str, int]:
        return super().make_tokens(settings) | {"storage_tokens": STORAGE_TOKENS}

    def make_rotary(self, settings: Mapping[str, Any]) -> Rotary:
        return CentredRotary(self.embed_dims // self.num_heads)

    def make_attention(
        self, index: int, settings: Mapping[str, Any], rel_pos_size: tuple[int, int] | None
    ) -> nn.Module:
        check_flag("qkv_bias", settings["qkv_bias"])
        return Attention(self.embed_dims, self.num_heads, biases="qv" if settings["qkv_bias"] else "")

    def make_feedforward(self, settings: Mapping[str, Any]) -> nn.Module:
        check_flag("swiglu", settings["swiglu"])
        if not settings["swiglu"]:
            return super().make_feedforward(settings)
        return SwiGLU(self.embed_dims, int(self.embed_dims * settings["mlp_ratio"]))

    def adapt_weights(self, weights: dict[str, Tensor]) -> list[str]:
        notes = super().adapt_weights(weights)
        if "storage_tokens" not in weights and "cls_token" not in weights and "cls_token" in self.tokens:
            return notes  # no file of this family; what it lacks is reported
        if self.arch["qkv_bias"] and not any(name.endswith(".attn.qkv.q_bias") for name in weights):
            for i in range(self.depth):
                for part in "qv":
                    weights[f"blocks.{i}.attn.qkv.{part}_bias"] = torch.zeros(self.embed_dims)
            notes.append("queries and values have no bias in the file (timm leaves out zeros); zeros were taken")
        if "rope_embed.periods" not in weights:
            weights["rope_embed.periods"] = CentredRotary(self.embed_dims // self.num_heads).periods
            notes.append("rope_embed.periods are not in the file; those of the formula were taken, without rounding")
        return notes

    @staticmethod
    def published_name(name: str) -> str:
        # timm's name, and that of the transformers library
        return published_vit_name("storage_tokens" if name in ("reg_token", "register_tokens") else name)


@MODELS.register_module()
class DINOv3(DenseTransformer, DINOv3Trunk):
    """``DINOv3Trunk`` with a feature pyramid; taps go through the final norm, as in DINOv3's own dense models.

    Examples:
        >>> arch = dict(embed_dims=48, depth=2, num_heads=3)
        >>> [tuple(f.shape) for f in DINOv3(arch, pyramid=None)(torch.zeros(1, 3, 64, 96))]
        [(1, 48, 4, 6)]
    """

    norm_taps = True
