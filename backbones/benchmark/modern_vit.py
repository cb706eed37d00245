"""DINOv2, DINOv3, SigLIP 2, EVA-02 and BEiT against timm's modules with the same weights; frozen trunks."""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from backbones import EVA02, BEiT, DINOv2, DINOv3, SigLIP2
from backbones.benchmark.measure import (
    MIB,
    Net,
    inference,
    paired_seconds,
    peak_mib,
    ratio,
    slope,
    table,
    training_step,
)
from backbones.benchmark.vit import check_equal, draw_weights
from backbones.checkpoints import load_pretrained
from backbones.dense_transformer import DenseTransformer
from backbones.info.counting import Allocations

HEADING = "DINOv2, DINOv3, SigLIP 2, EVA-02, BEiT"
DEFAULTS: dict[str, Any] = dict(size=1024, batch=1, repeats=3)
MODELS: dict[str, tuple[type[DenseTransformer], str | dict[str, Any], str]] = {  # class, arch, name in timm
    "DINOv2-S": (DINOv2, "small", "vit_small_patch14_dinov2"),
    "DINOv3-S": (DINOv3, "small", "vit_small_patch16_dinov3_qkvb"),
    "SigLIP2-B": (SigLIP2, "base", "vit_base_patch16_siglip_224"),
    "EVA02-S": (EVA02, "small", "eva02_small_patch14_224"),
    "BEiT-B": (BEiT, "base", "beit_base_patch16_224"),
}
# SigLIP's own code has the approximate GELU; timm's models of B size do not.
ARGUMENTS: dict[str, dict[str, Any]] = {"SigLIP2-B": dict(act_layer="gelu_tanh")}  # of timm's, beside its name
WHOLE = (224, 518)  # pixels at which all blocks are timed
FEW = (1, 2)  # blocks at the size of the arguments; the memory of one is measured between them


def measure(args: argparse.Namespace, device: torch.device) -> list[str]:
    """Lines of the section. Few blocks are measured at ``args.size`` pixels, whole trunks at ``WHOLE``."""
    # Evaluation first: as in a fresh process, whose allocator no training has warmed up.
    parts = [evaluation(args, device), memory(args, device), frozen(args)]
    return [line for part in parts for line in [*part, ""]]


def side(model: str, pixels: int) -> int:
    """The multiple of the model's patches that is nearest to a number of pixels."""
    cls, arch, _ = MODELS[model]
    patch = cls.parse_arch(arch)["patch_size"]
    return round(pixels / patch) * patch


def build(model: str, size: int, depth: int | None, device: torch.device) -> tuple[DenseTransformer, Net, nn.Module]:
    """Ours without the final norm, timm's as the same function, and timm's module. With ``depth`` so many blocks."""
    cls, arch, name = MODELS[model]
    arch = cls.parse_arch(arch)
    if depth is not None:
        arch |= dict(depth=depth)
    more: dict[str, Any] = dict(img_size=size, depth=arch["depth"], num_classes=0, **ARGUMENTS.get(model, {}))
    reference = draw_weights(timm.create_model(name, **more))
    net = cls(arch, img_size=size, pyramid=None, final_norm=False)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "timm.safetensors"
        save_file(reference.state_dict(), file)
        load_pretrained(net, file)
    cast(Any, reference).norm = nn.Identity()
    reference.to(device)
    net.to(device)

    def forward(x: Tensor) -> list[Tensor]:
        tokens = cast(Any, reference).forward_features(x)[:, net.num_prefix :]
        return [tokens.transpose(1, 2).unflatten(2, net.pos_grid)]

    return net, forward, reference


