"""One training step and one prediction of a config's model on noise."""

import copy
import logging
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import MODELS

from backbones.config.lookup import model_settings
from backbones.usage import UsageError


def try_model(cfg: Config, size: int = 256) -> str:
    """Train the model of a config for one step on noise, then predict.

    Args:
        cfg: A config whose backbone is one of this package; its default scope must be the current one. Padding to a
            fixed size and mixing of images are left out.
        size: Height and width of the images, in pixels.

    Returns:
        A summary in one line.

    Raises:
        UsageError: if the loss is not finite, or a trainable parameter of the backbone gets no gradient.
    """
    settings = copy.deepcopy(model_settings(cfg))
    images = settings["data_preprocessor"] or {}
    images.pop("batch_augments", None)
    if images.get("size"):
        images["size"] = (size, size)
    host = cfg.get("default_scope", "mmengine")
    model: Any = MODELS.build(settings)
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)  # mmengine logs the initialisation of every parameter
    try:
        model.init_weights()
    finally:
        logger.setLevel(level)
    model.train()
    MessageHub.get_current_instance().update_info("epoch", 0)  # some losses read it
    masks = any("mask" in name for name, _ in model.named_modules())
    batch = random_batch(host, size, masks, images=1 if host == "mmdet" else 2)  # batch norm of pooled maps needs two
    total, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode="loss"))
    total.backward()
    if not torch.isfinite(total):
        raise UsageError(f"the training loss on noise is {total.item()}")
    idle = [name for name, p in model.backbone.named_parameters() if p.requires_grad and p.grad is None]
    if idle:
        raise UsageError(f"{len(idle)} parameters of the backbone get no gradient: {', '.join(idle[:4])}")
    model.eval()
    with torch.no_grad():
        (prediction,) = model.test_step(random_batch(host, size, masks, images=1))
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return (
        f"{type(model).__name__} with {millions:.1f} M parameters: loss {total.item():.3f} on noise, every trainable "
        f"parameter of the backbone has a gradient, prediction is a {type(prediction).__name__}"
    )


def random_batch(host: str, size: int, masks: bool, images: int) -> dict[str, Any]:
    """A batch of noise with the labels that models of a host train on.

    Args:
        host: ``mmdet``, ``mmseg`` or ``mmpretrain``.
        size: Height and width in pixels.
        masks: Whether objects have masks; some of mmdet's models do not take them.
        images: Number of images.
    """
    if host == "mmdet":
        from mmdet.testing import demo_mm_inputs

        batch = demo_mm_inputs(images, (3, size, size), [2] * images, 8, with_mask=masks, with_semantic=True)
        for sample in batch["data_samples"]:
            sample.set_metainfo(dict(scale_factor=(1.0, 1.0), batch_input_shape=(size, size), pad_shape=(size, size)))
        return batch
    rng = np.random.default_rng(0)
    inputs = [torch.from_numpy(rng.integers(0, 256, (3, size, size), dtype=np.uint8)) for _ in range(images)]
    if host == "mmseg":
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        samples = [
            SegDataSample(
                metainfo=dict(img_shape=(size, size), ori_shape=(size, size), pad_shape=(size, size), flip=False),
                gt_sem_seg=PixelData(data=torch.from_numpy(rng.integers(0, 2, (1, size, size)))),
            )
            for _ in range(images)
        ]
    else:
        from mmpretrain.structures import DataSample

        samples = [DataSample().set_gt_label(i) for i in range(images)]
    return dict(inputs=inputs, data_samples=samples)
