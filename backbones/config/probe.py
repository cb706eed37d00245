"""Runs a stock backbone to see the maps that it returns."""

import functools

import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from backbones.config.changes import BY_HAND, Levels, Unsupported

PROBE_SIZE = 224  # pixels; classifiers take it, too


def probe(backbone: dict) -> Levels:
    """Run a stock backbone once, with random weights, for the channels and strides of its maps."""
    return _probe_cached(Config(dict(backbone=backbone)).dump(), backbone["type"])


@functools.lru_cache(maxsize=8)
def _probe_cached(text: str, name: str) -> Levels:
    settings = Config.fromstring(text, ".py").backbone
    settings.pop("init_cfg", None)
    if "pretrained" in settings:  # nothing is downloaded
        settings.pretrained = False if settings.pretrained is True else None
    size = settings.get("img_size", PROBE_SIZE)  # some transformers take no other
    size = (size, size) if isinstance(size, int) else tuple(size)
    part = "model.backbone"
    try:
        net = MODELS.build(settings)
        net.eval()  # returns None in some hosts
        with torch.no_grad():
            maps = net(torch.zeros(1, 3, *size))
    except Exception as error:  # classes of the hosts raise anything
        raise Unsupported(part, f"the stock {name} could not be built and run ({error})", BY_HAND) from error
    maps = [maps] if isinstance(maps, torch.Tensor) else maps
    if not all(isinstance(x, torch.Tensor) and x.ndim == 4 for x in maps):
        raise Unsupported(
            part,
            f"the stock {name} does not return feature maps only, and the next part reads its tokens or means",
            "start from a stock config whose backbone is a ResNet",
        )
    return Levels(tuple(x.shape[1] for x in maps), tuple(round(size[0] / x.shape[2]) for x in maps))
