"""Replaces the backbone of a config of mmdet, mmseg or mmpretrain: the settings that change, each with its reason."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.base import DenseBackbone
from backbones.config.changes import BY_HAND, Change, Levels, Unsupported
from backbones.config.probe import probe
from backbones.config.readers import find_readers, listed
from backbones.config.recipe import optimizer_changes, preprocessor_changes

BACKBONES = {name: cls for name, cls in MODELS.module_dict.items() if issubclass(cls, DenseBackbone)}
LAYER_DECAY = 0.85  # default with pre-trained weights


def swap_backbone(
    cfg: Config,
    name: str,
    options: Mapping[str, Any],
    *,
    pretrained: str | None = None,
    layer_decay: float | None = None,
    scope: bool = True,
) -> list[Change]:
    """Exchange the backbone of a config.

    Args:
        cfg: The stock config; its default scope must be the current one. Not modified.
        name: One of ``BACKBONES``.
        options: Arguments of the backbone.
        pretrained: Checkpoint to start from.
        layer_decay: Factor of the learning rate from layer to layer, in (0, 1]. Default: 0.85 with ``pretrained``,
            otherwise 1.
        scope: Write ``backbones.RevCol``, which needs no import; otherwise ``RevCol`` and ``custom_imports``.

    Returns:
        The changes, in the order of the config.

    Raises:
        Unsupported: naming the part of the config that no rule covers, and the change to make by hand.
    """
    host = cfg.get("default_scope", "mmengine")
    path, holder = _find_holder(cfg)
    old = probe(holder["backbone"])
    given = dict(options)
    cls: Any = BACKBONES[name]
    # classifiers, and decoders for maps of equal stride, read the maps of a ViT without a pyramid
    if "pyramid" not in given and (host == "mmpretrain" or old.equal_strides):
        given.update(cls.raw_maps(given.get("arch"), len(old.channels)))
    with torch.device("meta"):
        backbone = cls(**given)
    new = Levels(backbone.out_channels, backbone.strides)
    if pretrained and any(isinstance(module, _BatchNorm) for module in backbone.modules()):
        given.setdefault("norm_eval", True)

    readers = list(find_readers(holder, old, new))
    used = sorted(set().union(*(reader.needs for reader in readers)))
    place = _match(old, new, used, holder["backbone"]["type"])
    kept = [place[level] for level in used]
    if kept != list(range(len(new.channels))):
        given["out_indices"] = tuple(backbone.out_indices[i] for i in kept)
    if pretrained:
        given["init_cfg"] = dict(type="Pretrained", checkpoint=pretrained)
    prefix = "backbones." if scope else ""

    changes = []
    if not scope:
        imports = [*cfg.get("custom_imports", {}).get("imports", []), "backbones"]
        new_imports = dict(imports=imports, allow_failed_imports=False)
        changes.append(Change("custom_imports", cfg.get("custom_imports"), new_imports, f"registers {name}"))
    if cfg.get("load_from"):
        changes.append(Change("load_from", cfg.load_from, None, "weights of the stock model"))
    changes += preprocessor_changes(cfg, path, holder, backbone)
    strides = listed([new.strides[i] for i in kept])
    changes.append(
        Change(
            f"{path}.backbone",
            holder["backbone"],
            dict(_delete_=True, type=prefix + name, **given),
            f"replaces all settings of {holder['backbone']['type']}; strides {strides}"
            + ("" if used == list(range(len(old.channels))) else ", the levels that are read"),
        )
    )
    if holder.get("pretrained"):
        changes.append(Change(f"{path}.pretrained", holder["pretrained"], None, "weights of the stock backbone"))
    for reader in readers:
        changes += reader.rewired(path, old, new, place, kept)
    decay = layer_decay if layer_decay is not None else (LAYER_DECAY if pretrained else 1.0)
    changes += optimizer_changes(cfg, host, backbone, decay, prefix)
    return changes


def _find_holder(cfg: Config) -> tuple[str, dict]:
    """The dict with the backbone and its key: ``model``, or a detector inside it."""

    def find(node: Any, where: str) -> Iterator[tuple[str, dict]]:
        if isinstance(node, dict):
            if isinstance(node.get("backbone"), dict) and "type" in node["backbone"]:
                yield where, node
            for key, value in node.items():
                yield from find(value, f"{where}.{key}")

    found = list(find(cfg.get("model") or {}, "model"))
    if not found:
        reason = "it has no backbone"
        raise Unsupported("model", reason, "give the config of a whole model with model.backbone, not a part of one")
    if len(found) > 1:
        where = ", ".join(f"{path}.backbone" for path, _ in found)
        raise Unsupported("model", f"it has {len(found)} backbones, {where}", BY_HAND)
    return found[0]


def _match(old: Levels, new: Levels, used: Sequence[int], name: str) -> dict[int, int]:
    """Used level of the old backbone -> level of the new one."""
    if len(set(old.strides)) == len(old.strides) and {old.strides[i] for i in used} <= set(new.strides):
        return {i: new.strides.index(old.strides[i]) for i in used}
    if len(old.strides) == len(new.strides):  # dilated stages or equal maps of a ViT: in the same order
        return {i: i for i in used}
    raise Unsupported(
        "model.backbone",
        f"{name} returns strides {old.strides}, of which {tuple(old.strides[i] for i in used)} are read; the new "
        f"backbone has {new.strides}",
        "use a neck or head for strides 4, 8, 16, 32, such as an FPN",
    )
