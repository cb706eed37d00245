"""The trunk of plain vision transformers: patches, prefix tokens, positions and blocks, at one resolution.

A trunk turns images into tokens. Classifiers and MAE use it as it is; ``backbones.vit`` and the other families add
a pyramid (``backbones.dense_transformer.DenseTransformer``). Final norm and heads belong to the classifier.

Families differ in the parts that ``Trunk``'s methods make: patches, prefix tokens, positions (a table that is added, or
rotations of queries and keys), attention, feed-forward branch, block, and the rates of stochastic depth.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .base import Backbone, Part
from .checkpoints.vit import adapt_vit_weights, published_vit_name
from .checks import are_wholes, check_flag, is_number, is_whole
from .layers import (
    Attention,
    Mlp,
    Rotary,
    Rotation,
    ceil_div,
    drop_path_rates,
    drop_path_scale,
    padding,
    recompute,
    window_partition,
    window_unpartition,
)
from .layers.pos_embed import resize_pos_embed, sincos_pos_embed

NORM_EPS = 1e-6
Scales = tuple[Tensor | float, Tensor | float]


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a feed-forward branch.

    Args:
        embed_dims: C.
        attention: ``(B, N, C), grid, rotation -> (B, N, C)``.
        feedforward: ``(B, N, C) -> (B, N, C)``.
        window_size: Side of the windows within which tokens attend; None attends globally.
        layer_scale_init_value: Start of the learnt per-channel factors of both branches; None has no factors.
        branch_factor: Constant factor of both branches.
        norm_eps: Epsilon of both norms.

    Shapes:
        x: ``(B, prefix + h * w, C)`` with grid (h, w); there is no prefix when there are windows.
        rotation: That of the grid, or of its windows; None has no rotary positions.
    """

    feedforward_name: ClassVar[str] = "mlp"

    def __init__(
        self,
        embed_dims: int,
        attention: nn.Module,
        feedforward: nn.Module,
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
        self.add_module(self.feedforward_name, feedforward)
        self.gamma_1 = self.gamma_2 = None
        if layer_scale_init_value is not None:
            self.gamma_1 = nn.Parameter(torch.full((embed_dims,), float(layer_scale_init_value)))
            self.gamma_2 = nn.Parameter(torch.full((embed_dims,), float(layer_scale_init_value)))

    def forward(self, x: Tensor, grid: tuple[int, int], scales: Scales, rotation: Rotation | None = None) -> Tensor:
        x = add_branch(x, self.attend(self.norm1(x), grid, rotation), self.gamma_1, scales[0] * self.branch_factor)
        return add_branch(x, self.feedforward(self.norm2(x), grid), self.gamma_2, scales[1] * self.branch_factor)

    def attend(self, x: Tensor, grid: tuple[int, int], rotation: Rotation | None) -> Tensor:
        if self.window_size is None:
            return self.attn(x, grid, rotation)
        windows = window_partition(x, grid, self.window_size)
        windows = self.attn(windows, (self.window_size, self.window_size), rotation)
        return window_unpartition(windows, grid, self.window_size)

    def feedforward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return getattr(self, self.feedforward_name)(x)


def add_branch(x: Tensor, branch: Tensor, gamma: Tensor | None, scale: Tensor | float) -> Tensor:
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


class Trunk(Backbone):
    """Plain vision transformer from images to tokens.

    Args:
        arch: Preset name, or a dict with ``embed_dims``, ``depth``, ``num_heads``, ``mlp_ratio`` (4) and
            ``patch_size`` (16). None takes ``default_arch``.
        img_size: Side, or (height, width), in pixels, of the images of pre-training, for which the position table is
            made; None takes ``default_img_size``, 224 for ViT. At other sizes the table is resized in forward (bicubic,
            half-pixel centres, no antialiasing: the rule of DeiT's and MAE's fine-tuning).
        window_size: Side of the attention windows, in tokens; None attends globally everywhere.
        global_blocks: Indices of the blocks with global attention beside windows.
        rel_pos: Decomposed relative positions. An int gives the side, in pixels, of the images for which the tables of
            global blocks are made (ViTDet: 1024); True means ``img_size``.
        layer_scale_init_value: Start of LayerScale's factors, for weights that have them (DeiT-III); None: none.
        pos_embed: ``'learned'``, or ``'sincos'`` for MAE's fixed table.
        drop_path_rate: Largest chance, in [0, 1), of skipping a residual branch; rises linearly with depth.
        final_norm: Normalise the tokens that are handed out, those of every tap, by the layer norm that published files
            call ``norm``. False leaves it to the classifier.
        with_cp: Recompute whole blocks in backward instead of storing their activations.
        frozen_stages: -1 trains everything, 0 freezes patches, tokens and positions, ``n`` also the first n blocks.
        norm_eval: Keep batch norms in eval mode during training.
        init_cfg: See ``backbones.base.Backbone``.

    Prefix tokens (class token, distillation token, registers) precede the patches. With ``window_size`` or ``rel_pos``
    there are none, as in ViTDet: they belong to no window. The load report lists dropped tokens.

    Shapes:
        x: ``(B, 3, H, W)``, H and W at least 32; padded inside with zeros to whole patches.
        returns: ``(B, prefix + h * w, C)``, the tokens after the last block.

    Raises:
        ValueError: for an unknown ``arch``, and for blocks or windows that do not exist.

    Source: Dosovitskiy et al., arXiv:2010.11929; windows and relative positions: Li et al. (ViTDet), arXiv:2203.16527.
    """

    arch_defaults = dict(mlp_ratio=4, patch_size=16)
    default_arch: ClassVar[str] = "base"
    classifier_keys: ClassVar[tuple[str, ...]] = (
        "norm.",
        "fc_norm.",
        "head.",
        "head_dist.",
        "pre_logits.",
        "mask_token",
        "decoder_",
        "neck.",
    )
    prefix_tokens: ClassVar[tuple[str, ...]] = ("cls_token",)
    stem_name: ClassVar[str] = "patch_embed"
    default_img_size: ClassVar[int] = 224
    resizes_on_load: ClassVar[bool] = True  # files' tables of other grids; otherwise they are refused
    norm_eps: ClassVar[float] = NORM_EPS
    has_table: ClassVar[bool] = True  # of absolute positions, ``pos_embed``
    other_positions: ClassVar[str] = ""  # that take the place of relative positions and of fixed tables
    undecayed = ("pos_embed", "cls_token", "dist_token")

    def __init__(
        self,
        arch: str | Mapping[str, Any] | None = None,
        *,
        img_size: int | Sequence[int] | None = None,
        window_size: int | None = None,
        global_blocks: Sequence[int] = (),
        rel_pos: bool | int = False,
        layer_scale_init_value: float | None = None,
        pos_embed: str = "learned",
        drop_path_rate: float = 0.0,
        final_norm: bool = False,
        with_cp: bool = False,
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
        if not are_wholes((self.embed_dims, self.depth, self.num_heads, self.stride)):
            raise ValueError(f"arch of {type(self).__name__} is {settings}; width, depth, heads and patch start at 1")
        if self.embed_dims % self.num_heads:
            raise ValueError(f"embed_dims is {self.embed_dims}; it must be a multiple of num_heads, {self.num_heads}")
        ratio = settings["mlp_ratio"]
        if not (is_number(ratio) and is_whole(int(self.embed_dims * ratio))):
            raise ValueError(f"mlp_ratio is {ratio!r}; it must be a number that gives 1 hidden channel or more")
        if layer_scale_init_value is None:
            layer_scale_init_value = settings.get("layer_scale_init_value")  # some families' archs have one
        if not (layer_scale_init_value is None or is_number(layer_scale_init_value)):
            raise ValueError(f"layer_scale_init_value is {layer_scale_init_value!r}; it must be a number, or None")
        check_flag("with_cp", with_cp)
        check_flag("final_norm", final_norm)
        if self.other_positions and (rel_pos or pos_embed != "learned"):
            raise ValueError(
                f"rel_pos is {rel_pos!r} and pos_embed {pos_embed!r}; leave both out, as {type(self).__name__} has "
                f"{self.other_positions}"
            )
        self.with_cp = with_cp
        self.img_size = image_sides(self.default_img_size if img_size is None else img_size)
        self.pos_grid = patch_grid(self.img_size, self.stride)
        self.windows = self._windows(window_size, global_blocks)
        rel_pos_grid = (
            patch_grid(self.img_size if rel_pos is True else image_sides(rel_pos), self.stride) if rel_pos else None
        )
        self.tokens, self.left_out = self.make_tokens(settings), ()
        if window_size or rel_pos_grid:
            self.tokens, self.left_out = {}, tuple(self.tokens)

        self.add_module(self.stem_name, self.make_patch_embed(settings))
        for name, count in self.tokens.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(1, count, self.embed_dims)))
        self.layer_scale_init_value = layer_scale_init_value
        rows = len(self.placed_tokens) + self.pos_grid[0] * self.pos_grid[1]
        self.pos_embed = nn.Parameter(torch.zeros(1, rows, self.embed_dims)) if self.has_table else None
        self.rope_embed = self.make_rotary(settings)
        self.blocks = nn.ModuleList(
            self.make_block(
                i,
                settings,
                window_size=window,
                rel_pos_size=(window, window) if rel_pos_grid and window else rel_pos_grid,
                layer_scale_init_value=layer_scale_init_value,
            )
            for i, window in enumerate(self.windows)
        )
        self.norm = nn.LayerNorm(self.embed_dims, eps=self.norm_eps) if final_norm else None
        self._init_trunk(pos_embed)
        self._freeze()

    # Seams of the families

    def patch_stride(self, settings: Mapping[str, Any]) -> int:
        """Stride of the tokens, in input pixels."""
        return settings["patch_size"]

    def make_patch_embed(self, settings: Mapping[str, Any]) -> nn.Module:
        """The module that turns images into the patch map."""
        return PatchEmbed(self.embed_dims, settings["patch_size"])

    def make_tokens(self, settings: Mapping[str, Any]) -> dict[str, int]:
        """Names of the parameters in front of the patches, in order, and how many tokens each of them holds."""
        return dict.fromkeys(self.prefix_tokens, 1)

    def make_rotary(self, settings: Mapping[str, Any]) -> Rotary | None:
        """Rotary positions, or None."""
        return None

    def make_attention(
        self, index: int, settings: Mapping[str, Any], rel_pos_size: tuple[int, int] | None
    ) -> nn.Module:
        """The attention of block number ``index``."""
        return Attention(self.embed_dims, self.num_heads, rel_pos_size)

    def make_feedforward(self, settings: Mapping[str, Any]) -> nn.Module:
        """The feed-forward branch of a block."""
        return Mlp(self.embed_dims, int(self.embed_dims * settings["mlp_ratio"]))

    def make_block(
        self, index: int, settings: Mapping[str, Any], *, rel_pos_size: tuple[int, int] | None, **kwargs: Any
    ) -> Block:
        """Block number ``index``; ``kwargs`` are those of ``Block``."""
        attention = self.make_attention(index, settings, rel_pos_size)
        return Block(self.embed_dims, attention, self.make_feedforward(settings), norm_eps=self.norm_eps, **kwargs)

    def drop_path_rates(self) -> list[float]:
        """Chance of dropping a branch, for each block: rising linearly from 0."""
        return drop_path_rates(self.drop_path_rate, self.depth)

    def positions(self, grid: tuple[int, int]) -> Tensor | None:
        """What is added to the tokens of a grid: ``(1, prefix + h * w, C)``, or None."""
        if self.pos_embed is None:
            return None
        return resize_pos_embed(self.pos_embed, len(self.placed_tokens), self.pos_grid, grid)

    # Forward

    @property
    def num_prefix(self) -> int:
        """Tokens in front of the patches."""
        return sum(self.tokens.values())

    @property
    def placed_tokens(self) -> tuple[str, ...]:
        """Names of the prefix tokens with a row in the position table, which come first."""
        return tuple(name for name in self.prefix_tokens if name in self.tokens)

    def forward(self, x: Tensor) -> Any:
        return self.forward_tokens(x)

    def forward_tokens(self, x: Tensor) -> Tensor:
        """The tokens after the last block, ``(B, prefix + h * w, C)``."""
        self.check_input(x)
        last = self.depth - 1
        return self.hand_out(self.run_blocks(self.embed(x)[-1], [last])[last])

    def forward_maps(self, x: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """Maps of the stem and of block outputs, by name: ``block0`` to the last block, each ``(B, C, h, w)``."""
        maps, patches = self.embed(x, names)
        outputs = self.run_blocks(patches, [i for i in range(self.depth) if f"block{i}" in names])
        h, w = patches.shape[2:]
        for i, tokens in outputs.items():
            patches = self.hand_out(tokens[:, self.num_prefix :])
            maps[f"block{i}"] = rearrange(patches, "b (h w) c -> b c h w", h=h, w=w)
        return maps

    def hand_out(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, N, C)`` after a block, through ``final_norm``."""
        return tokens if self.norm is None else self.norm(tokens)

    def embed(self, x: Tensor, names: Collection[str] = ()) -> tuple[dict[str, Tensor], Tensor]:
        """The stem: its maps among ``names`` (plain patches have none), and the patches ``(B, C, h, w)``."""
        pad_h, pad_w = (padding(n, self.stride) for n in x.shape[2:])
        return {}, getattr(self, self.stem_name)(F.pad(x, (0, pad_w, 0, pad_h)))

    def run_blocks(self, patches: Tensor, wanted: Sequence[int]) -> dict[int, Tensor]:
        """Runs the blocks up to the last of ``wanted``.

        Args:
            patches: ``(B, C, h, w)``, from ``embed``.
            wanted: Indices of blocks.

        Returns:
            The tokens after each wanted block, ``(B, prefix + h * w, C)``.
        """
        return self.run_tokens(self.add_positions(patches), (patches.shape[2], patches.shape[3]), wanted)

    def run_tokens(self, tokens: Tensor, grid: tuple[int, int], wanted: Sequence[int]) -> dict[int, Tensor]:
        """Same as ``run_blocks`` for tokens with positions; without windows, patches may be left out (MAE)."""
        outputs = {}
        rotations = self._rotations(tokens, grid)
        for i, scales in enumerate(self._draw_drop_path(tokens)[: max(wanted, default=-1) + 1]):
            block, rotation = self.blocks[i], rotations[self.windows[i]]
            if self.with_cp and torch.is_grad_enabled():
                tokens = recompute(block, tokens, grid, scales, rotation)
            else:
                tokens = block(tokens, grid, scales, rotation)
            if i in wanted:
                outputs[i] = tokens
        return outputs

    def add_positions(self, patches: Tensor) -> Tensor:
        """``(B, C, h, w)`` to ``(B, prefix + h * w, C)``: prefix tokens in front, position table added."""
        tokens = rearrange(patches, "b c h w -> b (h w) c")
        if self.tokens:
            prefix = torch.cat([getattr(self, name) for name in self.tokens], dim=1)
            tokens = torch.cat([prefix.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        tokens, table = tokens.contiguous(), self.positions((patches.shape[2], patches.shape[3]))
        return tokens if table is None else tokens + table

    def _rotations(self, tokens: Tensor, grid: tuple[int, int]) -> dict[int | None, Rotation | None]:
        """The rotation for each size of window."""
        return {
            size: None if self.rope_embed is None else self.rope_embed(grid, size, tokens) for size in set(self.windows)
        }

    def _draw_drop_path(self, tokens: Tensor) -> list[Scales]:
        """The factors of the two branches of each block in this forward; frozen blocks drop nothing."""
        dropping = [block.training and self.drop_path_rate > 0 for block in self.blocks]
        return [
            (drop_path_scale(tokens, rate), drop_path_scale(tokens, rate)) if drops else (1.0, 1.0)
            for drops, rate in zip(dropping, self.drop_path_rates(), strict=True)
        ]

    # The contract

    def memory_modes(self) -> dict[str, dict[str, Any]]:
        return {"plain": dict(with_cp=False), "with_cp": dict(with_cp=True)}

    def units(self) -> list[nn.Module]:
        return list(self.blocks)

    def stages(self) -> dict[str, list[Part]]:
        tokens = [getattr(self, name) for name in self._learnt_in_stem()]
        blocks: dict[str, list[Part]] = {f"block{i}": [block] for i, block in enumerate(self.blocks)}
        if self.norm is not None:
            blocks[f"block{self.depth - 1}"].append(self.norm)
        return {"stem": [getattr(self, self.stem_name), *tokens], **blocks}

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """ViTDet's rule: patches, tokens and positions are 0, block i is i + 1, the pyramid counts as a head.

        The final norm has the depth of the last block.
        """
        num_depths = self.depth + 2
        name = param_name.removeprefix(prefix)
        if param_name.startswith(prefix):
            if name.startswith("blocks."):
                return int(name.split(".")[1]) + 1, num_depths
            if name.startswith((f"{self.stem_name}.", *self._learnt_in_stem())):
                return 0, num_depths
            if name.startswith("norm."):
                return self.depth, num_depths
        return num_depths - 1, num_depths

    @staticmethod
    def published_name(name: str) -> str:
        return published_vit_name(name)

    def is_trunk_name(self, name: str) -> bool:
        return ".rel_pos_" not in name  # they start at zero when ViTDet is trained from MAE's weights

    def adapt_weights(self, weights: dict[str, Tensor]) -> list[str]:
        return adapt_vit_weights(self, weights)

    # Construction

    def _learnt_in_stem(self) -> list[str]:
        """Names of the prefix tokens and of the position table."""
        return [*self.tokens, *(["pos_embed"] if self.has_table else [])]

    def _windows(self, window_size: int | None, global_blocks: Sequence[int]) -> list[int | None]:
        """Each block's window size."""
        if window_size is None:
            if global_blocks:
                raise ValueError(f"global_blocks is {global_blocks}, but without window_size every block is global")
            return [None] * self.depth
        if not is_whole(window_size):
            raise ValueError(f"window_size is {window_size!r}; it must be a positive number of tokens, or None")
        windows: list[int | None] = [window_size] * self.depth
        for i in self._check_blocks(global_blocks, "global_blocks"):
            windows[i] = None
        return windows

    def _check_blocks(self, indices: Sequence[int], name: str) -> tuple[int, ...]:
        try:
            return tuple(range(self.depth)[i] for i in indices)
        except (IndexError, TypeError):
            raise ValueError(
                f"{name} is {indices!r}; it must be a sequence of block indices between {-self.depth} and "
                f"{self.depth - 1}"
            ) from None

    def _init_trunk(self, pos_embed: str) -> None:
        if pos_embed not in ("learned", "sincos"):
            raise ValueError(f"pos_embed is {pos_embed!r}; it must be 'learned' or 'sincos'")
        self.apply(init_linear)
        for name in self._learnt_in_stem():
            nn.init.trunc_normal_(getattr(self, name), std=0.02)
        if pos_embed == "sincos":
            table = sincos_pos_embed(self.embed_dims, self.pos_grid, self.num_prefix)
            self.pos_embed = nn.Parameter(table, requires_grad=False)


def init_linear(module: nn.Module) -> None:
    """Truncated normal weights of standard deviation 0.02, as all these papers have them; biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def image_sides(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) in pixels."""
    pair: Any = (size, size) if is_whole(size) else size
    if not are_wholes(pair, 2):
        raise ValueError(f"image size is {size!r}; it must be a positive number of pixels, or (height, width)")
    return pair[0], pair[1]


def patch_grid(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Rows and columns of the patches of an image of (height, width) pixels."""
    return ceil_div(size[0], stride), ceil_div(size[1], stride)
