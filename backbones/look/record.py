"""One forward of a photograph, with everything that the sections of the page show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from backbones.attention_maps import AttentionInput, global_blocks, recorded_blocks
from backbones.base import DenseBackbone
from backbones.look.subject import Photo, Subject
from backbones.reversible import Run
from backbones.trunk import Trunk


@dataclass(frozen=True)
class ColumnMaps:
    """A column of ``backbones.reversible`` in a forward.

    Attributes:
        maps: Its maps, of each level ``(B, H, W, C)``.
        shortcuts: Scales of the previous column's maps, each ``(C,)``.
        previous: The previous column's maps; before the first, zeros that broadcast.
    """

    maps: Sequence[Tensor]
    shortcuts: Sequence[Tensor]
    previous: Sequence[Tensor]

    def kept(self, level: int) -> Tensor:
        """What the shortcut brings of the previous column, ``(B, H, W, C)``."""
        return (self.shortcuts[level] * self.previous[level]).expand_as(self.maps[level])

    def added(self, level: int) -> Tensor:
        """What the column adds to it, ``(B, H, W, C)``: F of the paper's equation."""
        return self.maps[level] - self.kept(level)


@dataclass(frozen=True)
class View:
    """A photograph and its forward.

    Attributes:
        photo: The photograph.
        levels: The maps that the backbone returns, each ``(C, h, w)``; of a trunk without a pyramid, the last block's.
        columns: The columns; empty for a backbone without.
        blocks: Names of the transformer's blocks that attend globally, in order.
        attention: The input of each of these blocks' attention.
        products: Of each, the attention maps times the values, ``(B, N, C)``.
    """

    photo: Photo
    levels: list[Tensor]
    columns: list[ColumnMaps]
    blocks: list[str]
    attention: list[AttentionInput]
    products: list[Tensor]


@dataclass(frozen=True)
class Look:
    """What a page is about.

    Attributes:
        subject: The model.
        photos: All photographs.
        views: Those whose maps are drawn.
        blocks: Indices of the blocks whose attention is drawn; None chooses them.
        similar: Cosine similarity above which the maps of two blocks are similar.
        similar_heads: Likewise, of two heads of a block.
    """

    subject: Subject
    photos: list[Photo]
    views: list[View]
    blocks: Sequence[int] | None
    similar: float
    similar_heads: float


@torch.no_grad()  # in which some blocks run faster
def record(subject: Subject, photo: Photo) -> View:
    """Show a photograph to the backbone."""
    backbone, images = subject.backbone, subject.images(photo.pixels[None])
    blocks = global_blocks(backbone)
    names = {block.attn: name for name, block in blocks.items()}
    with (
        recorded_columns(backbone) as columns,
        recorded_blocks(blocks.values()) as attention,
        _recorded_products(blocks.values()) as products,
    ):
        if isinstance(backbone, Trunk) and not isinstance(backbone, DenseBackbone):
            last = f"block{backbone.depth - 1}"
            output: Any = backbone.forward_maps(images, [last])
        else:
            output = backbone(images)
    levels = [x[0] for x in tree_leaves(output) if isinstance(x, Tensor) and x.ndim == 4]
    return View(photo, levels, columns, [names[given.attention] for given in attention], attention, products)


def columns_of(backbone: Any) -> list[nn.Module]:
    """The columns that ``backbones.reversible`` runs, from left to right."""
    return [column for column in getattr(backbone, "columns", ()) if hasattr(column, "sources")]


@contextmanager
def recorded_columns(backbone: Any) -> Iterator[list[ColumnMaps]]:
    """Records the maps of each column in the forwards inside this context."""
    found: list[ColumnMaps] = []

    def enter(column: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        run: Run
        run, *rest = args

        def recorded(levels: Any, shortcuts: Sequence[Tensor], stem: Tensor, previous: Sequence[Tensor]) -> list:
            maps = run(levels, shortcuts, stem, previous)
            found.append(ColumnMaps(maps, shortcuts, previous))
            return maps

        return recorded, *rest

    hooks = [column.register_forward_pre_hook(enter) for column in columns_of(backbone)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _recorded_products(blocks: Iterable[Any]) -> Iterator[list[Tensor]]:
    found: list[Tensor] = []
    hooks = [block.attn.proj.register_forward_pre_hook(lambda _, args: found.append(args[0])) for block in blocks]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
