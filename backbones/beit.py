"""BEiT and BEiT v2: relative positions from a table in every block (Bao et al., arXiv:2106.08254)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmengine.registry import MODELS
from torch import Tensor, nn

from .dense_transformer import DenseTransformer
from .errors import CheckpointError
from .layers.joint_bias import JointBiasAttention
from .trunk import Trunk

TABLE = "relative_position_bias_table"
BEIT_ARCHS = {  # parameters of the trunk at 224 pixels, in millions
    "base": dict(embed_dims=768, depth=12, num_heads=12),  # 85.76
    "large": dict(embed_dims=1024, depth=24, num_heads=16, layer_scale_init_value=1e-5),  # 303.40
}


@MODELS.register_module()
class BEiTTrunk(Trunk):
    """The transformer of BEiT and BEiT v2.

    A dict ``arch`` may also give ``layer_scale_init_value``. Other arguments and shapes are those of
    ``backbones.trunk.Trunk``; the tables of relative positions are made for ``img_size``. Other grids, windows among
    them, resize the tables by BEiT's rule: near distances keep their biases, far ones are stretched.

    The published weights of v1 were trained on images of mean and deviation 127.5, those of v2 on ImageNet's.

    Source: Bao et al., BEiT, arXiv:2106.08254; Peng et al., BEiT v2, arXiv:2208.06366.
    """

    archs = BEIT_ARCHS
    arch_defaults = dict(mlp_ratio=4, patch_size=16, layer_scale_init_value=0.1)
    classifier_keys = (*Trunk.classifier_keys, "lm_head.", "cls_pt_layers.")
    pixel_mean = pixel_std = (127.5, 127.5, 127.5)
    undecayed = (*Trunk.undecayed, TABLE)
    has_table = False
    other_positions = "tables of relative positions of its own"

    def make_attention(
        self, index: int, settings: Mapping[str, Any], rel_pos_size: tuple[int, int] | None
    ) -> nn.Module:
        return JointBiasAttention(self.embed_dims, self.num_heads, self.pos_grid)

    def adapt_weights(self, weights: dict[str, Tensor]) -> list[str]:
        notes = super().adapt_weights(weights)
        for name in [name for name in weights if name.endswith("relative_position_index")]:
            del weights[name]  # computed
        self._check_tables(weights)
        return notes

    def _check_tables(self, weights: Mapping[str, Tensor]) -> None:
        table = weights.get(f"blocks.0.attn.{TABLE}")
        wanted = (2 * self.pos_grid[0] - 1) * (2 * self.pos_grid[1] - 1) + 3
        if table is None or len(table) == wanted:
            return
        side = (math.isqrt(max(len(table) - 3, 0)) + 1) // 2
        raise CheckpointError(
            f"{TABLE} has {len(table)} rows in the file and {wanted} in the model; pass img_size={side * self.stride}, "
            "or (height, width) for images that are not square (other sizes resize the tables in forward)"
        )


@MODELS.register_module()
class BEiT(DenseTransformer, BEiTTrunk):
    """``BEiTTrunk`` with a feature pyramid. Block outputs are taken as they are, unless ``final_norm=True``.

    Examples:
        >>> arch = dict(embed_dims=48, depth=2, num_heads=3)
        >>> [tuple(f.shape) for f in BEiT(arch, pyramid=None)(torch.zeros(1, 3, 64, 96))]
        [(1, 48, 4, 6)]
    """
