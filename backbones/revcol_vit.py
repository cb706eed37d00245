"""RevColViT: reversible columns of transformer blocks (Cai et al., ICLR 2023, arXiv:2212.11696, appendix).

All four levels of a column have the same width and stride 16; fusions change neither. No code was published, and the
paper leaves points open. Taken over from RevCol: the norm behind the stem, the shortcuts, level 0 without a layer on
the stem's map, drop-path within a column. From plain transformers: learnt positions, added to the stem's map. From
Swin v2 (arXiv:2111.09883), whose blocks these are: the learnt factor of each head, and norms that start at zero, so
that a block starts as the identity. From BEiT (arXiv:2106.08254): how the feed-forward layers are scaled down at the
start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from .base import DenseBackbone
from .checkpoints.vit import adapt_vit_weights
from .checks import are_wholes, is_number, is_whole
from .columns import LEVELS, ColumnNetwork, Level
from .layers import Attention, ChannelsLastConv2d, Linear, Mlp, Rotation, drop_path_scale, padding
from .layers.attention import Bias
from .layers.pos_embed import resize_pos_embed
from .pyramid import LevelPyramid, build_pyramid, cut_levels, raw_pyramid
from .trunk import NORM_EPS, Block, Scales, add_branch, image_sides, init_linear, patch_grid

STRIDE = 16
INITIAL_SCALE, LARGEST_SCALE = 10.0, 100.0  # of the cosines, as in Swin v2

REVCOL_VIT_ARCHS: dict[str, dict[str, Any]] = {  # millions of parameters and GMACs of the 1k classifier, 224 x 224
    "small": dict(embed_dims=224, depths=(2, 2, 2, 2), num_heads=4, num_columns=4),  # 20.87, 4.57
    "base": dict(embed_dims=384, depths=(3, 3, 3, 3), num_heads=6, num_columns=4),  # 89.1, 18.73
}


class CosineAttention(Attention):
    """Attention by the cosines of queries and keys, times a learnt factor of each head, of at most 100.

    Arguments and shapes are those of ``Attention``.

    Source: Liu et al., Swin v2, arXiv:2111.09883, eq. 2.
    """

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__(embed_dims, num_heads)
        self.logit_scale = nn.Parameter(torch.full((num_heads,), math.log(INITIAL_SCALE)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Bias | None = None) -> Tensor:
        factor = self.logit_scale.clamp(max=math.log(LARGEST_SCALE)).exp().view(-1, 1, 1)
        q, k = (F.normalize(q, dim=-1) * factor).to(v.dtype), F.normalize(k, dim=-1).to(v.dtype)
        return super().attend(q, k, v, 1.0, bias)


class PostNormBlock(Block):
    """Transformer block whose norms lie behind the branches: ``x + norm(attention(x))``, then ``x + norm(mlp(x))``."""

    mlp: Mlp

    def forward(self, x: Tensor, grid: tuple[int, int], scales: Scales, rotation: Rotation | None = None) -> Tensor:
        x = add_branch(x, self.norm1(self.attend(x, grid, rotation)), self.gamma_1, scales[0])
        return add_branch(x, self.norm2(self.feedforward(x, grid)), self.gamma_2, scales[1])


class LinearFusion(nn.Module):
    """Input of a level: the level before it in this column plus, if ``up``, the next level of the previous column.

    Each goes through a linear layer with a layer norm behind it; the stem's map, for level 0, goes in as it is.
    """

    def __init__(self, embed_dims: int, *, down: bool, up: bool) -> None:
        super().__init__()
        self.down = _linear_norm(embed_dims) if down else nn.Identity()
        self.up = _linear_norm(embed_dims) if up else None

    def forward(self, down: Tensor, *ups: Tensor) -> Tensor:
        x = self.down(down)
        return x if self.up is None else x + self.up(*ups)


def _linear_norm(embed_dims: int) -> nn.Sequential:
    return nn.Sequential(Linear(embed_dims, embed_dims), nn.LayerNorm(embed_dims, eps=NORM_EPS))


class TokenLevel(Level):
    """A level whose blocks take tokens."""

    def run_blocks(self, x: Tensor, scales: Sequence[Scales]) -> Tensor:
        grid = (x.shape[1], x.shape[2])
        tokens = x.flatten(1, 2)
        for block, scale in zip(self.blocks, scales, strict=True):
            tokens = block(tokens, grid, scale)
        return tokens.reshape(x.shape)


@MODELS.register_module()
class RevColViTTrunk(ColumnNetwork):
    """Reversible columns of transformer blocks, without a pyramid.

    Args:
        arch: ``'small'``, ``'base'``, or a dict with ``embed_dims``, ``depths`` (blocks of each of the four levels),
            ``num_heads``, ``num_columns``, and optionally ``mlp_ratio`` (4).
        img_size: As in ``backbones.trunk.Trunk``.
        drop_path_rate: Largest chance, in [0, 1), of skipping a residual branch; rises linearly over the blocks of a
            column, the same in every column.
        reversible: As in ``backbones.columns.ColumnNetwork``, like ``keep_every``.
        frozen_stages: -1 trains everything, 0 freezes patches and positions, ``n`` also the first ``n`` columns.
        norm_eval: Part of the common contract; there is no batch norm here.
        init_cfg: See ``backbones.base.Backbone``.

    Shapes:
        x: ``(B, 3, H, W)``, H and W at least 32; padded inside with zeros to multiples of 16.
        returns: ``(B, C, h, w)``, the last level of the last column, of stride 16.

    Raises:
        ValueError: for an unknown ``arch``, and for other arguments out of range.

    Source: arXiv:2212.11696, appendix. The multiply-accumulates at 224 x 224, 4.57 and 18.73 G, are the 4.6 and 18.8 G
    that the paper reports. The parameters, 20.9 and 89.1 M with the classifier, are not its 16 and 67 M: blocks of
    these widths, in these numbers, have more.
    """

    archs = REVCOL_VIT_ARCHS
    arch_defaults = dict(mlp_ratio=4)
    undecayed = (*ColumnNetwork.undecayed, "pos_embed")
    stem_name: ClassVar[str] = "stem"
    stem_parts = (stem_name, "pos_embed")
    stride = STRIDE
    placed_tokens: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    has_table: ClassVar[bool] = True
    resizes_on_load: ClassVar[bool] = True
    undropped = (1.0, 1.0)

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "small",
        *,
        img_size: int | Sequence[int] = 224,
        drop_path_rate: float = 0.0,
        reversible: bool = False,
        keep_every: int | str = 1,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(
            reversible=reversible,
            keep_every=keep_every,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            drop_path_rate=drop_path_rate,
            init_cfg=init_cfg,
        )
        settings = self.parse_arch(arch)
        width, heads, ratio = (settings[key] for key in ("embed_dims", "num_heads", "mlp_ratio"))
        depths, num_columns = settings["depths"], settings["num_columns"]
        channels = [width] * LEVELS
        self._check_columns(channels, depths, num_columns)
        if not are_wholes((width, heads)) or width % heads:
            raise ValueError(f"embed_dims is {width}; it must be a multiple of num_heads, {heads!r}")
        if not (is_number(ratio) and is_whole(int(width * ratio))):
            raise ValueError(f"mlp_ratio is {ratio!r}; it must be a number that gives 1 hidden channel or more")
        self.embed_dims = width
        self.img_size = image_sides(img_size)
        self.pos_grid = patch_grid(self.img_size, STRIDE)
        self.stem = nn.Sequential(
            ChannelsLastConv2d(3, width, kernel_size=STRIDE, stride=STRIDE), nn.LayerNorm(width, eps=NORM_EPS)
        )
        self.pos_embed = nn.Parameter(torch.zeros(1, self.pos_grid[0] * self.pos_grid[1], width))

        def make_level(level: int, sources: Sequence[int]) -> Level:
            blocks = (
                PostNormBlock(width, CosineAttention(width, heads), Mlp(width, int(width * ratio)))
                for _ in range(depths[level])
            )
            return TokenLevel(LinearFusion(width, down=level > 0, up=bool(sources)), blocks)

        self._add_columns(channels, depths, num_columns, make_level)
        self._init_parameters()
        self._freeze()

    def _init_parameters(self) -> None:
        self.apply(init_linear)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for column in self.columns:
            blocks = [module for module in column.modules() if isinstance(module, PostNormBlock)]
            for i, block in enumerate(blocks, start=1):
                block.mlp.fc2.weight.data.div_(math.sqrt(2 * i))
                nn.init.zeros_(block.norm1.weight)  # else the mean of all tokens, blown up by the norms, drowns the map
                nn.init.zeros_(block.norm2.weight)

    def embed(self, x: Tensor) -> Tensor:
        pad_h, pad_w = (padding(n, STRIDE) for n in x.shape[2:])
        patches = self.stem(F.pad(x, (0, pad_w, 0, pad_h)).permute(0, 2, 3, 1))
        grid = (patches.shape[1], patches.shape[2])
        return patches + resize_pos_embed(self.pos_embed, 0, self.pos_grid, grid).reshape(1, *grid, -1)

    def draw(self, stem: Tensor, rate: float) -> Scales:
        tokens = stem[:, 0]
        return drop_path_scale(tokens, rate), drop_path_scale(tokens, rate)

    def forward(self, x: Tensor) -> Any:
        (last,) = self.coarsest_maps(x, [self.num_columns - 1])
        return last

    def adapt_weights(self, weights: dict[str, Tensor]) -> list[str]:
        return adapt_vit_weights(self, weights)


@MODELS.register_module()
class RevColViT(DenseBackbone, RevColViTTrunk):
    """``RevColViTTrunk`` with a feature pyramid.

    Args:
        arch: As in ``RevColViTTrunk``, like the arguments not named here.
        pyramid: ``'levels'``: ViTDet's layers, each on one of the four levels of the last column; None: these levels as
            they are, of stride 16; or a dict such as ``dict(type='LevelPyramid', out_channels=256)``, or with
            ``'SimpleFeaturePyramid'``, whose layers all read the last level (less accurate, docs/RESULTS.md).
        out_indices: Levels to return, increasing; negative ones count from the last. Parameters that no returned level
            depends on are frozen, so that data-parallel training does not wait for them.

    Shapes:
        x: As in ``RevColViTTrunk``.
        returns: tuple of ``(B, out_channels[i], ceil(H / strides[i]), ceil(W / strides[i]))``.

    Raises:
        ValueError: as ``RevColViTTrunk``, and for a pyramid or levels that do not exist.

    Examples:
        >>> [tuple(f.shape) for f in RevColViT("small")(torch.zeros(1, 3, 64, 96))]
        [(1, 256, 16, 24), (1, 256, 8, 12), (1, 256, 4, 6), (1, 256, 2, 3)]
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "small",
        *,
        pyramid: str | Mapping[str, Any] | None = "levels",
        out_indices: Sequence[int] | None = None,
        **trunk: Any,
    ) -> None:
        super().__init__(arch, **trunk)
        if pyramid is None:
            self.pyramid = raw_pyramid(self.embed_dims, LEVELS, STRIDE)
            self.sources = list(range(LEVELS))  # the level of the last column that each level is made from
        else:
            wanted = "'levels', None, or a dict such as dict(type='LevelPyramid', out_channels=256)"
            cfg = dict(type="LevelPyramid") if pyramid == "levels" else pyramid
            self.pyramid = build_pyramid(cfg, self.embed_dims, wanted)
            own = isinstance(self.pyramid, LevelPyramid)
            self.sources = [min(i, LEVELS - 1) if own else LEVELS - 1 for i in range(len(self.pyramid.channels))]
        channels, strides = self.pyramid.channels, self.pyramid.strides
        self._set_levels(channels, strides, range(len(channels)) if out_indices is None else out_indices)
        self._freeze_unused_levels(max(self.sources[i] for i in self.out_indices))
        self.pyramid.freeze_unused(self.out_indices)

    @classmethod
    def raw_maps(cls, arch: Any, count: int) -> dict[str, Any]:
        return dict(pyramid=None, out_indices=tuple(range(LEVELS))[-count:])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.last_maps(x)
        feats = self.pyramid([maps[self.sources[i]] for i in self.out_indices], self.out_indices)
        return cut_levels(feats, (x.shape[2], x.shape[3]), self.strides)

    def is_trunk_name(self, name: str) -> bool:
        return not name.startswith("pyramid.") and super().is_trunk_name(name)
