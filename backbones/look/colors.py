"""Maps of many channels as pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from torch import Tensor

EXTREMES = 0.01  # share of the values at each end that lie outside the range of colours
PALETTE = colormaps["viridis"](np.arange(256), bytes=True)[:, :3]  # (256, 3)


def pca_colors(maps: Sequence[Tensor]) -> list[np.ndarray]:
    """The first three principal components of some maps as red, green and blue.

    Args:
        maps: Each ``(C, h, w)``, all with the same C; they share the components, so that equal features have equal
            colours.

    Returns:
        Of each, ``(h, w, 3)`` in bytes.
    """
    pixels = torch.cat([m.flatten(1).T for m in maps]).float().cpu()  # (sum of h * w, C)
    pixels = pixels - pixels.mean(0)
    rank = min(3, *pixels.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, _, axes = torch.pca_lowrank(pixels, q=min(rank + 3, *pixels.shape), center=False)
    axes = axes[:, :rank]
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # the sign of an axis is arbitrary
    components = torch.zeros(len(pixels), 3)
    components[:, :rank] = pixels @ axes
    parts = _to_unit(components).split([m.shape[1] * m.shape[2] for m in maps])
    return [_to_bytes(part.unflatten(0, m.shape[1:])) for part, m in zip(parts, maps, strict=True)]


def energy_colors(maps: Sequence[Tensor]) -> list[np.ndarray]:
    """The root mean square over the channels of some maps, from dark to bright on one scale.

    Args:
        maps: Each ``(C, h, w)``.

    Returns:
        Of each, ``(h, w, 3)`` in bytes.
    """
    energies = [m.float().square().mean(0).sqrt().cpu() for m in maps]
    parts = _to_unit(torch.cat([energy.flatten() for energy in energies])).split(
        [energy.numel() for energy in energies]
    )
    return [PALETTE[_to_bytes(part.view_as(energy))] for part, energy in zip(parts, energies, strict=True)]


def _to_unit(x: Tensor) -> Tensor:
    """Values to [0, 1] along the first dimension, extremes cut off."""
    low, high = (torch.quantile(_sample(x), share, 0, keepdim=True) for share in (EXTREMES, 1 - EXTREMES))
    return ((x - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)


def _sample(x: Tensor, most: int = 2**20) -> Tensor:
    """Evenly spaced rows, as many as ``torch.quantile`` takes."""
    return x[:: -(-len(x) // most)]


def _to_bytes(x: Tensor) -> np.ndarray:
    return (x * 255).round().byte().numpy()
