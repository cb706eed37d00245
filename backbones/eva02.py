"""EVA-02: a position table and rotary positions, gated feed-forward branches (Fang et al., arXiv:2303.11331)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmengine.registry import MODELS
from torch import Tensor, nn

from .checks import check_flag
from .dense_transformer import DenseTransformer
from .layers import Attention, IndexRotary, Rotary, SwiGLU
from .trunk import Trunk

# Patches along an axis in all published pre-trainings, whose tables are for 14 (patches brought to 16 pixels) to 32.
PRETRAINED_SIDE, SMALLEST_SIDE = 16, 14
EVA02_ARCHS = {  # parameters of the trunk at 224 pixels, in millions
    "tiny": dict(embed_dims=192, depth=12, num_heads=3),  # 5.50
    "small": dict(embed_dims=384, depth=12, num_heads=6),  # 21.62
    "base": dict(embed_dims=768, depth=12, num_heads=12, sub_norm=True),  # 85.76
    "base-16": dict(embed_dims=768, depth=12, num_heads=12, sub_norm=True, patch_size=16),  # 85.85
    "large": dict(embed_dims=1024, depth=24, num_heads=16, sub_norm=True),  # 303.27
    "large-16": dict(embed_dims=1024, depth=24, num_heads=16, sub_norm=True, patch_size=16),  # 303.39
}


@MODELS.register_module()
class EVA02Trunk(Trunk):
    """EVA-02's transformer.

    A dict ``arch`` may also give ``sub_norm`` (a layer norm inside the feed-forward branch, as in ``base`` and
    ``large``). Other arguments and shapes are those of ``backbones.trunk.Trunk``; ``img_size`` is that of the weights'
    table, 224 in pre-training, 336 or 448 after fine-tuning. ``base-16`` and ``large-16`` are for the files whose
    patches the authors brought to 16 pixels (``p14to16``), for dense tasks.

    Queries and keys of the patches turn with row and column, on whatever grid scaled to the 16 x 16 patches of
    pre-training. A table for fewer than 14 x 14 patches is no published one: its own grid is then that of pre-training.

    Source: Fang et al., EVA-02, arXiv:2303.11331. At other sizes the table is resized as in the official code: bicubic,
    half-pixel centres, no antialiasing.
    """

    archs = EVA02_ARCHS
    arch_defaults = dict(mlp_ratio=8 / 3, patch_size=14, sub_norm=False)
    published_layout = ("module", "")
    classifier_keys = (*Trunk.classifier_keys, "lm_head.")
    pixel_mean = (122.7709, 116.7460, 104.0937)
    pixel_std = (68.5005, 66.6322, 70.3232)
    resizes_on_load = False
    other_positions = "rotary positions"

    def make_rotary(self, settings: Mapping[str, Any]) -> Rotary:
        side = min(self.pos_grid)
        return IndexRotary(self.embed_dims // self.num_heads, PRETRAINED_SIDE if side >= SMALLEST_SIDE else side)

    def make_attention(
        self, index: int, settings: Mapping[str, Any], rel_pos_size: tuple[int, int] | None
    ) -> nn.Module:
        return Attention(self.embed_dims, self.num_heads, biases="qv")

    def make_feedforward(self, settings: Mapping[str, Any]) -> nn.Module:
        check_flag("sub_norm", settings["sub_norm"])
        hidden = int(self.embed_dims * settings["mlp_ratio"])
        return SwiGLU(self.embed_dims, hidden, self.norm_eps if settings["sub_norm"] else None)

    def adapt_weights(self, weights: dict[str, Tensor]) -> list[str]:
        notes = super().adapt_weights(weights)
        computed = [name for name in weights if re.search(r"(^|\.)rope\.freqs_(cos|sin)$", name)]
        for name in computed:
            del weights[name]
        if computed:
            notes.append(f"{len(computed)} tables of cosines and sines (rope.freqs_*) are computed, not loaded")
        return notes


@MODELS.register_module()
class EVA02(DenseTransformer, EVA02Trunk):
    """``EVA02Trunk`` with a feature pyramid. Block outputs are taken as they are, unless ``final_norm=True``.

    Examples:
        >>> arch = dict(embed_dims=48, depth=2, num_heads=3)
        >>> [tuple(f.shape) for f in EVA02(arch, img_size=56, pyramid=None)(torch.zeros(1, 3, 56, 84))]
        [(1, 48, 4, 6)]
    """
