"""Plain vision transformers: the weights of ViT, DeiT, MAE and ViTDet."""

from __future__ import annotations

from mmengine.registry import MODELS

from .dense_transformer import DenseTransformer
from .trunk import Trunk

VIT_ARCHS = {  # parameters of the classifier with 1000 classes at 224 pixels, in millions
    "tiny": dict(embed_dims=192, depth=12, num_heads=3, mlp_ratio=4, patch_size=16),  # 5.72
    "small": dict(embed_dims=384, depth=12, num_heads=6, mlp_ratio=4, patch_size=16),  # 22.05
    "small-32": dict(embed_dims=384, depth=12, num_heads=6, mlp_ratio=4, patch_size=32),  # 22.88
    "base": dict(embed_dims=768, depth=12, num_heads=12, mlp_ratio=4, patch_size=16),  # 86.57
    "base-32": dict(embed_dims=768, depth=12, num_heads=12, mlp_ratio=4, patch_size=32),  # 88.22
    "base-8": dict(embed_dims=768, depth=12, num_heads=12, mlp_ratio=4, patch_size=8),  # 86.58
    "large": dict(embed_dims=1024, depth=24, num_heads=16, mlp_ratio=4, patch_size=16),  # 304.33
    "huge": dict(embed_dims=1280, depth=32, num_heads=16, mlp_ratio=4, patch_size=14),  # 632.05
    "huge-16": dict(embed_dims=1280, depth=32, num_heads=16, mlp_ratio=4, patch_size=16),  # ViTDet-H
}


@MODELS.register_module()
class ViTTrunk(Trunk):
    """ViT, and DeiT without distillation; arguments and shapes are those of ``backbones.trunk.Trunk``.

    Source: Dosovitskiy et al., arXiv:2010.11929; MAE: He et al., arXiv:2111.06377.
    """

    archs = VIT_ARCHS


@MODELS.register_module()
class PlainViT(DenseTransformer, ViTTrunk):
    """ViT with a feature pyramid; with windows and relative positions it is ViTDet's backbone.

    Arguments and shapes are those of ``backbones.dense_transformer.DenseTransformer`` and
    ``backbones.trunk.Trunk``.

    Source: Dosovitskiy et al., arXiv:2010.11929; Li et al. (ViTDet), arXiv:2203.16527; MAE: He et al.,
    arXiv:2111.06377.

    Examples:
        >>> [tuple(f.shape) for f in PlainViT("tiny")(torch.zeros(1, 3, 64, 96))]
        [(1, 256, 16, 24), (1, 256, 8, 12), (1, 256, 4, 6), (1, 256, 2, 3)]
    """


@MODELS.register_module()
class DeiTTrunk(ViTTrunk):
    """DeiT with a distillation token beside the class token.

    Source: Touvron et al., "Training data-efficient image transformers & distillation through attention",
    arXiv:2012.12877.
    """

    archs = {name: VIT_ARCHS[name] for name in ("tiny", "small", "base")}
    prefix_tokens = ("cls_token", "dist_token")


@MODELS.register_module()
class DeiT(DenseTransformer, DeiTTrunk):
    """``DeiTTrunk`` with a feature pyramid. Weights without distillation belong to ``PlainViT``."""
