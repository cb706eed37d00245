"""A transformer's trunk with a pyramid: one resolution in, four levels out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from .base import DenseBackbone
from .pyramid import Pyramid, build_pyramid, cut_levels, raw_pyramid, tap_pyramid, to_stride
from .trunk import Trunk


class DenseTransformer(DenseBackbone, Trunk):
    """Adds pyramid, taps and levels to a trunk: ``class PlainViT(DenseTransformer, ViTTrunk)``.

    Args:
        arch: As in ``backbones.trunk.Trunk``, like the arguments not named here.
        pyramid: ``'simple'``: ViTDet's layers on the last block; ``'taps'``: four block outputs brought to four strides
            (BEiT, MAE); None: the raw block outputs at the patch stride; or a dict such as
            ``dict(type='SimpleFeaturePyramid', out_channels=256)``. Patches of other sides than 16 are resampled to
            stride 16 before a pyramid, so the levels always have strides 4, 8, 16, 32.
        taps: Indices of the blocks read by ``'taps'`` (four) or None (any number), increasing. Default: the ends of
            four equal parts of the depth for ``'taps'``, the last block for None.
        final_norm: Normalise the block outputs that are read by the layer norm that published files call ``norm``; None
            does as the family's detectors do: off for ViT, on for DINO.
        out_indices: Levels to return, increasing; negative ones count from the last. Parameters that no returned level
            depends on are frozen, so that data-parallel training does not wait for them.

    Prefix tokens are cut off before the pyramid.

    Shapes:
        x: ``(B, 3, H, W)``, H and W at least 32; padded inside with zeros to whole patches.
        returns: tuple of ``(B, out_channels[i], ceil(H / strides[i]), ceil(W / strides[i]))``.

    Raises:
        ValueError: for an unknown ``arch``, and for blocks, windows, taps or levels that do not exist.
    """

    norm_taps: ClassVar[bool] = False  # default of ``final_norm``

    def __init__(
        self,
        arch: str | Mapping[str, Any] | None = None,
        *,
        pyramid: str | Mapping[str, Any] | None = "simple",
        taps: Sequence[int] | None = None,
        final_norm: bool | None = None,
        out_indices: Sequence[int] | None = None,
        **trunk: Any,
    ) -> None:
        super().__init__(arch, final_norm=self.norm_taps if final_norm is None else final_norm, **trunk)
        self.pyramid, self.sources = self.make_pyramid(pyramid, taps)
        channels, strides = self.pyramid.channels, self.pyramid.strides
        self._set_levels(channels, strides, range(len(channels)) if out_indices is None else out_indices)
        self._freeze_unused()

    @classmethod
    def raw_maps(cls, arch: Any, count: int) -> dict[str, Any]:
        depth = cls.parse_arch(cls.default_arch if arch is None else arch)["depth"]
        return dict(pyramid=None, taps=tuple(depth * i // count - 1 for i in range(1, count + 1)))

    def make_pyramid(
        self, pyramid: str | Mapping[str, Any] | None, taps: Sequence[int] | None
    ) -> tuple[Pyramid, list[str]]:
        """The pyramid, and the name of the map that each of its levels is made from."""
        last = self.depth - 1
        if pyramid == "taps":
            blocks = self._check_taps(self._quarters() if taps is None else taps, 4)
            return tap_pyramid(self.embed_dims), _block_names(blocks)
        if pyramid is None:
            blocks = self._check_taps((last,) if taps is None else taps)
            return raw_pyramid(self.embed_dims, len(blocks), self.stride), _block_names(blocks)
        if taps is not None:
            raise ValueError(
                f"taps is {taps}, but pyramid={pyramid!r} reads the last block; pass pyramid='taps' or None"
            )
        wanted = "'simple', 'taps', None, or a dict such as dict(type='SimpleFeaturePyramid', out_channels=256)"
        module = build_pyramid(pyramid, self.embed_dims, wanted)
        return module, _block_names([last] * len(module.channels))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.check_input(x)
        size = (x.shape[2], x.shape[3])
        sources = [self.sources[i] for i in self.out_indices]
        maps = self.forward_maps(x, set(sources))
        for name in maps:
            if name.startswith("block"):
                maps[name] = to_stride(maps[name], self.stride, self.pyramid.in_stride, size)
        feats = self.pyramid([maps[name] for name in sources], self.out_indices)
        return cut_levels(feats, size, self.strides)

    def is_trunk_name(self, name: str) -> bool:
        return not name.startswith("pyramid.") and super().is_trunk_name(name)

    def _freeze_unused(self) -> None:
        """Freezes the parameters of no returned level, so that every trainable parameter gets a gradient."""
        stages = self.stages()
        order = list(stages)
        last = max(order.index(self.sources[i]) for i in self.out_indices)
        reads_blocks = any(self.sources[i].startswith("block") for i in self.out_indices)
        for part in (part for name in order[last + 1 :] for part in stages[name]):
            if part is not self.norm or not reads_blocks:  # the norm belongs to the last block, but serves every tap
                part.requires_grad_(False)
        self.pyramid.freeze_unused(self.out_indices)

    def _check_taps(self, taps: Sequence[int], count: int | None = None) -> tuple[int, ...]:
        blocks = self._check_blocks(taps, "taps")
        if not blocks or list(blocks) != sorted(set(blocks)) or (count is not None and len(blocks) != count):
            wanted = f"{count} increasing" if count else "increasing"
            raise ValueError(f"taps is {taps}; this pyramid takes {wanted} indices of blocks")
        return blocks

    def _quarters(self) -> tuple[int, ...]:
        return tuple(self.depth * i // 4 - 1 for i in (1, 2, 3, 4))


def _block_names(blocks: Sequence[int]) -> list[str]:
    return [f"block{i}" for i in blocks]
