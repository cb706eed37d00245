"""DeiT's distillation (Touvron et al., arXiv:2012.12877): a second token learns from a teacher's logits."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.registry import MODELS
from mmpretrain.models import HuggingFaceClassifier, TimmClassifier
from torch import Tensor, nn

from ..errors import SetupError
from ..trunk import NORM_EPS
from ..vit import DeiTTrunk
from .classifier import DenseClassifier
from .heads import DenseHead


@MODELS.register_module()
class DistilledHead(DenseHead):
    """DeiT's two heads: one on the class token for labels, one on the distillation token for a teacher.

    Args:
        kind: ``'hard'``: cross entropy against the teacher's decision; ``'soft'``: Kullback-Leibler divergence from the
            teacher's probabilities at a temperature.
        weight: Share of the teacher in the loss, in [0, 1].
        temperature: Divides both logits of soft distillation.
        kwargs: As for ``DenseHead``.

    The mean of both logits classifies at test time.

    Source: arXiv:2012.12877, equations 2 and 3; scaling of the soft loss: see ``soft_distillation``.
    """

    reads = DeiTTrunk
    tokens = ("cls_token", "dist_token")

    def __init__(
        self, *args: Any, kind: str = "hard", weight: float = 0.5, temperature: float = 1.0, **kwargs: Any
    ) -> None:
        if kind not in ("hard", "soft") or not 0 <= weight <= 1 or temperature <= 0:
            raise ValueError(
                f"kind is {kind!r}, weight {weight}, temperature {temperature}; distillation is 'hard' or 'soft', with "
                "a weight in [0, 1] and a positive temperature"
            )
        super().__init__(*args, **kwargs)
        self.kind, self.weight, self.temperature = kind, weight, temperature

    def add_layers(self, backbone: DeiTTrunk) -> None:
        self.norm = nn.LayerNorm(backbone.embed_dims, eps=NORM_EPS)
        self.head = nn.Linear(backbone.embed_dims, self.num_classes)
        self.head_dist = nn.Linear(backbone.embed_dims, self.num_classes)

    def read(self, backbone: DeiTTrunk, x: Tensor) -> Tensor:
        return backbone(x)[:, :2]  # class token, distillation token

    def pre_logits(self, feats: Any) -> Tensor:
        return self.norm(feats)

    def both_logits(self, feats: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the class token and of the distillation token."""
        label, distilled = self.pre_logits(feats).unbind(dim=1)
        return self.head(label), self.head_dist(distilled)

    def forward(self, feats: Any) -> Tensor:
        label, distilled = self.both_logits(feats)
        return (label + distilled) / 2

    def loss(
        self, feats: Any, data_samples: list, teacher_logits: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        if teacher_logits is None:
            raise ValueError("DistilledHead learns from a teacher; train it in a DistilledClassifier")
        label, distilled = self.both_logits(feats)
        losses = self._get_loss(label, data_samples)
        if self.kind == "hard":
            taught = F.cross_entropy(distilled, teacher_logits.argmax(dim=1))
        else:
            taught = soft_distillation(distilled, teacher_logits, self.temperature)
        losses["loss"] = losses["loss"] * (1 - self.weight)
        losses["loss_distillation"] = taught * self.weight
        return losses


def soft_distillation(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Divergence of the student from the teacher, scaled as in the official code.

    That code sums ``KL(teacher || student)`` over the batch, multiplies by the squared temperature and divides by the
    number of logits, B * K: as many times weaker than a mean over the batch as there are classes.

    Args:
        logits: The student's, ``(B, K)``.
        teacher_logits: ``(B, K)``.
        temperature: T.
    """
    divergence = F.kl_div(
        F.log_softmax(logits / temperature, dim=1),
        F.log_softmax(teacher_logits / temperature, dim=1),
        reduction="sum",
        log_target=True,
    )
    return divergence * temperature**2 / logits.numel()


class Unregistered(list):
    """Keeps a module out of its owner's ``parameters()`` and checkpoints; a copy of the owner shares it.

    Copies are those of moving averages, which have no use for a second teacher.
    """

    def __deepcopy__(self, memo: dict) -> Unregistered:
        return self


def _names_weights(settings: Any) -> bool:
    """Whether the config of a model names weights anywhere, in the words of mmengine, timm or Hugging Face."""
    if isinstance(settings, dict):
        named = any(settings.get(key) for key in ("checkpoint", "checkpoint_path", "pretrained"))
        return named or any(map(_names_weights, settings.values()))
    return isinstance(settings, (list, tuple)) and any(map(_names_weights, settings))


@MODELS.register_module()
class DistilledClassifier(DenseClassifier):
    """A classifier with a ``DistilledHead`` and its teacher.

    The teacher sees the student's images, mixed up and augmented as they are, in eval mode and without gradients. It
    belongs to the training only: it is not in ``parameters()`` nor in checkpoints, and a model that only predicts never
    builds it.

    Args:
        teacher: Config of any classifier of mmpretrain, for example ``dict(type='TimmClassifier',
            model_name='regnety_160.deit_in1k', pretrained=True)``, with its weights as ``init_cfg`` or ``pretrained``.
        kwargs: As for ``DenseClassifier``.

    Raises:
        ValueError: for a head that learns from no teacher.
        SetupError: before training, for a teacher of other images or other classes.
    """

    def __init__(self, teacher: dict, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(self.head, DistilledHead):
            raise ValueError(f"the head is a {type(self.head).__name__}; a DistilledClassifier has a DistilledHead")
        self._teacher_cfg = teacher
        self._teacher = Unregistered()  # empty until it is needed

    @property
    def teacher(self) -> nn.Module:
        """Built at first use, with the student's type of numbers and on its device."""
        if not self._teacher:
            if not _names_weights(self._teacher_cfg):
                text = "the teacher's config names no weights (init_cfg, pretrained): the student will learn from noise"
                print_log(text, logger="current", level=logging.WARNING)
            net: Any = MODELS.build(copy.deepcopy(self._teacher_cfg))
            if net.init_cfg or not isinstance(net, (TimmClassifier, HuggingFaceClassifier)):
                net.init_weights()  # else it was built with its weights, which this would replace in some networks
            net = net.to(next(self.parameters())).eval().requires_grad_(False)
            self._check_pixels(net)
            self._check_logits(net)
            self._teacher.append(net)
        return self._teacher[0]

    def init_weights(self) -> None:
        """Initialises the student and builds the teacher, which is refused before training if it does not fit."""
        super().init_weights()
        _ = self.teacher

    def _apply(self, fn: Any, recurse: bool = True) -> DistilledClassifier:
        for teacher in self._teacher:
            teacher._apply(fn)  # to the student's device
        return super()._apply(fn, recurse)

    def _check_pixels(self, teacher: Any) -> None:
        timm = getattr(getattr(teacher, "model", None), "default_cfg", None)  # values of 0 to 1
        for name in ("mean", "std"):
            ours, theirs = (getattr(net.data_preprocessor, name, None) for net in (self, teacher))
            ours, theirs = (x if x is None else x.flatten().tolist() for x in (ours, theirs))
            theirs = [255 * x for x in timm[name]] if timm else theirs
            stated: list[Any] = [x and [round(v, 1) for v in x] for x in (theirs, ours)]
            if theirs is None or (ours is not None and np.allclose(*stated, rtol=0, atol=0.5)):
                continue  # it does not say, or they are the same
            raise SetupError(
                f"the teacher's images have {name} {stated[0]}, the student's {stated[1]}; both see the same images, "
                "so set data_preprocessor to the teacher's, or take another teacher"
            )

    def _check_logits(self, teacher: Any) -> None:
        height, width = self.backbone.img_size
        image = next(self.parameters()).new_zeros(1, 3, height, width)
        try:
            with torch.no_grad():
                logits = teacher(image)
        except Exception as error:  # networks of fixed size raise errors of many types
            raise SetupError(
                f"the teacher cannot take the student's images of {height} x {width} pixels ({error}); take a teacher "
                "for this size, or set the images and the student's img_size to the teacher's"
            ) from error
        if logits.shape != (1, self.head.num_classes):
            raise SetupError(
                f"the teacher gives logits {tuple(logits.shape)} for an image, the student has {self.head.num_classes} "
                "classes; take a teacher of the same classes"
            )

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        with torch.no_grad():
            logits = self.teacher(inputs)
        return self.head.loss(self.extract_feat(inputs), data_samples, teacher_logits=logits)
