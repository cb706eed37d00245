"""Published weights of plain vision transformers: key names, prefix tokens and position tables."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ..layers.pos_embed import resize_pos_embed
from .read import CheckpointError

TOKENS = ("cls_token", "dist_token")
Grid = tuple[int, int]


class Transformer(Protocol):
    """A model with patches, prefix tokens and a position table: ``backbones.trunk.Trunk``."""

    stem_name: ClassVar[str]
    classifier_keys: ClassVar[tuple[str, ...]]
    stride: int
    left_out: tuple[str, ...]
    pos_grid: Grid
    has_table: ClassVar[bool]
    resizes_on_load: ClassVar[bool]

    @property
    def placed_tokens(self) -> tuple[str, ...]: ...
    def state_dict(self) -> dict[str, Any]: ...


def published_vit_name(name: str) -> str:
    """Maps a checkpoint key of detectron2 (ViTDet), BEiT, DINO or timm to our name."""
    name = name.removeprefix("net.")
    if re.match(r"simfp_\d\.|fpn[1-4]\.", name):
        return f"pyramid.{name}"
    name = re.sub(r"\.attn\.([qv])_bias$", r".attn.qkv.\1_bias", name)
    name = re.sub(r"\.mlp\.lin([12])\.", r".mlp.fc\1.", name)  # SAM's
    return re.sub(r"\.ls([12])\.gamma$", r".gamma_\1", name)


def adapt_vit_weights(model: Transformer, weights: dict[str, Tensor]) -> list[str]:
    """Fits published weights, already under the model's names, to its tokens and its position grid, in place.

    Args:
        model: Receives the weights.
        weights: Tensors by name.

    Returns:
        The changes made, one sentence each.

    Raises:
        CheckpointError: for other patches, LayerScale or relative positions that the model lacks, relative positions of
            another length, other prefix tokens, and a position table of no known grid; each names the arguments that
            build the file's network.
    """
    current = model.state_dict()
    _check_patches(f"{model.stem_name}.proj.weight", weights, current, model.stride)
    _check_layer_scale(weights, current)
    _check_rel_pos(weights, current, model.stride)
    return _fit_tokens(model, weights)


def _check_patches(name: str, weights: Mapping[str, Tensor], current: Mapping[str, Tensor], stride: int) -> None:
    if name in weights:
        (_, channels, *theirs), (_, our_channels, *ours) = weights[name].shape, current[name].shape
        if channels == our_channels and theirs != ours:
            raise CheckpointError(
                f"{name} has a kernel of {_by(theirs)} in the file and of {_by(ours)} in the model; "
                f"choose an arch with patch_size={theirs[0] * stride // ours[0]}"  # convolutions may come before
            )


def _check_layer_scale(weights: Mapping[str, Tensor], current: Mapping[str, Tensor]) -> None:
    if "blocks.0.gamma_1" in weights and "blocks.0.gamma_1" not in current:
        raise CheckpointError(
            "the file has LayerScale (blocks.0.gamma_1) and the model has none; pass layer_scale_init_value=1e-6"
        )


def _check_rel_pos(weights: Mapping[str, Tensor], current: Mapping[str, Tensor], stride: int) -> None:
    theirs, ours = _rel_pos_grids(weights), _rel_pos_grids(current)
    if not any(ours.get(block) != grid for block, grid in theirs.items()):
        return

    def described(grids: dict[int, Grid]) -> str:
        blocks = {grid: [str(block) for block in grids if grids[block] == grid] for grid in grids.values()}
        return "; ".join(f"{_by(grid)} in blocks {', '.join(blocks[grid])}" for grid in blocks) or "none"

    largest = max(theirs.values())
    arguments = f"rel_pos={_pixels(largest, stride)}"
    if (window := min(theirs.values())) != largest:
        in_all = tuple(block for block, grid in theirs.items() if grid == largest)
        arguments = f"window_size={window[0]}, global_blocks={in_all}, {arguments}"
    raise CheckpointError(
        f"relative positions (rel_pos_h, rel_pos_w): the file has tables for {described(theirs)}; "
        f"the model for {described(ours)}. Pass {arguments}"
    )


def _rel_pos_grids(weights: Mapping[str, Tensor]) -> dict[int, Grid]:
    """Block and grid of each pair of tables; n places have 2 n - 1 distances."""
    grids = {}
    for name, table_h in weights.items():
        if match := re.fullmatch(r"blocks\.(\d+)\.attn\.rel_pos_h", name):
            table_w = weights.get(name.replace("rel_pos_h", "rel_pos_w"))
            if table_w is None or {table_h.ndim, table_w.ndim} != {2}:
                raise CheckpointError(f"{name} is no table with one for the columns (rel_pos_w) beside it")
            grids[int(match[1])] = ((len(table_h) + 1) // 2, (len(table_w) + 1) // 2)
    return grids


def _fit_tokens(model: Transformer, weights: dict[str, Tensor]) -> list[str]:
    """Fits the prefix tokens and the position table, which not every family has.

    The table of a file whose network adds positions before it puts the class token in front (DeiT-III, big_vision) has
    no row for that token; a row of zeros makes the sum the same.
    """
    ours, grid, notes = model.placed_tokens, model.pos_grid, []
    # CaiT's class token enters behind the blocks
    theirs = tuple(name for name in TOKENS if name in weights and not name.startswith(model.classifier_keys))
    dropped = [name for name in dict.fromkeys((*theirs, *model.left_out)) if name in weights] if not ours else []
    if "pos_embed" not in weights or not model.has_table:
        return [_drop(dropped, weights)] if model.left_out and dropped else []
    table = weights["pos_embed"]
    rows, table_grid = _layout(table.shape[1], len(theirs), grid)

    if not ours and (rows or dropped):
        notes.append(_drop(dropped, weights, f"{rows} of {table.shape[1]} rows of pos_embed" if rows else ""))
        table = table[:, rows:]
    elif theirs not in ((), ours) or rows not in (0, len(ours)):
        raise CheckpointError(
            f"the file has {rows} rows of positions for prefix tokens ({', '.join(theirs) or 'none there'}) and "
            f"{type(model).__name__} has {len(ours)} ({', '.join(ours)}); files with a dist_token belong to DeiT, "
            "files with a cls_token alone to PlainViT"
        )
    elif rows < len(ours):
        table = torch.cat([table.new_zeros(1, len(ours), table.shape[2]), table], dim=1)
        notes.append(f"pos_embed got rows of zeros in front, for {', '.join(ours)}")
    if table_grid != grid and not model.resizes_on_load:
        raise CheckpointError(
            f"pos_embed is a table for {_by(table_grid)} patches, and that of the model is for {_by(grid)}; pass "
            f"img_size={_pixels(table_grid, model.stride)} (images of other sizes resize the table in forward)"
        )
    if table_grid != grid:
        table = resize_pos_embed(table, len(ours), table_grid, grid)
        notes.append(
            f"pos_embed was resized from {_by(table_grid)} to {_by(grid)}; "
            f"img_size={_pixels(table_grid, model.stride)} keeps it as it is"
        )
    elif grid[0] != grid[1] and (square := _square(grid[0] * grid[1])):
        notes.append(
            f"pos_embed was taken for {_by(grid)}; if it is for {_by(square)}, "
            f"pass img_size={_pixels(square, model.stride)}"
        )
    weights["pos_embed"] = table
    return notes


def _drop(names: list[str], weights: dict[str, Tensor], rows: str = "") -> str:
    for name in names:
        del weights[name]
    return f"this model has no prefix tokens: {', '.join([*names, *([rows] if rows else [])])} dropped"


def _layout(rows: int, num_tokens: int, grid: Grid) -> tuple[int, Grid]:
    """How many of a table's rows belong to prefix tokens, and the grid of the others."""
    for prefix in (num_tokens, 0, 1, 2):
        places = rows - prefix
        if places == grid[0] * grid[1]:
            return prefix, grid
        if square := _square(places):
            return prefix, square
    raise CheckpointError(
        f"pos_embed: a table of {rows} rows cannot be factored into a square grid and rows of prefix tokens; "
        "for a file trained on images that are not square, pass their img_size=(H, W)"
    )


def _square(places: int) -> Grid | None:
    side = math.isqrt(max(places, 0))
    return (side, side) if side and side * side == places else None


def _pixels(grid: Grid, stride: int) -> int | Grid:
    return grid[0] * stride if grid[0] == grid[1] else (grid[0] * stride, grid[1] * stride)


def _by(sides: tuple[int, ...] | list[int]) -> str:
    return " x ".join(map(str, sides))
