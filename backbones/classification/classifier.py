"""An mmpretrain classifier over a dense backbone, whose published files load whole."""

from __future__ import annotations

from typing import Any, ClassVar

from mmengine.model import PretrainedInit
from mmengine.registry import MODELS
from mmpretrain.models import ImageClassifier
from torch import Tensor

from ..base import DenseBackbone
from ..revcol import LEVELS
from ..vit import PlainViT
from ..weights import CheckpointError, load_pretrained


def _check_last(net: DenseBackbone) -> None:
    """Refuse a backbone that freezes, as unused, what a head reads."""
    last = net.depth - 1 in net.used_taps if isinstance(net, PlainViT) else net.out_indices[-1] == LEVELS - 1
    if not last:
        raise ValueError(
            f"the {type(net).__name__} leaves out its last level, which a classifier reads; leave out_indices and taps "
            "at their defaults"
        )


@MODELS.register_module()
class DenseClassifier(ImageClassifier):
    """A dense backbone and the head its paper classifies with.

    Heads of this package say themselves what they read of a backbone (tokens, class tokens of all layers, the coarsest
    maps of some columns), and take their widths from it.

    Args:
        backbone: Config of a backbone of this package; a transformer needs ``pyramid=None``.
        head: Config of a head of :mod:`backbones.classification`.
        data_preprocessor: As for mmpretrain's ``ImageClassifier``; its ``num_classes`` are the head's unless given.
        kwargs: As for mmpretrain's ``ImageClassifier``: ``train_cfg`` (mixup and cutmix), ``init_cfg``.
            ``init_cfg=dict(type='Pretrained', checkpoint=...)`` takes published classification files as they are, and
            this package's own; with ``reset_head=True`` also those of other classes, whose layers for them start anew.

    Raises:
        ValueError: for a transformer with a pyramid, whose parameters would get no gradient, for a backbone without its
            last level or block, and for a head of another backbone.
        CheckpointError: at initialisation, for a file of other classes without ``reset_head``.
    """

    backbone: Any
    head: Any
    classifier_keys: ClassVar[tuple[str, ...]] = ()  # of a file nothing is skipped: heads belong to this model

    def __init__(self, backbone: dict, head: dict, data_preprocessor: dict | None = None, **kwargs: Any) -> None:
        net: Any = MODELS.build(backbone)
        if not isinstance(net, DenseBackbone):
            raise ValueError(f"backbone is a {type(net).__name__}; DenseClassifier takes a backbone of this package")
        if isinstance(net, PlainViT) and next(net.pyramid.parameters(), None) is not None:
            raise ValueError(
                f"the {type(net).__name__} has a pyramid, which a classifier does not read; pass pyramid=None"
            )
        _check_last(net)
        parts: dict[str, Any] = dict(backbone=net, head=MODELS.build({**head, "backbone": net}))
        images = {"num_classes": parts["head"].num_classes, **(data_preprocessor or {})}  # mixup's labels have as many
        super().__init__(**parts, data_preprocessor=images, **kwargs)
        self.head.see_images(self.data_preprocessor)
        self.reset_head = False

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
            options = {key: value for key, value in given.items() if key != "type"}
            self.reset_head = options.pop("reset_head", False)
            load_pretrained(self, **options)

    def published_name(self, name: str) -> str:
        """Our name of a published key: the backbone's if it has it, else the head's."""
        own = self.state_dict().keys()
        ours = f"backbone.{self.backbone.published_name(name)}", f"head.{self.head.published_name(name)}"
        return next((candidate for candidate in ours if candidate in own), name)

    def adapt_weights(self, weights: dict[str, Tensor]) -> list[str]:
        """Fits the backbone's part of published weights; see :meth:`backbones.base.DenseBackbone.adapt_weights`.

        Raises:
            CheckpointError: for a head of other classes, unless it is to be reset.
        """
        own = self.state_dict()
        other = {
            name: f"{name} (file {tuple(value.shape)}, model {tuple(own[name].shape)})"
            for name, value in weights.items()
            if name.startswith("head.") and name in own and value.shape != own[name].shape
        }
        # where the widths differ, too, it is a file of another arch
        classes = [name for name in other if weights[name].ndim == 2 and weights[name].shape[1:] == own[name].shape[1:]]
        if classes and not self.reset_head:
            raise CheckpointError(
                f"the head has another number of classes: {', '.join(other.values())}. Add reset_head=True to init_cfg "
                "(tools/train.py: --reset-head) to take over everything else and start these anew"
            )
        if classes:
            for name in other:
                del weights[name]
        inside = {
            name.removeprefix("backbone."): weights.pop(name) for name in list(weights) if name[:9] == "backbone."
        }
        notes = [f"initialised anew: {', '.join(other.values())}"] if classes else []
        notes += self.backbone.adapt_weights(inside)
        weights.update({f"backbone.{name}": value for name, value in inside.items()})
        return notes
