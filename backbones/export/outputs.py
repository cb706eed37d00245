"""A model as a network from images to named tensors, without data samples, losses and decoding."""

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from backbones.base import DenseBackbone
from backbones.layers import padding
from backbones.usage import UsageError, command

DETECTOR_OUTPUTS = ("class_scores", "boxes", "centerness")  # in the order of mmdet's dense heads


class Network(nn.Module):
    """A model in evaluation mode: ``(B, 3, H, W)``, normalised, to a tuple of tensors.

    Args:
        model: A backbone, or a model of mmpretrain, mmseg or mmdet.

    Attributes:
        backbone: The model's backbone.
        names: Names of the outputs.
        channels: Channels of each output.
        segments: Whether it is a segmentor.
        multiple: Images are padded with zeros, at the bottom and the right, to multiples of it: 32 for models that take
            no others, else 1.

    Raises:
        UsageError: for a model whose outputs are not tensors of fixed meaning, with the reason.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        check_supported(model)
        self.model: Any = revert_sync_batchnorm(model)
        self.backbone: Any = model if isinstance(model, DenseBackbone) else model.backbone
        self.segments = hasattr(model, "decode_head")
        replace_adaptive_pools(self.model)
        self.eval().requires_grad_(False)
        self.multiple = 1
        with torch.no_grad():
            outputs = self.run(torch.zeros(1, 3, 224, 224))
            try:
                self.run(torch.zeros(1, 3, 203, 181))
            except RuntimeError:  # necks that enlarge maps by 2 and join them, such as RTMDet's
                self.multiple = 32
        self.names = output_names(model, outputs)
        self.channels = [tensor.shape[1] for group in outputs for tensor in group]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.multiple > 1:
            bottom, right = (padding(side, self.multiple) for side in images.shape[2:])
            images = F.pad(images, (0, right, 0, bottom))
        return tuple(tensor for group in self.run(images) for tensor in group)

    def run(self, images: Tensor) -> list[Any]:
        """The outputs in groups: the levels of each kind of map."""
        if isinstance(self.model, DenseBackbone):
            return [self.model(images)]
        outputs: Any = self.model(images, mode="tensor")
        if self.segments:
            size = images.shape[2:]
            return [[F.interpolate(outputs, size=size, mode="bilinear", align_corners=self.model.align_corners)]]
        if isinstance(outputs, Tensor):
            return [[outputs]]
        return list(outputs)


def check_supported(model: Any) -> None:
    """Refuse models whose graph depends on their predictions.

    Raises:
        UsageError: with the reason and the way out.
    """
    name = type(model).__name__
    alone = f"export its backbone alone: {command('export-weights')} CHECKPOINT -o FILE, {command('export')} CLASS FILE"
    if hasattr(model, "roi_head") or hasattr(model, "rpn_head"):
        raise UsageError(
            f"{name} has two stages: the second one crops the maps at the boxes that the first one finds, as many as "
            "there are, so it is no fixed graph of tensors. Export a single-stage detector (RetinaNet, FCOS, RTMDet), "
            f"or {alone}"
        )
    if isinstance(model, DenseBackbone):
        return
    if not hasattr(model, "backbone"):
        raise UsageError(f"{name} has no backbone; export takes classifiers, segmentors and single-stage detectors")
    if hasattr(model, "encoder") or (hasattr(model, "bbox_head") and hasattr(model, "decoder")):
        raise UsageError(
            f"{name} decodes queries with deformable attention, an operator of mmcv that ONNX lacks; {alone}"
        )


def output_names(model: Any, outputs: list[Any]) -> list[str]:
    """One name for each tensor of ``Network``: ``logits``, ``level0``, ``class_scores0``, ..."""
    tensors = [tensor for group in outputs for tensor in group]
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        kinds = sorted({type(tensor).__name__ for tensor in tensors})
        raise UsageError(f"{type(model).__name__} returns {', '.join(kinds)}; export takes models that return tensors")
    if isinstance(model, DenseBackbone):
        return [f"level{i}" for i in model.out_indices]
    if not hasattr(model, "bbox_head"):
        return ["logits"]
    return [f"{name}{i}" for name, group in zip(DETECTOR_OUTPUTS, outputs, strict=False) for i in range(len(group))]


class AdaptiveMean(nn.Module):
    """``nn.AdaptiveAvgPool2d`` for maps of any size: ONNX has it for sizes known in advance only.

    The cells of an output row are from floor(i H / n) to ceil((i + 1) H / n), so each mean is a product with a matrix.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (means(n, length, x) for n, length in zip(self.size, x.shape[2:], strict=True))
        return rows @ x @ columns.T


def means(n: int, length: int, like: Tensor) -> Tensor:
    """``(n, length)``: each row takes the mean of a cell."""
    cell, place = torch.arange(n, device=like.device)[:, None], torch.arange(length, device=like.device)
    inside = (place >= cell * length // n) & (place < ((cell + 1) * length + n - 1) // n)
    weights = inside.to(like.dtype)
    return weights / weights.sum(1, keepdim=True)


def replace_adaptive_pools(model: nn.Module) -> None:
    """Put ``AdaptiveMean`` in the place of every adaptive pool with more than one value, in place."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size: Any = child.output_size
                rows, columns = (size, size) if isinstance(size, int) else size
                if (rows, columns) != (1, 1):  # the mean of the map, which ONNX has
                    setattr(module, name, AdaptiveMean((rows, columns)))
