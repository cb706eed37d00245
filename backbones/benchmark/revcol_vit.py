"""RevColViT: memory and time of the memory modes."""

import argparse
from typing import Any

import torch
from torch import nn

from backbones import RevColViT
from backbones.benchmark.columns import memory_table, over_columns, set_mib, time_table
from backbones.benchmark.measure import images
from backbones.columns import LEVELS
from backbones.revcol_vit import STRIDE

HEADING = "RevColViT"
DEFAULTS: dict[str, Any] = dict(size=448, batch=2, repeats=7)
SMALL = RevColViT.parse_arch("small")


def make(columns: int, **mode: Any) -> nn.Module:
    """A network of the small size with this many columns."""
    return RevColViT({**SMALL, "num_columns": columns}, pyramid=None, **mode)


def measure(args: argparse.Namespace, device: torch.device) -> list[str]:
    """Lines of the section."""
    x = torch.randn(args.batch, 3, args.size, args.size, device=device)
    peaks, times = over_columns(args, device, x, make)
    return [
        "### Memory of a training step (MiB)",
        "",
        f"RevColViT at S width ({SMALL['embed_dims']} channels, depths {SMALL['depths']}), without a pyramid, "
        f"{images(x)}, float32; forward and backward, weights and their gradients not counted.",
        "",
        *memory_table(peaks),
        "",
        f"One set of a column's maps is {set_mib(x, [SMALL['embed_dims']] * LEVELS, [STRIDE] * LEVELS):.2f} MiB.",
        "",
        *time_table(times, args.repeats),
    ]
