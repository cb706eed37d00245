"""The parts of a model with their parameters and multiply-accumulates, and the maps of its backbone."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from backbones.base import Backbone, DenseBackbone
from backbones.config.lookup import model_settings
from backbones.info.counting import mac_counter, macs

META = torch.device("meta")


@dataclass(frozen=True)
class Part:
    """A part of a model.

    Attributes:
        name: Its name in the model, with its class.
        parameters: Number of values.
        macs: Multiply-accumulates of an image, or None where they are not counted.
        reason: Why they are not.
    """

    name: str
    parameters: int
    macs: int | None
    reason: str = ""


def build(settings: Any) -> nn.Module:
    """Build a model of the registry on the meta device."""

    def make() -> Any:
        return MODELS.build(settings)

    try:
        with META:
            return make()
    except RuntimeError:  # some constructors read values, such as the rates of stochastic depth
        return make().to(META)


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config on the meta device; the config's default scope must be the current one."""
    return build(model_settings(cfg))


def count_parameters(module: nn.Module) -> int:
    """Number of values in the parameters."""
    return sum(p.numel() for p in module.parameters())


def backbone_parts(backbone: nn.Module, size: tuple[int, int]) -> tuple[list[Part], Any]:
    """Run a backbone on the meta device, in evaluation mode.

    Args:
        backbone: On the meta device.
        size: Height and width of the image, in pixels.

    Returns:
        The stem, where the backbone names one, and the backbone; and the backbone's output.
    """
    image = torch.empty(1, 3, *size, device=META)
    backbone.eval()  # returns None in some hosts
    with torch.no_grad(), mac_counter() as counter:
        output = backbone(image)
    parts = []
    if isinstance(backbone, Backbone):
        names = {module: f"{type(backbone).__name__}.{name}" for name, module in backbone.named_modules()}
        stem = backbone.stages()["stem"]
        count = sum(count_parameters(part) if isinstance(part, nn.Module) else part.numel() for part in stem)
        counted = sum(macs(counter, names[part]) for part in stem if isinstance(part, nn.Module))
        parts.append(Part("stem", count, counted))
    parts.append(Part(f"backbone ({type(backbone).__name__})", count_parameters(backbone), macs(counter)))
    return parts, output


def other_parts(model: Any, maps: Any, size: tuple[int, int]) -> Iterator[Part]:
    """Neck and heads, each run on the maps that it reads, on the meta device and in evaluation mode.

    Args:
        model: On the meta device.
        maps: Output of its backbone, which the neck reads.
        size: Height and width of the image, in pixels.
    """
    model.eval()
    with torch.no_grad():
        features = model.extract_feat(torch.empty(1, 3, *size, device=META))
    for name, part in _children(model):
        count = count_parameters(part)
        if name == "backbone" or count == 0:
            continue
        label = f"{name} ({type(part).__name__})"
        if further := _further_arguments(part):
            yield Part(label, count, None, f"it also reads {', '.join(further)}")
            continue
        try:
            # Not under no_grad, in which the counter does not take parameters as inputs of a module.
            with mac_counter() as counter:
                part(maps if name == "neck" else features)
        except Exception:  # parts of the hosts raise anything
            yield Part(label, count, None, "it does not run on the maps alone, or not on the meta device")
            continue
        yield Part(label, count, macs(counter))


def _children(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a model, lists of heads one by one."""
    for name, part in model.named_children():
        if isinstance(part, nn.ModuleList):
            yield from ((f"{name}.{i}", child) for i, child in enumerate(part))
        else:
            yield name, part


def _further_arguments(part: nn.Module) -> list[str]:
    """Names of the arguments of forward, behind the first, that have no default."""
    _, *others = inspect.signature(part.forward).parameters.values()
    return [p.name for p in others if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def levels(backbone: nn.Module, output: Any, size: tuple[int, int]) -> list[tuple[int | None, tuple[int, ...]]]:
    """Stride, None for tokens, and shape without the batch of each tensor that a backbone returns.

    Args:
        backbone: The backbone.
        output: Its output for one image.
        size: Height and width of the image, in pixels.
    """
    tensors = [x for x in tree_leaves(output) if isinstance(x, Tensor)]
    strides: Sequence[int | None] = [round(size[0] / x.shape[2]) if x.ndim == 4 else None for x in tensors]
    if isinstance(backbone, DenseBackbone):
        strides = backbone.strides
    return [(stride, tuple(x.shape[1:])) for stride, x in zip(strides, tensors, strict=True)]
