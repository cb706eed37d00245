"""The settings beside the model that follow a backbone: normalisation of images, optimizer, schedules."""

from collections.abc import Iterator

from mmengine.config import Config

from backbones.base import DenseBackbone
from backbones.config.changes import Change

# AdamW for stock configs with another optimizer: learning rate, images per step at that rate, weight decay, from the
# recipes of ConvNeXt and Swin for Mask R-CNN, UPerNet and ImageNet.
ADAMW = {"mmdet": (1e-4, 16, 0.05), "mmseg": (6e-5, 16, 0.01), "mmpretrain": (1e-3, 1024, 0.05)}


def preprocessor_changes(cfg: Config, path: str, holder: dict, backbone: DenseBackbone) -> Iterator[Change]:
    """Normalise images as the new backbone's published weights require."""
    where, part = f"{path}.data_preprocessor", holder.get("data_preprocessor")
    if part is None:  # mmpretrain keeps it beside the model
        where, part = "data_preprocessor", cfg.get("data_preprocessor")
    if part is None:
        return
    to_rgb = "to_rgb" if "to_rgb" in part or cfg.get("default_scope") == "mmpretrain" else "bgr_to_rgb"
    wanted = dict(mean=list(backbone.pixel_mean), std=list(backbone.pixel_std), **{to_rgb: True})
    for key, value in wanted.items():
        given = part.get(key)
        if (list(given) if isinstance(given, (list, tuple)) else given) != value:
            yield Change(f"{where}.{key}", given, value, f"as the weights of {type(backbone).__name__} expect images")


def optimizer_changes(cfg: Config, host: str, backbone: DenseBackbone, decay: float, prefix: str) -> Iterator[Change]:
    """AdamW with layer-wise learning rates, and schedules scaled to its learning rate."""
    wrapper = cfg.get("optim_wrapper")
    if wrapper is None or "optimizer" not in wrapper:
        return
    stock = wrapper["optimizer"]
    constructor = f"{prefix}DenseLayerDecayOptimWrapperConstructor"
    yield Change(
        "optim_wrapper.constructor",
        wrapper.get("constructor"),
        constructor,
        f"layer-wise learning-rate decay of {decay}",
    )
    old = wrapper.get("paramwise_cfg")
    custom = {key: value for key, value in ((old or {}).get("custom_keys") or {}).items() if "backbone" not in key}
    names = "\n".join(name for name, _ in backbone.named_parameters())
    custom |= {part: dict(decay_mult=0.0) for part in backbone.undecayed if part in names}
    paramwise = dict(layer_decay_rate=decay, custom_keys=custom)
    if old is not None:
        paramwise = dict(_delete_=True, **paramwise)
    why = "norms, biases and the named parts have no weight decay; the backbone's own settings are replaced"
    yield Change("optim_wrapper.paramwise_cfg", old, paramwise, why)
    if stock["type"] == "AdamW":
        return
    lr, images, weight_decay = ADAMW.get(host, ADAMW["mmdet"])
    batch = (cfg.get("auto_scale_lr") or {}).get("base_batch_size", images)
    lr = float(f"{lr * batch / images:.3g}")
    adamw = dict(_delete_=True, type="AdamW", lr=lr, weight_decay=weight_decay)
    why = f"these backbones train poorly with {stock['type']}; the rate is for {batch} images a step"
    yield Change("optim_wrapper.optimizer", stock, adamw, why)
    given = cfg.get("param_scheduler")
    schedules = [given] if isinstance(given, dict) else list(given or [])
    scaled = [
        {**s, "eta_min": float(f"{s['eta_min'] * lr / stock['lr']:.3g}")} if s.get("eta_min") else s for s in schedules
    ]
    if scaled != schedules:
        yield Change("param_scheduler", given, scaled, "eta_min in proportion to the new learning rate")
