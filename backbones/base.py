"""The contract of this package: presets, checkpoints and freezing of any backbone, and the maps of a dense one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .checkpoints import load_pretrained
from .checks import check_flag, is_number, is_whole

Part = nn.Module | nn.Parameter


class Backbone(BaseModule):
    """Presets, published weights, frozen stages and layer depths; the forward belongs to the subclass.

    A subclass sets ``archs``, lists its parts in ``stages``, and calls ``_freeze`` at the end of its
    constructor.

    Args:
        frozen_stages: -1 trains everything; ``n`` >= 0 freezes the first ``n + 1`` entries of ``stages``, the first
            being the stem.
        norm_eval: Keep batch norms in eval mode during training (their statistics are then never updated).
        drop_path_rate: Largest chance, in [0, 1), of skipping a residual branch.
        init_cfg: mmengine's initialisation config. ``dict(type='Pretrained', checkpoint=PATH_OR_URL)`` goes to
            ``backbones.checkpoints.load_pretrained``, which reads official files.

    Raises:
        ValueError: for an unknown ``arch``, ``frozen_stages`` outside the stages, or another argument that is none of
            the above.
    """

    archs: ClassVar[Mapping[str, Mapping[str, Any]]]
    arch_defaults: ClassVar[Mapping[str, Any]] = {}  # keys that a dict arch may leave out
    classifier_keys: ClassVar[tuple[str, ...]] = ()  # prefixes of the classifier's keys in official files
    published_layout: ClassVar[tuple[str, str]] = ("model", "")  # wrapper key and prefix of official files
    # RGB mean and standard deviation, in pixel values, of the images that published weights were trained on
    pixel_mean: ClassVar[tuple[float, float, float]] = (123.675, 116.28, 103.53)
    pixel_std: ClassVar[tuple[float, float, float]] = (58.395, 57.12, 57.375)
    undecayed: ClassVar[tuple[str, ...]] = ()  # name substrings without weight decay
    min_size: ClassVar[int] = 32

    def __init__(
        self,
        *,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        drop_path_rate: float = 0.0,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        _check_init_cfg(init_cfg)
        super().__init__(init_cfg)
        if not (is_number(drop_path_rate) and 0 <= drop_path_rate < 1):
            raise ValueError(f"drop_path_rate is {drop_path_rate!r}; it must lie in [0, 1)")
        check_flag("norm_eval", norm_eval)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.drop_path_rate = drop_path_rate

    @classmethod
    def parse_arch(cls, arch: str | Mapping[str, Any]) -> dict[str, Any]:
        """Returns the keys of a preset or of a dict arch, defaults filled in, as a new dict."""
        known = next(iter(cls.archs.values())).keys() | cls.arch_defaults.keys()
        required = known - cls.arch_defaults.keys()
        if isinstance(arch, str):
            if arch not in cls.archs:
                raise ValueError(
                    f"unknown arch {arch!r} of {cls.__name__}; choose from {list(cls.archs)} "
                    f"or pass a dict with {sorted(required)}"
                )
            arch = cls.archs[arch]
        elif not isinstance(arch, Mapping):
            raise ValueError(f"arch of {cls.__name__} is {arch!r}; it must be one of {list(cls.archs)} or a dict")
        if missing := required - arch.keys():
            raise ValueError(f"arch {dict(arch)} of {cls.__name__} lacks {sorted(missing)}")
        if unknown := arch.keys() - known:
            raise ValueError(
                f"arch of {cls.__name__} has unknown keys {sorted(unknown, key=str)}; known are {sorted(known)}"
            )
        return {**cls.arch_defaults, **arch}

    def stages(self) -> dict[str, list[Part]]:
        """The modules and parameters that ``frozen_stages`` counts, by name and in order of computation, stem first."""
        raise NotImplementedError

    def units(self) -> list[nn.Module]:
        """The modules that are gathered one after the other where the parameters are divided over processes."""
        return []

    def memory_modes(self) -> dict[str, dict[str, Any]]:
        """The modes of training, by name, plain first: attributes that choose one, and may change between steps."""
        return {"plain": {}}

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Depth of a parameter, for layer-wise learning rates.

        Args:
            param_name: Full name in the model that holds this backbone.
            prefix: Prefix of the backbone's names there, such as ``'backbone.'``.

        Returns:
            ``(depth, num_depths)``: 0 is the stem; ``num_depths - 1`` is the depth with the full learning rate, that
            of everything outside the backbone.
        """
        raise NotImplementedError

    def _freeze(self) -> None:
        stages = self.stages()
        if not is_whole(self.frozen_stages, -1) or self.frozen_stages >= len(stages):
            raise ValueError(
                f"frozen_stages is {self.frozen_stages!r}; it must be between -1 (nothing) and {len(stages) - 1} "
                f"(all {len(stages)} stages, the stem being stage 0)"
            )
        for part in self._frozen_parts():
            part.requires_grad_(False)

    def _frozen_parts(self) -> list[Part]:
        return [part for stage in list(self.stages().values())[: self.frozen_stages + 1] for part in stage]

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for part in self._frozen_parts():
            if isinstance(part, nn.Module):
                part.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Runs ``init_cfg``; entries of type ``Pretrained`` come last."""
        entries = _entries(self.init_cfg)
        pretrained = [entry for entry in entries if entry["type"] in ("Pretrained", PretrainedInit)]
        given, self.init_cfg = self.init_cfg, [entry for entry in entries if entry not in pretrained]
        try:
            super().init_weights()
        finally:
            self.init_cfg = given
        for entry in pretrained:
            load_pretrained(self, **{key: value for key, value in entry.items() if key != "type"})

    @staticmethod
    def published_name(name: str) -> str:
        """Maps a checkpoint key, its prefix stripped, to our name."""
        return name

    def is_trunk_name(self, name: str) -> bool:
        """Whether a checkpoint must agree with this backbone on a name, which is then neither a pyramid's nor new."""
        return True

    def adapt_weights(self, weights: dict[str, Tensor]) -> list[str]:
        """Fits published weights, already under this backbone's names, in place.

        Returns:
            The changes made, one sentence each.

        Raises:
            CheckpointError: if they cannot be made to fit.
        """
        return []

    def check_input(self, x: Tensor) -> None:
        """Raises ``ValueError`` unless ``x`` is a float batch of RGB images that the coarsest level can hold.

        Its dtype must be that of the weights, except under autocast, which has no float64.
        """
        name = type(self).__name__
        wanted = f"{name} takes a float tensor (B, 3, H, W) with H and W at least {self.min_size}"
        if not isinstance(x, Tensor):
            raise ValueError(f"{wanted}; got a {type(x).__name__}. Stack the images into one tensor first")
        if x.is_nested or x.layout is not torch.strided:
            raise ValueError(f"{wanted}; got a nested or {x.layout} tensor. Make it dense first")
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"{wanted}; got shape {tuple(x.shape)}. Images must be channels first, three channels")
        if not torch.is_floating_point(x):
            raise ValueError(f"{wanted}; got {x.dtype}. Convert and normalise the images (the data preprocessor does)")
        if min(x.shape[2:]) < self.min_size:
            raise ValueError(f"{wanted}; got shape {tuple(x.shape)}. Resize or pad the images")
        if torch.compiler.is_compiling():
            return
        if not x.shape[0]:
            raise ValueError(f"{wanted}; got shape {tuple(x.shape)}, a batch of no images")
        weights = next(self.parameters()).dtype
        if x.dtype != weights and (x.dtype == torch.float64 or not torch.is_autocast_enabled(x.device.type)):
            raise ValueError(f"{wanted}; got {x.dtype} for weights of {weights}. Convert the images to {weights}")


