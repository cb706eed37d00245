"""The facts that a file carries for those who run it: classes, normalisation, and the meaning of the outputs."""

from typing import Any

from mmengine.config import Config

from backbones.base import DenseBackbone
from backbones.config.pixels import normalisation
from backbones.datasets.metainfo import class_meta
from backbones.export.outputs import Network


def describe(network: Network, cfg: Config | None = None, trained: dict[str, Any] | None = None) -> dict[str, Any]:
    """Metadata of a file.

    Args:
        network: The exported network.
        cfg: Its config; None for a backbone alone, whose images are those of its published weights.
        trained: Metadata of the data set that its weights were trained on.

    Returns:
        ``model``, ``classes`` (names, or numbers if no names are known; empty for a backbone), ``channel_order`` of the
        images (``RGB`` or ``BGR``), ``layout`` of the input, ``mean`` and ``std`` in pixel values and that order,
        ``outputs``, and for each output its ``strides`` in pixels (0 for logits of whole images) and its ``channels``.
    """
    order, mean, std = normalisation(network.backbone, cfg)
    return dict(
        model=type(network.model).__name__,
        classes=[] if cfg is None else list(class_meta(cfg, trained)["classes"]),
        layout="NCHW float32, (pixel - mean) / std",
        channel_order=order,
        mean=mean,
        std=std,
        outputs=network.names,
        strides=strides(network),
        channels=network.channels,
    )


def strides(network: Network) -> list[int]:
    """Pixels of the image from one value of an output to the next, for each output."""
    if isinstance(network.model, DenseBackbone):
        return list(network.model.strides)
    if network.segments:
        return [1]
    if hasattr(network.model, "bbox_head"):
        levels = [stride[0] for stride in network.model.bbox_head.prior_generator.strides]
        return [levels[i % len(levels)] for i in range(len(network.names))]
    return [0] * len(network.names)
