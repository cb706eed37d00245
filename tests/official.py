"""Official numbers: fixtures of the authors' code, and the comparison with ours."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from backbones import DeepViT


def assert_equal(got, expected):
    """Equal up to float32 rounding: 1e-5 of the largest value."""
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def load(fixtures: Path, name: str) -> tuple[dict[str, Any], dict[str, int]]:
    """A fixture and its arch in our words."""
    file = torch.load(fixtures / f"{name}.pt", weights_only=True)
    config = file["config"]
    return file, dict(embed_dims=config["embed_dim"], depth=config["depth"], num_heads=config["num_heads"])


def load_weights(net: nn.Module, weights: dict[str, torch.Tensor]) -> nn.Module:
    """Our part of an official state dict; nothing of ours may be missing."""
    net.load_state_dict({key: value for key, value in weights.items() if not key.startswith(net.classifier_keys)})
    return net.eval()


def load_deepvit(fixtures: Path, name: str) -> tuple[dict[str, Any], DeepViT]:
    """A fixture of DeepViT, and our model with its weights."""
    file, arch = load(fixtures, name)
    config = file["config"]
    arch |= dict(
        apply_transform=config["apply_transform"],
        cnn_stem=config["use_cnn_embed"],
        transform_scale=config.get("transform_scale", False),
        scale_adjustment=config.get("scale_adjustment", 1.0),
    )
    return file, load_weights(DeepViT(arch, img_size=64, pyramid=None), file["state_dict"])
