"""How a classifier gathers its class vector: CaiT's class attention, CeiT's attention over the layers' class tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from backbones.attention_maps import AttentionInput
from backbones.cait import CaiTTrunk, ClassAttention
from backbones.ceit import CeiTTrunk, LayerwiseClassAttention
from backbones.look.colors import energy_colors
from backbones.look.levels import THUMBNAIL, photograph
from backbones.look.record import Look
from backbones.pictures.html import BLUE, chart, grid, picture

CLASS_TEXT = """<h2>Class attention</h2>
<p>Where the class token looks in the blocks behind the last one, which read the patches and never change them. Dark is
0, bright the head's largest weight.</p>"""
LAYER_TEXT = """<h2>Class tokens of all layers</h2>
<p>How much the class token of each layer contributes to the class vector: its weight in the last attention, which runs
over the layers.</p>"""
ALONE = (
    """<h2>Class attention</h2><p>It belongs to the classifier: look at the config of one, with its checkpoint.</p>"""
)


def show(look: Look) -> Iterator[str]:
    """The attention of the classifier's own layers; nothing for models of other families."""
    model, backbone = look.subject.model, look.subject.backbone
    over_patches = [m for m in model.modules() if isinstance(m, ClassAttention)]
    over_layers = [m.lca.attn for m in model.modules() if isinstance(m, LayerwiseClassAttention)]
    if not over_patches and not over_layers:
        if isinstance(backbone, (CaiTTrunk, CeiTTrunk)):
            yield ALONE
        return
    inputs = [classify(look, i, [*over_patches, *over_layers]) for i in range(len(look.views))]
    if over_patches:
        yield CLASS_TEXT
        for view, given in zip(look.views, inputs, strict=True):
            for i, module in enumerate(over_patches):
                weights = module.maps(*given[module])[0, :, 1:]  # (h, N), of the patches
                maps = weights.unflatten(1, view.attention[0].grid).cpu()
                figures = [picture(energy_colors([m[None]])[0], f"head {head}") for head, m in enumerate(maps)]
                yield f"<h4>Class attention {i}</h4>{grid([photograph(view.photo, THUMBNAIL), *figures], 'strip')}"
    for module in over_layers:
        weights = [AttentionInput(module, *given[module][:2]).maps()[0, :, 0] for given in inputs]  # each (h, L)
        yield LAYER_TEXT + grid([layer_chart(torch.stack(weights).mean(0).cpu())], "charts")


@torch.no_grad()
def classify(look: Look, index: int, modules: Sequence[nn.Module]) -> dict[nn.Module, tuple[Any, ...]]:
    """The arguments of some modules while a photograph is classified."""
    found: dict[nn.Module, tuple[Any, ...]] = {}
    hooks = [m.register_forward_pre_hook(lambda module, args: found.update({module: args})) for m in modules]
    try:
        images = look.subject.images(look.views[index].photo.pixels[None])
        look.subject.model.extract_feat(images, stage="pre_logits")
    finally:
        for hook in hooks:
            hook.remove()
    return found


def layer_chart(weights: Tensor) -> str:
    """Weights ``(h, L)`` of the layers: a line for each head, bars for their mean."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axis = figure.add_subplot()
    layers = range(weights.shape[1])
    axis.bar(layers, weights.mean(0), color=BLUE, alpha=0.4, label="mean of the heads")
    for head, line in enumerate(weights):
        axis.plot(layers, line, marker=".", linewidth=0.8, label=f"head {head}")
    axis.set(xlabel="layer", ylabel="weight", xticks=layers)
    axis.legend(fontsize=7)
    return chart(figure, "weight of each layer's class token, mean over the photographs")
