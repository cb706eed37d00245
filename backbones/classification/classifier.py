"""An mmpretrain classifier over a dense backbone, whose published files load whole."""

from __future__ import annotations

from typing import Any, ClassVar

from mmengine.model import PretrainedInit
from mmengine.registry import MODELS
from mmpretrain.models import ImageClassifier
from torch import Tensor

from ..base import DenseBackbone
from ..vit import PlainViT
from ..weights import load_pretrained


@MODELS.register_module()
class DenseClassifier(ImageClassifier):
    """A dense backbone and the head its paper classifies with.

    Heads of this package say themselves what they read of a backbone (tokens, class tokens of all layers, the coarsest
    maps of some columns), and take their widths from it.

    Args:
        backbone: Config of a backbone of this package; a transformer needs ``pyramid=None``.
        head: Config of a head of :mod:`backbones.classification.heads`.
        kwargs: As for mmpretrain's ``ImageClassifier``: ``train_cfg`` (mixup and cutmix), ``data_preprocessor``,
            ``init_cfg``. ``init_cfg=dict(type='Pretrained', checkpoint=...)`` takes published classification files as
            they are, and this package's own.

    Raises:
        ValueError: for a transformer with a pyramid, whose parameters would get no gradient.
    """

    backbone: Any
    head: Any
    classifier_keys: ClassVar[tuple[str, ...]] = ()  # of a file nothing is skipped: heads belong to this model

    def __init__(self, backbone: dict, head: dict, **kwargs: Any) -> None:
        net: Any = MODELS.build(backbone)
        if not isinstance(net, DenseBackbone):
            raise ValueError(f"backbone is a {type(net).__name__}; DenseClassifier takes a backbone of this package")
        if isinstance(net, PlainViT) and next(net.pyramid.parameters(), None) is not None:
            raise ValueError(
                f"the {type(net).__name__} has a pyramid, which a classifier does not read; pass pyramid=None"
            )
        parts: dict[str, Any] = dict(backbone=net, head=MODELS.build({**head, "backbone": net}))
        super().__init__(**parts, **kwargs)

    def extract_feat(self, inputs: Tensor, stage: str = "neck") -> Any:
        """What the head reads of the backbone; ``stage='backbone'`` gives the backbone's maps."""
        if stage == "backbone":
            return self.backbone(inputs)
        feats = self.head.read(self.backbone, inputs)
        return self.head.pre_logits(feats) if stage == "pre_logits" else feats

    def init_weights(self) -> None:
        """Initialises the parts, then reads ``init_cfg`` of type ``Pretrained``."""
        given: Any = self.init_cfg
        self.init_cfg = None
        try:
            super().init_weights()
        finally:
            self.init_cfg = given
        if given:
            if given["type"] not in ("Pretrained", PretrainedInit):
                raise ValueError(f"init_cfg of a classifier is {given}; it must be of type 'Pretrained'")
            load_pretrained(self, **{key: value for key, value in given.items() if key != "type"})

    def published_name(self, name: str) -> str:
        """Our name of a published key: the backbone's if it has it, else the head's."""
        ours = f"backbone.{self.backbone.published_name(name)}"
        own = self.state_dict().keys()
        return ours if ours in own else f"head.{name}" if f"head.{name}" in own else name

    def adapt_weights(self, weights: dict[str, Tensor]) -> list[str]:
        """Fits the backbone's part of published weights; see :meth:`backbones.base.DenseBackbone.adapt_weights`."""
        inside = {
            name.removeprefix("backbone."): weights.pop(name) for name in list(weights) if name[:9] == "backbone."
        }
        notes = self.backbone.adapt_weights(inside)
        weights.update({f"backbone.{name}": value for name, value in inside.items()})
        return notes
