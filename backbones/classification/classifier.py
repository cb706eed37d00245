"""An mmpretrain classifier over a dense backbone, whose published files load whole."""

from __future__ import annotations

from typing import Any, ClassVar

from mmengine.model import PretrainedInit
from mmengine.registry import MODELS
from mmpretrain.models import ImageClassifier
from torch import Tensor

from ..base import Backbone
from ..checkpoints import CheckpointError, load_pretrained


@MODELS.register_module()
class DenseClassifier(ImageClassifier):
    """A transformer's trunk or a RevCol, and the head of its paper.

    Heads of this package choose their features (tokens, class tokens of all layers, the coarsest maps of some columns)
    and take their widths from the backbone.

    Args:
        backbone: Config of a trunk (``type='ViTTrunk'``, ``'CaiTTrunk'``, ...) or of a ``RevCol``.
        head: Config of a head of ``backbones.classification``.
        data_preprocessor: As for mmpretrain's ``ImageClassifier``; its ``num_classes`` are the head's unless given.
        kwargs: As for mmpretrain's ``ImageClassifier``: ``train_cfg`` (mixup and cutmix), ``init_cfg``.
            ``init_cfg=dict(type='Pretrained', checkpoint=...)`` takes published classification files as they are, and
            this package's own; with ``reset_head=True`` also those of other classes, whose
            last layers are reinitialised.

    Raises:
        ValueError: for another backbone, and for the head of another backbone.
        CheckpointError: at initialisation, for a file of other classes without ``reset_head``.
    """

    backbone: Any
    head: Any
    classifier_keys: ClassVar[tuple[str, ...]] = ()  # no key is skipped: heads belong to this model

    def __init__(self, backbone: dict, head: dict, data_preprocessor: dict | None = None, **kwargs: Any) -> None:
        net: Any = MODELS.build(backbone)
        if not isinstance(net, Backbone) or hasattr(net, "pyramid"):
            raise ValueError(
                f"backbone is a {type(net).__name__}; DenseClassifier takes a RevCol or a trunk: ViTTrunk "
                "instead of PlainViT, CaiTTrunk instead of CaiT, and so on, without pyramid, taps and out_indices"
            )
        parts: dict[str, Any] = dict(backbone=net, head=MODELS.build({**head, "backbone": net}))
        images = {"num_classes": parts["head"].num_classes, **(data_preprocessor or {})}  # mixup's labels have as many
        super().__init__(**parts, data_preprocessor=images, **kwargs)
        self.head.see_images(self.data_preprocessor)
        self.reset_head = False
        self._names = frozenset(self.state_dict())

    def extract_feat(self, inputs: Tensor, stage: str = "neck") -> Any:
        """The head's features; ``stage='backbone'`` gives the backbone's output."""
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
        """Maps a checkpoint key to our name: the backbone's if it has one, else the head's."""
        ours = f"backbone.{self.backbone.published_name(name)}", f"head.{self.head.published_name(name)}"
        return next((candidate for candidate in ours if candidate in self._names), name)

    def is_trunk_name(self, name: str) -> bool:
        """Whether a checkpoint must agree with this classifier on a name; heads may differ."""
        inner = name.removeprefix("backbone.")
        if inner == name and name.startswith(("head.", *self.backbone.classifier_keys)):
            return False
        return self.backbone.is_trunk_name(inner)

    def adapt_weights(self, weights: dict[str, Tensor]) -> list[str]:
        """Fits the backbone's part of published weights; see ``backbones.base.Backbone.adapt_weights``.

        Raises:
            CheckpointError: for a head of other classes, unless it is to be reset.
        """
        current = self.state_dict()
        other = {
            name: f"{name} (file {tuple(value.shape)}, model {tuple(current[name].shape)})"
            for name, value in weights.items()
            if name.startswith("head.") and name in current and value.shape != current[name].shape
        }
        # Other widths as well: the file is of another arch, which the check of shapes reports.
        classes = [n for n in other if weights[n].ndim == 2 and weights[n].shape[1:] == current[n].shape[1:]]
        if classes and not self.reset_head:
            raise CheckpointError(
                f"the head has another number of classes: {', '.join(other.values())}. Add reset_head=True to init_cfg "
                "(tools/train.py: --reset-head) to load everything else and reinitialise these"
            )
        if classes:
            for name in other:
                del weights[name]
        inner = {
            name.removeprefix("backbone."): weights.pop(name) for name in list(weights) if name.startswith("backbone.")
        }
        notes = [f"reinitialised: {', '.join(other.values())}"] if classes else []
        notes += self.backbone.adapt_weights(inner)
        weights.update({f"backbone.{name}": value for name, value in inner.items()})
        return notes
