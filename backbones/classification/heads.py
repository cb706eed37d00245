"""The classification heads of the transformers, as published; parameter names are the official ones.

Each takes features from its backbone in ``DenseHead.read`` and gives logits in ``DenseHead.forward``. Losses,
predictions and accuracy are mmpretrain's.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from mmengine.registry import MODELS
from mmpretrain.models.heads import ClsHead
from torch import Tensor, nn

from ..base import Backbone
from ..cait import CaiTTrunk, ClassAttentionBlock
from ..ceit import CeiTTrunk, LayerwiseClassAttention
from ..trunk import NORM_EPS, Trunk, init_linear


class DenseHead(ClsHead):
    """Base of the heads.

    Args:
        num_classes: Number of classes.
        backbone: The backbone, from which widths are taken.
        kwargs: As for mmpretrain's ``ClsHead``: ``loss``, ``topk``, ``cal_acc``, ``init_cfg``.

    Raises:
        ValueError: for the backbone of another head.
    """

    head: Any
    reads: ClassVar[type[Backbone]] = Trunk
    tokens: ClassVar[tuple[str, ...]] = ()  # that the backbone has in front of its patches

    def __init__(self, num_classes: int, backbone: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        names = tuple(getattr(backbone, "tokens", ()))
        if not isinstance(backbone, self.reads) or names[: len(self.tokens)] != self.tokens:
            wanted = f" with {', '.join(self.tokens)}" if self.tokens else ""
            raise ValueError(
                f"{type(self).__name__} reads a {self.reads.__name__}{wanted}, not a {type(backbone).__name__} with "
                f"{', '.join(names) or 'no tokens'} (windows and relative positions leave no room for any); choose the "
                "head of this backbone's paper"
            )
        self.num_classes = num_classes
        self.add_layers(backbone)
        self.apply(init_linear)

    def add_layers(self, backbone: Any) -> None:
        """Make the layers for a backbone."""
        raise NotImplementedError

    def published_name(self, name: str) -> str:
        """Maps a key of official files to this head's name."""
        return name

    def see_images(self, preprocessor: Any) -> None:
        """Learn how images are normalised; for heads that rebuild them."""

    def read(self, backbone: Any, x: Tensor) -> Any:
        """The features of images ``(B, 3, H, W)`` that this head classifies."""
        raise NotImplementedError

    def forward(self, feats: Any) -> Tensor:
        """Logits ``(B, num_classes)``."""
        return self.head(self.pre_logits(feats))


@MODELS.register_module()
class ClassTokenHead(DenseHead):
    """Norm and linear layer on the class token: ViT, DeiT without distillation, DeepViT, the hybrids."""

    tokens = ("cls_token",)

    def add_layers(self, backbone: Trunk) -> None:
        self.norm = nn.LayerNorm(backbone.embed_dims, eps=NORM_EPS)
        self.head = nn.Linear(backbone.embed_dims, self.num_classes)

    def read(self, backbone: Trunk, x: Tensor) -> Tensor:
        return backbone(x)[:, 0]

    def pre_logits(self, feats: Any) -> Tensor:
        return self.norm(feats)


@MODELS.register_module()
class MeanPoolHead(DenseHead):
    """Norm and linear layer on the mean of the patch tokens: MAE's fine-tuning."""

    def add_layers(self, backbone: Trunk) -> None:
        self.fc_norm = nn.LayerNorm(backbone.embed_dims, eps=NORM_EPS)
        self.head = nn.Linear(backbone.embed_dims, self.num_classes)

    def read(self, backbone: Trunk, x: Tensor) -> Tensor:
        return backbone(x)[:, backbone.num_prefix :].mean(dim=1)

    def pre_logits(self, feats: Any) -> Tensor:
        return self.fc_norm(feats)


@MODELS.register_module()
class CaiTHead(DenseHead):
    """Two blocks of class attention, norm and linear layer (CaiT, arXiv:2103.17239, section 3)."""

    reads = CaiTTrunk

    def add_layers(self, backbone: CaiTTrunk) -> None:
        width, start = backbone.embed_dims, float(backbone.layer_scale_init_value or 0)
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.zeros(1, 1, width), std=0.02))
        self.blocks_token_only = nn.ModuleList(
            ClassAttentionBlock(width, backbone.num_heads, layer_scale_init_value=start) for _ in range(2)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.head = nn.Linear(width, self.num_classes)

    def read(self, backbone: CaiTTrunk, x: Tensor) -> Tensor:
        return backbone(x)

    def pre_logits(self, feats: Any) -> Tensor:
        token = self.cls_token.expand(feats.shape[0], -1, -1)
        for block in self.blocks_token_only:
            token = block(token, feats)
        return self.norm(token[:, 0])


@MODELS.register_module()
class CeiTHead(DenseHead):
    """Attention over the class tokens of all layers, norm and linear layer (CeiT, arXiv:2103.11816, section 3.4)."""

    reads = CeiTTrunk
    tokens = ("cls_token",)

    def add_layers(self, backbone: CeiTTrunk) -> None:
        self.layer_attention = LayerwiseClassAttention(backbone.embed_dims, backbone.depth, backbone.num_heads)
        self.head = nn.Linear(backbone.embed_dims, self.num_classes)

    def read(self, backbone: CeiTTrunk, x: Tensor) -> Tensor:
        return backbone.class_tokens(x)

    def pre_logits(self, feats: Any) -> Tensor:
        return self.layer_attention(feats)

    def published_name(self, name: str) -> str:
        return f"layer_attention.{name}" if name in self.layer_attention.state_dict() else name
