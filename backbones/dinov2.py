"""DINOv2: vision transformers trained without labels, with and without registers (Oquab et al., arXiv:2304.07193)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from .checkpoints.vit import published_vit_name
from .checks import check_flag, is_whole
from .dense_transformer import DenseTransformer
from .errors import CheckpointError
from .layers import SwiGLU
from .layers.pos_embed import resize_with_matrices
from .trunk import Trunk

DINOV2_ARCHS = {  # parameters of trunk and final norm without registers, in millions
    "small": dict(embed_dims=384, depth=12, num_heads=6),  # 22.06
    "base": dict(embed_dims=768, depth=12, num_heads=12),  # 86.58
    "large": dict(embed_dims=1024, depth=24, num_heads=16),  # 304.37
    "so400m": dict(embed_dims=1152, depth=27, num_heads=16, mlp_ratio=4304 / 1152),  # 413.66, TIPSv2's
    "giant": dict(embed_dims=1536, depth=40, num_heads=24, swiglu=True),  # 1136.48
}


@MODELS.register_module()
class DINOv2Trunk(Trunk):
    """DINOv2's transformer.

    A dict ``arch`` may also give ``swiglu`` (a gated feed-forward branch, as in ``giant``) and
    ``layer_scale_init_value``. Other arguments and shapes are those of ``backbones.trunk.Trunk``.

    Registers stand behind the class token and have no positions. The position table is brought to other grids by the
    rule that each set of weights was trained with: without registers bicubic, with coordinates for a grid that is 0.1
    patches longer; with registers bicubic with antialiasing.

    Args:
        arch: Preset name, or a dict.
        registers: Number of register tokens: 0, or 4 for the published weights with registers.
        trunk: As in ``backbones.trunk.Trunk``; ``img_size`` is 518.

    Raises:
        ValueError: for a number of registers below 0, and as in ``backbones.trunk.Trunk``.

    Source: Oquab et al., arXiv:2304.07193; registers: Darcet et al., arXiv:2309.16588.
    """

    archs = DINOV2_ARCHS
    arch_defaults = dict(mlp_ratio=4, patch_size=14, swiglu=False, layer_scale_init_value=1e-5, registers=0)
    published_layout = ("", "")
    default_img_size = 518
    resizes_on_load = False
    undecayed = (*Trunk.undecayed, "register_tokens")

    def __init__(
        self, arch: str | Mapping[str, Any] | None = None, *, registers: int | None = None, **trunk: Any
    ) -> None:
        settings = self.parse_arch(self.default_arch if arch is None else arch)
        if registers is not None:
            settings["registers"] = registers
        if not is_whole(settings["registers"], 0):
            raise ValueError(f"registers is {settings['registers']!r}; it must be a number of tokens, 0 or more")
        super().__init__(settings, **trunk)

    def make_tokens(self, settings: Mapping[str, Any]) -> dict[str, int]:
        registers = settings["registers"]
        return super().make_tokens(settings) | ({"register_tokens": registers} if registers else {})

    def make_feedforward(self, settings: Mapping[str, Any]) -> nn.Module:
        check_flag("swiglu", settings["swiglu"])
        if not settings["swiglu"]:
            return super().make_feedforward(settings)
        # Two thirds of the width, as there are three matrices instead of two, rounded up to a multiple of 8.
        hidden = max(1, int(int(self.embed_dims * settings["mlp_ratio"]) * 2 / 3))
        return SwiGLU(self.embed_dims, (hidden + 7) // 8 * 8)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        registers = self.arch["registers"]
        rule: dict[str, Any] = dict(antialias=True, offset=0.0) if registers else dict(antialias=False, offset=0.1)
        placed = len(self.placed_tokens)
        assert self.pos_embed is not None
        table = resize_with_matrices(self.pos_embed, placed, self.pos_grid, grid, **rule)
        if "register_tokens" not in self.tokens:
            return table
        return torch.cat([table[:, :placed], table.new_zeros(1, registers, self.embed_dims), table[:, placed:]], dim=1)

    def adapt_weights(self, weights: dict[str, Tensor]) -> list[str]:
        ours, registers = self.arch["registers"], weights.get("register_tokens")
        theirs = registers.shape[1] if registers is not None and registers.ndim == 3 else 0
        if "pos_embed" in weights and theirs != ours:
            raise CheckpointError(f"the file has {theirs} registers and the model {ours}; pass registers={theirs}")
        return super().adapt_weights(weights)

    @staticmethod
    def published_name(name: str) -> str:
        return published_vit_name("register_tokens" if name == "reg_token" else name)  # timm's name


@MODELS.register_module()
class DINOv2(DenseTransformer, DINOv2Trunk):
    """``DINOv2Trunk`` with a feature pyramid; taps go through the final norm, as in DINOv2's own dense models.

    Examples:
        >>> arch = dict(embed_dims=48, depth=2, num_heads=3)
        >>> [tuple(f.shape) for f in DINOv2(arch, registers=4, pyramid=None)(torch.zeros(1, 3, 70, 98))]
        [(1, 48, 5, 7)]
    """

    norm_taps = True
