"""How the images of a model are normalised."""

from typing import Any

from mmengine.config import Config

SWAPS = ("bgr_to_rgb", "rgb_to_bgr", "to_rgb")  # settings of the hosts' preprocessors; their loaders give BGR


def normalisation(backbone: Any, cfg: Config | None) -> tuple[str, list[float], list[float]]:
    """Order of the channels, ``RGB`` or ``BGR``, and their mean and standard deviation in pixel values.

    Args:
        backbone: The model's backbone.
        cfg: The model's config; None for a backbone alone, whose images are those of its published weights.
    """
    if cfg is None:
        return "RGB", [float(v) for v in backbone.pixel_mean], [float(v) for v in backbone.pixel_std]
    images = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
    order = "RGB" if any(images.get(swap) for swap in SWAPS) else "BGR"
    mean, std = images.get("mean") or [0.0] * 3, images.get("std") or [1.0] * 3
    return order, [float(v) for v in mean], [float(v) for v in std]