def _entries(init_cfg: Any) -> list[Any]:
    return [init_cfg] if isinstance(init_cfg, Mapping) else list(init_cfg or [])


def _check_init_cfg(init_cfg: Any) -> None:
    if not isinstance(init_cfg, (Mapping, list, tuple, type(None))) or not all(
        isinstance(entry, Mapping) and "type" in entry for entry in _entries(init_cfg)
    ):
        raise ValueError(f"init_cfg is {init_cfg!r}; it must be None, a dict with a type, or a list of such dicts")
    known = inspect.signature(load_pretrained).parameters.keys() - {"model"}
    for entry in _entries(init_cfg):
        if entry["type"] in ("Pretrained", PretrainedInit) and (
            "checkpoint" not in entry or entry.keys() - known - {"type"}
        ):
            raise ValueError(
                f"init_cfg is {dict(entry)}; type Pretrained takes {', '.join(sorted(known))}, and checkpoint is a must"
            )


class DenseBackbone(Backbone):
    """Image in, a tuple of feature maps out, finest first.

    A subclass calls ``_set_levels`` with the channels and strides of all its levels.

    Attributes:
        out_indices: Indices of the returned levels.
        out_channels: Channels of each returned map.
        strides: Stride of each returned map, in input pixels.

    Shapes:
        x: ``(B, 3, H, W)``, floating point, H and W at least 32 and otherwise free.
        returns: tuple of contiguous ``(B, out_channels[i], H_i, W_i)``.

    Raises:
        ValueError: for ``out_indices`` outside the levels, or an input that is no batch of RGB images of at least
            32 x 32 pixels.
    """

    @classmethod
    def raw_maps(cls, arch: Any, count: int) -> dict[str, Any]:
        """Arguments with which ``count`` maps, at most four, are those of the trunk, without a pyramid, if it has one.

        Args:
            arch: The argument that is given beside them, or None.
            count: Number of maps.
        """
        return {}

    def _set_levels(self, channels: Sequence[int], strides: Sequence[int], out_indices: Sequence[int]) -> None:
        levels = len(channels)
        try:
            indices = tuple(range(levels)[i] for i in out_indices)
        except (IndexError, TypeError):
            indices = ()
        if not indices or list(indices) != sorted(set(indices)):
            raise ValueError(
                f"out_indices is {out_indices!r}; it must be a sequence of increasing level indices "
                f"between {-levels} and {levels - 1} (level 0 is the finest), for example {tuple(range(levels))}"
            )
        self.out_indices = indices
        self.out_channels = tuple(channels[i] for i in indices)
        self.strides = tuple(strides[i] for i in indices)
