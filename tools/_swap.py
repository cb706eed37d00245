"""Puts a backbone of this package into a config of mmdet, mmseg or mmpretrain: which settings change, and why.

What the stock backbone returns is found by running it once; what reads its levels is found by the channels that the
config states. So any neck or head that says ``in_channels`` is understood, whichever host it is from.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from _usage import UsageError
from mmengine.config import Config
from mmengine.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.base import DenseBackbone
from backbones.dense_transformer import DenseTransformer

BACKBONES = {name: cls for name, cls in MODELS.module_dict.items() if issubclass(cls, DenseBackbone)}
# Necks that make a pyramid of equal maps (of a ViT); they are not needed in front of a backbone with four strides.
SPREADING_NECKS = ("Feature2Pyramid", "MultiLevelNeck")
PROBE_SIZE = 224  # pixels; a size that classifiers, too, take
# AdamW where a stock config has another optimizer: learning rate, the images per step it is for, weight decay. Those of
# ConvNeXt's and Swin's recipes for Mask R-CNN, UPerNet and ImageNet.
ADAMW = {"mmdet": (1e-4, 16, 0.05), "mmseg": (6e-5, 16, 0.01), "mmpretrain": (1e-3, 1024, 0.05)}
LAYER_DECAY = 0.85  # with pre-trained weights, unless told otherwise


class Unsupported(UsageError):
    """A config whose backbone cannot be exchanged by rule."""

    def __init__(self, part: str, reason: str, by_hand: str) -> None:
        super().__init__(f"{part}: {reason}.\nBy hand: {by_hand}.")


@dataclass(frozen=True)
class Change:
    """One setting of a config.

    Attributes:
        key: Dotted, as in ``--cfg-options``.
        old: What the stock config has; None where it has nothing.
        new: What takes its place.
        why: In a few words.
    """

    key: str
    old: Any
    new: Any
    why: str


@dataclass(frozen=True)
class Levels:
    """What a backbone returns: channels and stride (input pixels) of each map."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


