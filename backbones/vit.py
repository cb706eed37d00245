"""Plain vision transformers with a feature pyramid: ViT, DeiT, MAE and ViTDet weights.

The trunk has one resolution. What comes out of its blocks is turned into four levels by a pyramid (``pyramid.py``).
Final norm and classification heads belong to classification and are no part of a backbone: supervised training shaped
the norm on the class token only, and ViTDet has none.

Other families differ from this one in three seams: :meth:`PlainViT.make_patch_embed`, :meth:`PlainViT.make_block` and
:meth:`PlainViT.make_pyramid`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from .base import DenseBackbone, Part
from .layers import Attention, Mlp, drop_path_scale, recompute, window_partition, window_unpartition
from .layers.pos_embed import resize_pos_embed, sincos_pos_embed
from .pyramid import Pyramid, tap_pyramid, to_stride
from .vit_weights import adapt_vit_weights, published_vit_name

NORM_EPS = 1e-6
CACHED_TABLES = 8  # position tables kept for evaluation, one per grid
Scales = tuple[Tensor | float, Tensor | float]


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a feed-forward branch.

    Args:
        embed_dims: C.
        attention: ``(B, N, C), grid -> (B, N, C)``.
        mlp_ratio: Hidden width of the feed-forward branch, in multiples of C.
        window_size: Side of the windows within which tokens attend; None attends globally.
        layer_scale_init_value: Start of the learnt per-channel factors of both branches; None has no factors.
        branch_factor: A constant that both branches are multiplied with.
        norm_eps: Of both norms.

    Shapes:
        x: ``(B, prefix + h * w, C)`` with grid (h, w); there is no prefix when there are windows.
    """

    def __init__(
        self,
        embed_dims: int,
        attention: nn.Module,
        mlp_ratio: float,
        *,
        window_size: int | None = None,
        layer_scale_init_value: float | None = None,
        branch_factor: float = 1.0,
        norm_eps: float = NORM_EPS,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.branch_factor = branch_factor
        self.norm1 = nn.LayerNorm(embed_dims, eps=norm_eps)
        self.attn = attention
        self.norm2 = nn.LayerNorm(embed_dims, eps=norm_eps)
        self.add_feedforward(embed_dims, int(embed_dims * mlp_ratio))
        self.gamma_1 = self.gamma_2 = None
        if layer_scale_init_value is not None:
            self.gamma_1 = nn.Parameter(torch.full((embed_dims,), float(layer_scale_init_value)))
            self.gamma_2 = nn.Parameter(torch.full((embed_dims,), float(layer_scale_init_value)))

    def add_feedforward(self, embed_dims: int, hidden: int) -> None:
        self.mlp = Mlp(embed_dims, hidden)

    def forward(self, x: Tensor, grid: tuple[int, int], scales: Scales) -> Tensor:
        x = _add_branch(x, self.attend(self.norm1(x), grid), self.gamma_1, scales[0] * self.branch_factor)
        return _add_branch(x, self.feedforward(self.norm2(x), grid), self.gamma_2, scales[1] * self.branch_factor)

    def attend(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.window_size is None:
            return self.attn(x, grid)
        windows = window_partition(x, grid, self.window_size)
        windows = self.attn(windows, (self.window_size, self.window_size))
        return window_unpartition(windows, grid, self.window_size)

    def feedforward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.mlp(x)


def _add_branch(x: Tensor, branch: Tensor, gamma: Tensor | None, scale: Tensor | float) -> Tensor:
    """``x + gamma * scale * branch``, the product of the small factors taken first."""
    if gamma is not None:
        scale = gamma * scale
    if isinstance(scale, Tensor):
        return torch.addcmul(x, branch, scale)
    return torch.add(x, branch, alpha=scale)


class PatchEmbed(nn.Module):
    """Image ``(B, 3, H, W)`` to patches ``(B, C, H / P, W / P)``; H and W are multiples of P."""

    def __init__(self, embed_dims: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dims, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


VIT_ARCHS = {  # parameters of the classifier with 1000 classes at 224 pixels, in millions
    "tiny": dict(embed_dims=192, depth=12, num_heads=3, mlp_ratio=4, patch_size=16),  # 5.72
    "small": dict(embed_dims=384, depth=12, num_heads=6, mlp_ratio=4, patch_size=16),  # 22.05
    "small-32": dict(embed_dims=384, depth=12, num_heads=6, mlp_ratio=4, patch_size=32),  # 22.88
    "base": dict(embed_dims=768, depth=12, num_heads=12, mlp_ratio=4, patch_size=16),  # 86.57
    "base-32": dict(embed_dims=768, depth=12, num_heads=12, mlp_ratio=4, patch_size=32),  # 88.22
    "base-8": dict(embed_dims=768, depth=12, num_heads=12, mlp_ratio=4, patch_size=8),  # 86.58
    "large": dict(embed_dims=1024, depth=24, num_heads=16, mlp_ratio=4, patch_size=16),  # 304.33
    "huge": dict(embed_dims=1280, depth=32, num_heads=16, mlp_ratio=4, patch_size=14),  # 632.05
    "huge-16": dict(embed_dims=1280, depth=32, num_heads=16, mlp_ratio=4, patch_size=16),  # ViTDet-H
}


@MODELS.register_module()
class PlainViT(DenseBackbone):
    """Vision transformer with a feature pyramid; with windows and relative positions it is ViTDet's backbone.

    Args:
        arch: Preset name, or a dict with ``embed_dims``, ``depth``, ``num_heads``, ``mlp_ratio`` (4) and
            ``patch_size`` (16). None takes ``default_arch``.
        img_size: Side, or (height, width), in pixels, of the images for which the position table was or will be
            pre-trained. Images of any other size get the table resized in forward (bicubic, half-pixel centres, no
            antialiasing: the rule of DeiT's and MAE's fine-tuning).
        pyramid: ``'simple'``: ViTDet's layers on the last block; ``'taps'``: four block outputs brought to four strides
            (BEiT, MAE); None: the raw block outputs at the patch stride; or a dict such as
            ``dict(type='SimpleFeaturePyramid', out_channels=256)``. Patches of other sides than 16 are resampled to
            stride 16 before a pyramid, so the levels always have strides 4, 8, 16, 32.
        taps: Indices of the blocks that ``'taps'`` (four) or None (any number) read, increasing. Default: the ends of
            four equal parts of the depth for ``'taps'``, the last block for None.
        window_size: Side of the attention windows, in tokens; None attends globally everywhere.
        global_blocks: Indices of the blocks that attend globally all the same.
        rel_pos: Decomposed relative positions. An int gives the side, in pixels, of the images for which the tables of
            global blocks are made (ViTDet: 1024); True means ``img_size``.
        with_cp: Recompute whole blocks in backward instead of storing what they hold.
        layer_scale_init_value: Start of LayerScale's factors, for weights that have them (DeiT-III); None: none.
        pos_embed: ``'learned'``, or ``'sincos'`` for MAE's fixed table.

    The class token (and DeiT's distillation token) runs along as in classification, and is cut off before the pyramid.
    With ``window_size`` or ``rel_pos`` there is none, as in ViTDet: it would belong to no window and to no position.
    Whatever of a file's tokens a model lacks is named in the load report.

    Shapes:
        x: ``(B, 3, H, W)``, H and W at least 32; padded inside with zeros to whole patches.
        returns: tuple of ``(B, out_channels[i], ceil(H / strides[i]), ceil(W / strides[i]))``.

    Raises:
        ValueError: for an unknown ``arch``, and for blocks, windows, taps or levels that do not exist.

    Source: Dosovitskiy et al., arXiv:2010.11929; Li et al. (ViTDet), arXiv:2203.16527; MAE: He et al.,
    arXiv:2111.06377.

    Example:
        >>> [tuple(f.shape) for f in PlainViT("tiny")(torch.zeros(1, 3, 64, 96))]
        [(1, 256, 16, 24), (1, 256, 8, 12), (1, 256, 4, 6), (1, 256, 2, 3)]
    """

    archs = VIT_ARCHS
    arch_defaults = dict(mlp_ratio=4, patch_size=16)
    default_arch: ClassVar[str] = "base"
    classifier_keys = ("norm.", "fc_norm.", "head.", "head_dist.", "pre_logits.", "mask_token", "decoder_")
    prefix_tokens: ClassVar[tuple[str, ...]] = ("cls_token",)
    stem_name: ClassVar[str] = "patch_embed"
    undecayed = ("pos_embed", "cls_token", "dist_token")

    def __init__(
        self,
        arch: str | Mapping[str, Any] | None = None,
        *,
        img_size: int | Sequence[int] = 224,
        pyramid: str | Mapping[str, Any] | None = "simple",
        taps: Sequence[int] | None = None,
        window_size: int | None = None,
        global_blocks: Sequence[int] = (),
        rel_pos: bool | int = False,
        layer_scale_init_value: float | None = None,
        pos_embed: str = "learned",
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        out_indices: Sequence[int] | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(
            frozen_stages=frozen_stages, norm_eval=norm_eval, drop_path_rate=drop_path_rate, init_cfg=init_cfg
        )
        self.arch = settings = self.parse_arch(self.default_arch if arch is None else arch)
        self.embed_dims, self.depth, self.num_heads = (settings[key] for key in ("embed_dims", "depth", "num_heads"))
        self.stride = self.patch_stride(settings)
        if min(self.embed_dims, self.depth, self.num_heads, self.stride) < 1:
            raise ValueError(f"arch of {type(self).__name__} is {settings}; width, depth, heads and patch start at 1")
        if self.embed_dims % self.num_heads:
            raise ValueError(f"embed_dims is {self.embed_dims}; it must be a multiple of num_heads, {self.num_heads}")
        self.with_cp = with_cp
        self.img_size = _pair(img_size)
        self.pos_grid = _grid(self.img_size, self.stride)
        windows = self._windows(window_size, global_blocks)
        rel_pos_grid = _grid(self.img_size if rel_pos is True else _pair(rel_pos), self.stride) if rel_pos else None
        self.token_names = () if window_size or rel_pos_grid else self.prefix_tokens

        self.add_module(self.stem_name, self.make_patch_embed(settings))
        for name in self.token_names:
            self.register_parameter(name, nn.Parameter(torch.zeros(1, 1, self.embed_dims)))
        if layer_scale_init_value is None:
            layer_scale_init_value = settings.get("layer_scale_init_value")  # CaiT's archs have one
        self.layer_scale_init_value = layer_scale_init_value
        rows = len(self.token_names) + self.pos_grid[0] * self.pos_grid[1]
        self.pos_embed = nn.Parameter(torch.zeros(1, rows, self.embed_dims))
        self.blocks = nn.ModuleList(
            self.make_block(
                i,
                settings,
                window_size=window,
                rel_pos_size=(window, window) if rel_pos_grid and window else rel_pos_grid,
                layer_scale_init_value=layer_scale_init_value,
            )
            for i, window in enumerate(windows)
        )
        self._init_trunk(pos_embed)
        self._tables: dict[tuple[int, int], Tensor] = {}  # resized position tables
        self._tables_of: tuple[int, int] | None = None  # the state of pos_embed that they were made from

        self.pyramid, self.taps = self.make_pyramid(pyramid, taps)
        channels, strides = self.pyramid.channels, self.pyramid.strides
        self._set_levels(channels, strides, range(len(channels)) if out_indices is None else out_indices)
        self._freeze()
        self._freeze_unused()

    # -- seams

    def patch_stride(self, settings: Mapping[str, Any]) -> int:
        """Stride of the tokens, in input pixels."""
        return settings["patch_size"]

    def make_patch_embed(self, settings: Mapping[str, Any]) -> nn.Module:
        """The module that turns images into the patch map."""
        return PatchEmbed(self.embed_dims, settings["patch_size"])

    def make_block(
        self, index: int, settings: Mapping[str, Any], *, rel_pos_size: tuple[int, int] | None, **kwargs: Any
    ) -> Block:
        """Block number ``index``; ``kwargs`` are those of :class:`Block`."""
        attention = Attention(self.embed_dims, self.num_heads, rel_pos_size)
        return Block(self.embed_dims, attention, settings["mlp_ratio"], **kwargs)

    def make_pyramid(
        self, pyramid: str | Mapping[str, Any] | None, taps: Sequence[int] | None
    ) -> tuple[Pyramid, tuple[int, ...]]:
        """The pyramid, and the blocks whose outputs it is given."""
        last = self.depth - 1
        if pyramid == "taps":
            return tap_pyramid(self.embed_dims), self._check_taps(self._quarters() if taps is None else taps, 4)
        if pyramid is None:
            blocks = self._check_taps((last,) if taps is None else taps)
            n = len(blocks)
            levels = {f"level{i}": nn.Identity() for i in range(n)}
            return Pyramid(
                levels, range(-n, 0), [self.embed_dims] * n, [self.stride] * n, in_stride=self.stride
            ), blocks
        if taps is not None:
            raise ValueError(
                f"taps is {taps}, but pyramid={pyramid!r} reads the last block; pass pyramid='taps' or None"
            )
        wanted = "'simple', 'taps', None, or a dict such as dict(type='SimpleFeaturePyramid', out_channels=256)"
        cfg = dict(type="SimpleFeaturePyramid") if pyramid == "simple" else pyramid
        if not isinstance(cfg, Mapping) or "type" not in cfg:
            raise ValueError(f"pyramid is {pyramid!r}; it must be {wanted}")
        module = MODELS.build({"in_channels": self.embed_dims, **cfg})
        if not isinstance(module, Pyramid):
            raise ValueError(f"pyramid is a {type(module).__name__}, which is a neck; it must be {wanted}")
        return module, (last,)

    def drop_path_rates(self) -> list[float]:
        """Chance of dropping a branch, for each block: rising linearly from 0."""
        return torch.linspace(0, self.drop_path_rate, self.depth).tolist()

    def embed(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """What lies before the first block: finer maps that a pyramid may use (none here), patches ``(B, C, h, w)``."""
        pad_h, pad_w = (-x.shape[2] % self.stride, -x.shape[3] % self.stride)
        return [], getattr(self, self.stem_name)(F.pad(x, (0, pad_w, 0, pad_h)))

    def stage_of(self, source: int) -> int:
        """Index in :meth:`stages` of the part that makes a map; ``source`` as in :class:`Pyramid`, from the end."""
        return 1 + self.taps[source]

    # -- forward

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.check_input(x)
        size = (x.shape[2], x.shape[3])
        finer, patches = self.embed(x)
        outputs = self.run_blocks(patches, self.used_taps)
        taps = [self._to_map(outputs[i], patches, size) if i in outputs else None for i in self.taps]
        feats = self.pyramid([*finer, *taps], self.out_indices)
        # Contiguous, since RoIAlign and other mmcv operators read the memory as NCHW whatever the strides say.
        return tuple(
            feat[:, :, : -(-size[0] // stride), : -(-size[1] // stride)].contiguous()
            for feat, stride in zip(feats, self.strides, strict=True)
        )

    def forward_tokens(self, x: Tensor) -> Tensor:
        """The tokens after the last block, ``(B, prefix + h * w, C)``, for classifiers."""
        self.check_input(x)
        last = self.depth - 1
        return self.run_blocks(self.embed(x)[-1], [last])[last]

    def run_blocks(self, patches: Tensor, wanted: Sequence[int]) -> dict[int, Tensor]:
        """Runs the blocks up to the last of ``wanted``.

        Args:
            patches: ``(B, C, h, w)``, from :meth:`embed`.
            wanted: Indices of blocks.

        Returns:
            The tokens after each wanted block, ``(B, prefix + h * w, C)``.
        """
        return self.run_tokens(self.add_positions(patches), (patches.shape[2], patches.shape[3]), wanted)

    def run_tokens(self, tokens: Tensor, grid: tuple[int, int], wanted: Sequence[int]) -> dict[int, Tensor]:
        """As :meth:`run_blocks`, for tokens with positions; some of the grid's may be left out if nothing reads it."""
        outputs = {}
        for i, scales in enumerate(self._draw_drop_path(tokens)[: max(wanted, default=-1) + 1]):
            block = self.blocks[i]
            if self.with_cp and torch.is_grad_enabled():
                tokens = recompute(block, tokens, grid, scales)
            else:
                tokens = block(tokens, grid, scales)
            if i in wanted:
                outputs[i] = tokens
        return outputs

    def add_positions(self, patches: Tensor) -> Tensor:
        """``(B, C, h, w)`` to ``(B, prefix + h * w, C)``: prefix tokens in front, position table added."""
        tokens = patches.flatten(2).transpose(1, 2)
        if self.token_names:
            prefix = torch.cat([getattr(self, name) for name in self.token_names], dim=1)
            tokens = torch.cat([prefix.expand(len(tokens), -1, -1), tokens], dim=1)
        return tokens.contiguous() + self._position_table((patches.shape[2], patches.shape[3]))

    def _position_table(self, grid: tuple[int, int]) -> Tensor:
        """The table for a grid; without gradients it is made once for each of the last grids."""
        prefix = len(self.token_names)
        if grid == self.pos_grid or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return resize_pos_embed(self.pos_embed, prefix, self.pos_grid, grid)
        state = (self.pos_embed.data_ptr(), self.pos_embed._version)
        if self._tables_of != state:
            self._tables, self._tables_of = {}, state
        if grid not in self._tables:
            if len(self._tables) == CACHED_TABLES:
                self._tables.pop(next(iter(self._tables)))
            self._tables[grid] = resize_pos_embed(self.pos_embed, prefix, self.pos_grid, grid)
        return self._tables[grid]

    def _to_map(self, tokens: Tensor, patches: Tensor, size: tuple[int, int]) -> Tensor:
        x = tokens[:, len(self.token_names) :].unflatten(1, patches.shape[2:]).permute(0, 3, 1, 2)
        return to_stride(x, self.stride, self.pyramid.in_stride, size)

    def _draw_drop_path(self, tokens: Tensor) -> list[Scales]:
        """For each block, what its two branches are multiplied with in this forward."""
        if not self.training or self.drop_path_rate == 0:
            return [(1.0, 1.0)] * self.depth
        return [(drop_path_scale(tokens, rate), drop_path_scale(tokens, rate)) for rate in self.drop_path_rates()]

    # -- the contract

    def stages(self) -> list[list[Part]]:
        tokens = [getattr(self, name) for name in (*self.token_names, "pos_embed")]
        return [[getattr(self, self.stem_name), *tokens], *([block] for block in self.blocks)]

    def _freeze_unused(self) -> None:
        """Freezes what no returned level is made from, so that every trainable parameter gets a gradient."""
        sources = [self.pyramid.sources[i] for i in self.out_indices]
        self.used_taps = sorted({self.taps[source] for source in sources if source < 0})
        for stage in self.stages()[max(map(self.stage_of, sources)) + 1 :]:
            for part in stage:
                part.requires_grad_(False)
        used_levels = self.pyramid.levels_for(self.out_indices)
        for level in self.pyramid.levels:
            if level not in used_levels:
                level.requires_grad_(False)

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """ViTDet's rule: patches, tokens and positions are 0, block i is i + 1, the pyramid counts as a head."""
        num_depths = self.depth + 2
        name = param_name.removeprefix(prefix)
        if param_name.startswith(prefix):
            if name.startswith("blocks."):
                return int(name.split(".")[1]) + 1, num_depths
            if name.startswith((f"{self.stem_name}.", "pos_embed", *self.token_names)):
                return 0, num_depths
        return num_depths - 1, num_depths

    @staticmethod
    def published_name(name: str) -> str:
        return published_vit_name(name)

    def adapt_weights(self, weights: dict[str, Tensor]) -> list[str]:
        return adapt_vit_weights(self, weights)

    # -- construction

    def _windows(self, window_size: int | None, global_blocks: Sequence[int]) -> list[int | None]:
        """Each block's window size."""
        if window_size is None:
            if global_blocks:
                raise ValueError(f"global_blocks is {global_blocks}, but without window_size every block is global")
            return [None] * self.depth
        if not isinstance(window_size, int) or window_size < 1:
            raise ValueError(f"window_size is {window_size!r}; it must be a positive number of tokens, or None")
        windows: list[int | None] = [window_size] * self.depth
        for i in self._check_blocks(global_blocks, "global_blocks"):
            windows[i] = None
        return windows

    def _check_taps(self, taps: Sequence[int], count: int | None = None) -> tuple[int, ...]:
        blocks = self._check_blocks(taps, "taps")
        if not blocks or list(blocks) != sorted(set(blocks)) or (count is not None and len(blocks) != count):
            wanted = f"{count} increasing" if count else "increasing"
            raise ValueError(f"taps is {taps}; this pyramid takes {wanted} indices of blocks")
        return blocks

    def _check_blocks(self, indices: Sequence[int], name: str) -> tuple[int, ...]:
        try:
            return tuple(range(self.depth)[i] for i in indices)
        except (IndexError, TypeError):
            raise ValueError(
                f"{name} is {indices!r}; it must be a sequence of block indices between {-self.depth} and "
                f"{self.depth - 1}"
            ) from None

    def _quarters(self) -> tuple[int, ...]:
        return tuple(self.depth * i // 4 - 1 for i in (1, 2, 3, 4))

    def _init_trunk(self, pos_embed: str) -> None:
        if pos_embed not in ("learned", "sincos"):
            raise ValueError(f"pos_embed is {pos_embed!r}; it must be 'learned' or 'sincos'")
        self.apply(init_linear)
        for name in (*self.token_names, "pos_embed"):
            nn.init.trunc_normal_(getattr(self, name), std=0.02)
        if pos_embed == "sincos":
            table = sincos_pos_embed(self.embed_dims, self.pos_grid, len(self.token_names))
            self.pos_embed = nn.Parameter(table, requires_grad=False)


def init_linear(module: nn.Module) -> None:
    """Truncated normal weights of standard deviation 0.02, as all these papers have them; biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) in pixels."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
        raise ValueError(f"image size is {size!r}; it must be a positive number of pixels, or (height, width)")
    return pair


def _grid(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-size[0] // stride), -(-size[1] // stride)


@MODELS.register_module()
class DeiT(PlainViT):
    """Data-efficient image transformer with a distillation token beside the class token.

    DeiT without distillation is :class:`PlainViT`, as are its weights. Arguments and shapes are those of
    :class:`PlainViT`.

    Source: Touvron et al., "Training data-efficient image transformers & distillation through attention",
    arXiv:2012.12877.
    """

    archs = {name: VIT_ARCHS[name] for name in ("tiny", "small", "base")}
    prefix_tokens = ("cls_token", "dist_token")