def evaluation(args: argparse.Namespace, device: torch.device) -> list[str]:
    """Forwards without gradients against timm's ``forward_features``."""
    pairs = 3 * args.repeats  # a forward is short, and the ratios lie close to 1
    rows = []
    for model, (_, _, name) in MODELS.items():
        for pixels, depth in (*((pixels, None) for pixels in WHOLE), (args.size, FEW[-1])):
            size = side(model, pixels)
            net, reference, module = build(model, size, depth, device)
            net.eval()
            module.eval()
            x = torch.randn(args.batch, 3, size, size, device=device)
            check_equal(net, reference, x)
            ours, timms = paired_seconds([inference(net, x), inference(reference, x)], pairs)
            rows.append((model, f"`{name}`", f"{size}", f"{net.depth}", ratio(ours, timms)))
            print(*rows[-1], flush=True)
    return [
        "### Time of evaluation, relative to timm",
        "",
        f"Batches of {args.batch}, float32, `pyramid=None` against `forward_features`, both without the final norm; "
        f"time of ours over timm's, median of {pairs} pairs (smallest to largest). Tables of positions are those of "
        f"the size. Of {', '.join(map(str, (*WHOLE, args.size)))} pixels the nearest multiple of the patches.",
        "",
        *table(("model", "in timm", "pixels", "blocks", "ours / timm"), rows, names=2),
    ]


def memory(args: argparse.Namespace, device: torch.device) -> list[str]:
    """What each further block adds to the peak of a training step."""
    rows = []
    for model in MODELS:
        size = side(model, args.size)
        x = torch.randn(args.batch, 3, size, size, device=device)
        ours: dict[int, float] = {}
        timms: dict[int, float] = {}
        for depth in FEW:
            net, reference, module = build(model, size, depth, device)
            ours[depth] = peak_mib(training_step(net, x, list(net.parameters()), keep_grads=True), device)
            timms[depth] = peak_mib(training_step(reference, x, list(module.parameters()), keep_grads=True), device)
        own, other = slope(ours), slope(timms)
        rows.append((model, f"{own:.0f}", f"{other:.0f}", f"{own / other:.2f}"))
        print(*rows[-1], flush=True)
    return [
        "### Memory of a block in a training step (MiB)",
        "",
        f"Batches of {args.batch}, about {args.size} x {args.size} pixels, float32, global attention; forward and "
        "backward, weights and their gradients not counted. Memory of each further block, from models of one and two "
        "blocks. timm calls PyTorch's fused attention, which on a CPU holds all pairs of tokens where a bias is "
        "trained (BEiT).",
        "",
        *table(("model", "ours", "timm", "ours / timm"), rows),
    ]


def frozen(args: argparse.Namespace) -> list[str]:
    """Peaks of the trunk in a training step, from counted allocations."""
    rows = []
    for model, (cls, arch, _) in MODELS.items():
        size, depth = side(model, args.size), cls.parse_arch(arch)["depth"]
        with torch.device("meta"):
            trained, *nets = (
                cls(arch, img_size=size, pyramid=pyramid, frozen_stages=stages)
                for pyramid, stages in ((None, -1), (None, depth), ("simple", depth))
            )
        with FakeTensorMode(allow_non_fake_inputs=True):
            for net in (trained, *nets):
                net.to_empty(device="cpu").train()
            x = torch.empty(args.batch, 3, size, size)
            evaluated = counted_mib(inference(partial(trunk_maps, trained), x))
            own = [counted_mib(partial(trunk_maps, net, x)) for net in nets]
            step = counted_mib(training_step(trained, x, list(trained.parameters()), keep_grads=True))
        rows.append((model, *(f"{mib:.1f}" for mib in (evaluated, *own)), f"{max(own) / evaluated:.2f}", f"{step:.0f}"))
        print(*rows[-1], flush=True)
    return [
        "### Memory of a frozen trunk in a training step (MiB)",
        "",
        f"Batches of {args.batch}, about {args.size} x {args.size} pixels, float32, all blocks; `frozen_stages` is the "
        "number of blocks, gradients are on. Peak of the trunk's forward up to the maps that the pyramid reads, above "
        "the weights, counted as by `densebackbones info`; beside it a step that trains the trunk.",
        "",
        *table(("model", "inference", "frozen", "frozen, with pyramid", "frozen / inference", "trained"), rows),
    ]


def trunk_maps(net: DenseTransformer, x: Tensor) -> list[Tensor]:
    """The trunk's part of ``net``'s forward."""
    return list(net.forward_maps(x, set(net.sources)).values())


def counted_mib(step: Callable[[], Any]) -> float:
    """Peak of the bytes that a step allocates, in MiB."""
    with Allocations() as allocations:
        step()
    return allocations.peak / MIB
