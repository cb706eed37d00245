"""SigLIP 2's image tower: patches only, no class token (Tschannen et al., arXiv:2502.14786)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from .dense_transformer import DenseTransformer
from .layers import Mlp
from .trunk import Trunk

_SO400M = dict(embed_dims=1152, depth=27, num_heads=16, mlp_ratio=4304 / 1152)
SIGLIP2_ARCHS: dict[str, dict[str, Any]] = {  # parameters of the trunk at 224 pixels, in millions
    "base": dict(embed_dims=768, depth=12, num_heads=12),  # 85.80
    "base-32": dict(embed_dims=768, depth=12, num_heads=12, patch_size=32),  # 87.45
    "large": dict(embed_dims=1024, depth=24, num_heads=16),  # 303.30
    "so400m": dict(**_SO400M, patch_size=16),  # 412.58
    "so400m-14": dict(**_SO400M, patch_size=14),  # 412.44
    "giantopt": dict(embed_dims=1536, depth=40, num_heads=16),  # 1134.74
}


@MODELS.register_module()
class SigLIP2Trunk(Trunk):
    """The transformer of SigLIP and SigLIP 2 for images.

    Arguments and shapes are those of ``backbones.trunk.Trunk``. ``img_size`` must be that of the weights: 224 or 256,
    384, 512. Weights of varying resolution ("NaFlex") have other patches and are not read.

    The attention pool and the text tower of published files play no part in dense maps.

    Source: Tschannen et al., SigLIP 2, arXiv:2502.14786; Zhai et al., arXiv:2303.15343. At other sizes the table is
    resized as in the transformers library: bicubic, half-pixel centres, no antialiasing.
    """

    archs = SIGLIP2_ARCHS
    published_layout = ("", "")
    classifier_keys = (*Trunk.classifier_keys, "attn_pool.", "text_model.", "logit_scale", "logit_bias")
    pixel_mean = pixel_std = (127.5, 127.5, 127.5)
    prefix_tokens = ()
    resizes_on_load = False

    def make_feedforward(self, settings: Mapping[str, Any]) -> nn.Module:
        return Mlp(self.embed_dims, int(self.embed_dims * settings["mlp_ratio"]), approximate="tanh")


@MODELS.register_module()
class SigLIP2(DenseTransformer, SigLIP2Trunk):
    """``SigLIP2Trunk`` with a feature pyramid. Block outputs are taken as they are, unless ``final_norm=True``.

    Examples:
        >>> arch = dict(embed_dims=48, depth=2, num_heads=3)
        >>> [tuple(f.shape) for f in SigLIP2(arch, pyramid=None)(torch.zeros(1, 3, 64, 96))]
        [(1, 48, 4, 6)]
    """
