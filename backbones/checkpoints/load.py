"""Fitting a checkpoint into a model: prefixes, renamed keys, and a report of every key."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

import torch
from mmengine.logging import print_log
from torch import Tensor

from .layouts import to_our_layout
from .read import WRAPPERS, CheckpointError, find_weights, read_checkpoint, shorten
from .recognise import hint
from .report import LoadReport

# Prefixes of data-parallel training, detectors, wrapped classifiers and JAX.
PREFIXES = ("", "module.", "backbone.", "module.backbone.", "model.", "model.backbone.", "opt/target/", "params/")
PREFIXES += ("image_encoder.", "visual.trunk.")  # of SAM, of open_clip


class Loadable(Protocol):
    """A model that published weights load into: a backbone, or a classifier over one."""

    classifier_keys: ClassVar[tuple[str, ...]]

    def published_name(self, name: str) -> str: ...
    def adapt_weights(self, weights: dict[str, Tensor]) -> list[str]: ...
    def is_trunk_name(self, name: str) -> bool: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any: ...


def load_pretrained(
    model: Loadable,
    checkpoint: str | os.PathLike,
    prefix: str | None = None,
    map_location: str = "cpu",
    strict: bool = True,
) -> LoadReport:
    """Copies the weights of a checkpoint into a model and logs a report.

    Args:
        model: Receives the weights. Its ``published_name`` maps checkpoint keys to its names, its ``adapt_weights``
            fits the tensors, and keys that start with its ``classifier_keys`` are skipped.
        checkpoint: Path or URL of a classifier's, detector's or segmentor's weights.
        prefix: Prefix of the model's names in the file; None detects it.
        map_location: Device to read the file to.
        strict: Refuse a file of another network: one that lacks names of the trunk, or has keys of a trunk that this
            model has no place for. A pyramid or a head may always be new.

    Returns:
        The report.

    Raises:
        CheckpointError: if no key matches, or the weights do not fit; the model is then unchanged.
    """
    content, inert = read_checkpoint(checkpoint, map_location)
    wrapper, weights = find_weights(content)
    others = [str(key) for key in content[wrapper] if key not in weights] if wrapper else []
    try:
        weights, adapted = to_our_layout(weights)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error
    with _naming_the_family(weights, model):
        current = model.state_dict()

        def keys_by_name(prefix: str) -> dict[str, str]:
            """The model's name of each checkpoint key with this prefix; of several keys for a name the last."""
            return {model.published_name(key[len(prefix) :]): key for key in weights if key.startswith(prefix)}

        if prefix is None:
            prefix = max(PREFIXES, key=lambda p: len(current.keys() & keys_by_name(p).keys()))
        keys = keys_by_name(prefix)
        if not current.keys() & keys.keys():
            raise CheckpointError(
                f"no key of {checkpoint} matches {type(model).__name__}: the file has {shorten(list(weights), 4)}; "
                f"the model has {shorten(list(current), 4)}. Check that the file belongs to this backbone, "
                "or give its prefix: init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)"
            )
        named = set(keys.values())
        if doubles := [key for key in weights if key.startswith(prefix) and key not in named]:
            raise CheckpointError(
                f"{checkpoint} has several keys for one name of the model, among them {shorten(doubles)}"
            )
        fitted = {name: weights[key] for name, key in keys.items()}
        _check_kinds(fitted, current, model, checkpoint)
        try:
            adapted += model.adapt_weights(fitted)
        except CheckpointError as error:
            raise CheckpointError(f"{checkpoint}: {error}") from None
        matched = {name: value for name, value in fitted.items() if name in current}
        _check_shapes(matched, current, model, checkpoint)

        leftover = {name: key for name, key in keys.items() if name not in current}
        dropped = [name for name in leftover if name.startswith(model.classifier_keys) or name not in fitted]
        unexpected = [name for name in leftover if name not in dropped]
        report = LoadReport(
            source=str(checkpoint),
            wrapper=wrapper,
            prefix=prefix,
            loaded=list(matched),
            skipped=[key for key in weights if not key.startswith(prefix)]
            + others
            + [leftover[name] for name in dropped]
            + [f"{other}.*" for other in WRAPPERS if wrapper and other != wrapper and other in content],
            missing=[name for name in current if name not in fitted],
            unexpected=[leftover[name] for name in unexpected],
            inert=inert,
            adapted=adapted,
        )
        if strict:
            _check_trunk(report, [leftover[name] for name in unexpected if model.is_trunk_name(name)], model)
    model.load_state_dict(matched, strict=False)
    print_log(str(report), logger="current", level=logging.INFO if report.complete else logging.WARNING)
    return report


@contextmanager
def _naming_the_family(weights: Mapping[str, Tensor], model: Loadable) -> Iterator[None]:
    """Adds to an error which family the file belongs to, where its names tell."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{error}{hint(weights, type(getattr(model, 'backbone', model)).__name__)}") from None


def _check_kinds(
    fitted: Mapping[str, Tensor], current: Mapping[str, Tensor], model: Loadable, checkpoint: str | os.PathLike
) -> None:
    """Refuses what cannot be fitted, or would be cast with a loss: other dimensions, integers, complex numbers."""
    wrong = [
        f"{name}: file {tuple(value.shape)} {value.dtype}{'' if _has_values(value) else ' without plain values'}, "
        f"model {tuple(current[name].shape)} {current[name].dtype}"
        for name, value in fitted.items()
        if name in current
        and not (
            _has_values(value)
            and (value.ndim == current[name].ndim or not model.is_trunk_name(name))  # heads may be reset
            and value.is_floating_point() == current[name].is_floating_point()
            and not value.is_complex()
        )
    ]
    if wrong:
        raise CheckpointError(
            f"{checkpoint} has {len(wrong)} parameters that cannot become those of {type(model).__name__}: "
            f"{'; '.join(wrong[:4])}{' ...' if len(wrong) > 4 else ''}"
        )


def _has_values(tensor: Tensor) -> bool:
    """Whether a tensor is dense, holds data, and has a value of its own for each place."""
    dense = tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_quantized or tensor.is_nested)
    return dense and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _check_shapes(
    matched: Mapping[str, Tensor], current: Mapping[str, Tensor], model: Loadable, checkpoint: str | os.PathLike
) -> None:
    wrong = [
        f"{name}: file {tuple(value.shape)}, model {tuple(current[name].shape)}"
        for name, value in matched.items()
        if value.shape != current[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{checkpoint} and {type(model).__name__} differ in the shapes of {len(wrong)} of {len(matched)} "
            f"parameters: {'; '.join(wrong[:4])}{' ...' if len(wrong) > 4 else ''}. Choose the arch of the file"
        )


def _check_trunk(report: LoadReport, unexpected: list[str], model: Loadable) -> None:
    """Refuses weights of another network, of which a part only would load.

    ``num_batches_tracked`` may be missing: files of before PyTorch 0.4.1 have none.
    """
    missing = [n for n in report.missing if model.is_trunk_name(n) and not n.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise CheckpointError(
            f"{report.source} holds the weights of another network than {type(model).__name__}. "
            f"Missing in the file, {len(missing)}: {shorten(missing) or 'none'}. "
            f"Without a place in the model, {len(unexpected)}: {shorten(unexpected) or 'none'}. "
            "Choose the backbone and arch of the file; to load the common part all the same, add strict=False to "
            "init_cfg"
        )