def swap_backbone(
    cfg: Config,
    name: str,
    options: Mapping[str, Any],
    *,
    pretrained: str | None = None,
    layer_decay: float | None = None,
    scope: bool = True,
) -> list[Change]:
    """Exchanges the backbone of a config.

    Args:
        cfg: The stock config; its default scope must be the current one. Not modified.
        name: One of ``BACKBONES``.
        options: Arguments of the backbone.
        pretrained: Checkpoint to start from.
        layer_decay: Factor of the learning rate from layer to layer, in (0, 1]. Default: 0.85 with ``pretrained``; 1
            without, since no layer of random weights is closer to its goal than another.
        scope: Write ``backbones.RevCol``, which needs no import; otherwise ``RevCol`` and ``custom_imports``.

    Returns:
        The changes, in the order of the config.

    Raises:
        Unsupported: naming the part of the config that no rule covers, and what to do by hand.
    """
    host = cfg.get("default_scope", "mmengine")
    path, holder = _find_holder(cfg)
    old = _probe(holder["backbone"])
    given = dict(options)
    cls: Any = BACKBONES[name]
    # classifiers, and decoders made for maps of equal stride, want a ViT's maps as they are
    if issubclass(cls, DenseTransformer) and "pyramid" not in given and (host == "mmpretrain" or _equal_strides(old)):
        depth, n = cls.parse_arch(given.get("arch", cls.default_arch))["depth"], len(old.channels)
        given.update(pyramid=None, taps=tuple(depth * i // n - 1 for i in range(1, n + 1)))
    with torch.device("meta"):
        backbone = cls(**given)
    new = Levels(backbone.out_channels, backbone.strides)
    if pretrained and any(isinstance(module, _BatchNorm) for module in backbone.modules()):
        given.setdefault("norm_eval", True)

    readers = list(_readers(holder, old, new))
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
    changes += _preprocessor(cfg, path, holder, backbone)
    strides = _listed([new.strides[i] for i in kept])
    changes.append(
        Change(
            f"{path}.backbone",
            holder["backbone"],
            dict(_delete_=True, type=prefix + name, **given),
            f"what was {holder['backbone']['type']}'s own goes with it; its maps have strides {strides}"
            + ("" if used == list(range(len(old.channels))) else ", the ones that are read"),
        )
    )
    if holder.get("pretrained"):
        changes.append(Change(f"{path}.pretrained", holder["pretrained"], None, "weights of the stock backbone"))
    for reader in readers:
        changes += reader.rewired(path, old, new, place, kept)
    decay = layer_decay if layer_decay is not None else (LAYER_DECAY if pretrained else 1.0)
    changes += _optimizer(cfg, host, backbone, decay, prefix)
    return changes


# ------------------------------------------------------------------------------------------------------------ backbones
def _find_holder(cfg: Config) -> tuple[str, dict]:
    """The dict that has the backbone, and where it is: ``model``, or a detector inside it."""

    def find(node: Any, where: str) -> Iterator[tuple[str, dict]]:
        if isinstance(node, dict):
            if isinstance(node.get("backbone"), dict) and "type" in node["backbone"]:
                yield where, node
            for key, value in node.items():
                yield from find(value, f"{where}.{key}")

    found = list(find(cfg.get("model") or {}, "model"))
    if not found:
        reason = "it has no backbone that could be exchanged"
        raise Unsupported("model", reason, "give the config of a whole model with model.backbone, not a part of one")
    if len(found) > 1:
        where = ", ".join(f"{path}.backbone" for path, _ in found)
        raise Unsupported("model", f"it has {len(found)} backbones, {where}", _BY_HAND)
    return found[0]


_BY_HAND = "put dict(_delete_=True, type='backbones.RevCol', arch='tiny') in the backbone's place and its out_channels \
(64, 128, 256, 512; strides 4, 8, 16, 32) wherever the old channels stand"


def _probe(backbone: dict) -> Levels:
    """Runs a stock backbone once, with random weights, to see what it returns."""
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
    except Exception as error:  # whatever a host's class says
        raise Unsupported(part, f"the stock {name} could not be built and run ({error})", _BY_HAND) from error
    maps = [maps] if isinstance(maps, torch.Tensor) else maps
    if not all(isinstance(x, torch.Tensor) and x.ndim == 4 for x in maps):
        raise Unsupported(
            part,
            f"the stock {name} does not return feature maps only, and what follows reads its tokens or means",
            "start from a stock config whose backbone is a ResNet",
        )
    return Levels(tuple(x.shape[1] for x in maps), tuple(round(size[0] / x.shape[2]) for x in maps))


def _equal_strides(levels: Levels) -> bool:
    return len(levels.strides) > 1 and len(set(levels.strides)) == 1


def _match(old: Levels, new: Levels, used: Sequence[int], name: str) -> dict[int, int]:
    """For each used level of the old backbone the level of the new one that takes its place."""
    if len(set(old.strides)) == len(old.strides) and {old.strides[i] for i in used} <= set(new.strides):
        return {i: new.strides.index(old.strides[i]) for i in used}
    if len(old.strides) == len(new.strides):  # dilated stages, or a ViT's equal maps: in the same order
        return {i: i for i in used}
    raise Unsupported(
        "model.backbone",
        f"{name} returns strides {old.strides}, of which {tuple(old.strides[i] for i in used)} are read; the new "
        f"backbone has {new.strides}",
        "use a neck or head for strides 4, 8, 16, 32, such as an FPN",
    )


# ------------------------------------------------------------------------------------- what reads the backbone's levels
@dataclass(frozen=True)
class _Reader:
    """A neck or head.

    Attributes:
        key: Where it is in the holder, such as ``neck`` or ``auxiliary_head.1``.
        part: Its config.
        reads: Indices of the old levels whose channels it states.
    """

    key: str
    part: dict
    reads: tuple[int, ...]

    @property
    def needs(self) -> set[int]:
        """All old levels that it reads: DeepLabV3+ takes the first map besides."""
        return {*self.reads, *([0] if self.part.get("c1_in_channels") else [])}

    def rewired(
        self, path: str, old: Levels, new: Levels, place: Mapping[int, int], kept: Sequence[int]
    ) -> Iterator[Change]:
        where = f"{path}.{self.key}"
        if self.part.get("type") in SPREADING_NECKS and not _equal_strides(new):
            yield Change(where, self.part, None, "it spreads equal maps over four strides; the backbone has four")
            return
        levels = [place[i] for i in self.reads]
        before, after = [old.strides[i] for i in self.reads], [new.strides[i] for i in levels]
        why = f"channels of stride {_listed(after)}"
        if before != after:
            why += f"; the stock maps there have stride {_listed(before)}"
        for key in ("in_channels", "embed_dim"):
            if given := self.part.get(key):
                channels = [new.channels[i] for i in levels]
                if isinstance(given, int):
                    yield Change(f"{where}.{key}", given, channels[-1], why)
                else:
                    flipped = [*given] == [*old.channels[::-1]] != [*old.channels]  # YOLOv3
                    yield Change(f"{where}.{key}", given, channels[::-1] if flipped else channels, why)
        if given := self.part.get("c1_in_channels"):
            first = place[0]
            yield Change(
                f"{where}.c1_in_channels", given, new.channels[first], f"channels of stride {new.strides[first]}"
            )
        if (start := self.part.get("start_level", 0)) and len(self.reads) < len(old.channels):
            yield Change(f"{where}.start_level", start, 0, "the finer levels are not computed")
        if (given := self.part.get("in_index")) is not None:
            index = [kept.index(i) for i in levels]
            stated = [given] if isinstance(given, int) else given
            if [i % len(kept) for i in stated] != index or len(kept) < len(old.channels):
                yield Change(f"{where}.in_index", given, index[0] if isinstance(given, int) else index, why)
        if (given := self.part.get("strides")) and list(given) != after:
            yield Change(f"{where}.strides", given, after, "of the maps it is given")


def _readers(holder: dict, old: Levels, new: Levels) -> Iterator[_Reader]:
    """The neck; and the heads, where there is no neck or it passes on what it is given."""
    everything = tuple(range(len(old.channels)))
    for key, neck in itertools.islice(_walk("neck", holder.get("neck")), 1):  # the others read the first
        if "rfp_backbone" in neck:
            raise Unsupported(key, f"{neck['type']} holds a second backbone", "start from the stock FPN config")
        if given := neck.get("in_channels"):
            reads = everything[-1:] if isinstance(given, int) else everything
            _check_channels(key, given, reads, old)
            if start := neck.get("start_level", 0):
                reads = everything[start:] if neck.get("end_level", -1) == -1 else reads
            yield _Reader(key, neck, reads)
            if neck["type"] not in SPREADING_NECKS or _equal_strides(new):
                if _equal_strides(old) and not _equal_strides(new):
                    reason = f"{neck['type']} joins maps of equal stride, and the new ones have {new.strides}"
                    raise Unsupported(key, reason, "use a transformer of this package, or an FPN")
                return
        elif "embed_dim" in neck:
            yield _Reader(key, neck, everything)
        elif "out_channels" in neck:
            reason = f"it is not known where {neck['type']} takes its channels from"
            raise Unsupported(key, reason, f"the channels are {new.channels}")
    if holder.get("roi_head") is not None:
        reason = "it reads the backbone without a neck, through a stage of it"
        raise Unsupported("roi_head", reason, "start from the stock FPN config")
    heads = [
        (key, head)
        for name, value in holder.items()
        if name not in ("backbone", "neck", "data_preprocessor", "train_cfg", "test_cfg")
        for key, head in _walk(name, value)
        if "in_channels" in head and (key.count(".") == 0 or "in_index" in head)
    ]
    if not heads:
        reason = f"nothing in it reads the stock backbone's channels {old.channels} by in_channels"
        raise Unsupported("model", reason, _BY_HAND)
    for key, head in heads:
        given, index = head["in_channels"], head.get("in_index")
        if index is None:
            reads = everything[-1:] if isinstance(given, int) else everything
        else:
            reads = tuple(everything[i] for i in ([index] if isinstance(index, int) else index))
        _check_channels(key, given, reads, old)
        yield _Reader(key, head, reads)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _walk(key: str, node: Any) -> Iterator[tuple[str, dict]]:
    """A part and the parts inside it, with their places."""
    if isinstance(node, dict):
        yield key, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, child in children:
        yield from _walk(f"{key}.{name}", child)


def _check_channels(key: str, given: int | Sequence[int], reads: Sequence[int], old: Levels) -> None:
    channels = [old.channels[i] for i in reads]
    stated = [given] if isinstance(given, int) else list(given)
    if stated not in (channels, channels[::-1]):
        raise Unsupported(
            f"model.{key}.in_channels",
            f"it is {given}, but the stock backbone's maps there have {channels} channels",
            "correct the stock config first",
        )


# ----------------------------------------------------------------------------------------------- images and optimizer
def _preprocessor(cfg: Config, path: str, holder: dict, backbone: DenseBackbone) -> Iterator[Change]:
    """Normalisation of the images as the new backbone's published weights expect it."""
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


def _optimizer(cfg: Config, host: str, backbone: DenseBackbone, decay: float, prefix: str) -> Iterator[Change]:
    """AdamW with layer-wise learning rates, and schedules that end where they should for its learning rate."""
    wrapper = cfg.get("optim_wrapper")
    if wrapper is None or "optimizer" not in wrapper:
        return
    stock = wrapper["optimizer"]
    constructor = f"{prefix}DenseLayerDecayOptimWrapperConstructor"
    yield Change(
        "optim_wrapper.constructor",
        wrapper.get("constructor"),
        constructor,
        f"a layer's learning rate is {decay} of the next one's",
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
    why = f"these backbones do not train well with {stock['type']}; the rate is for {batch} images a step"
    yield Change("optim_wrapper.optimizer", stock, adamw, why)
    given = cfg.get("param_scheduler")
    schedules = [given] if isinstance(given, dict) else list(given or [])
    scaled = [
        {**s, "eta_min": float(f"{s['eta_min'] * lr / stock['lr']:.3g}")} if s.get("eta_min") else s for s in schedules
    ]
    if scaled != schedules:
        yield Change("param_scheduler", given, scaled, "eta_min in proportion to the new learning rate")
