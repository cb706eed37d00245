"""Reading published checkpoints into a backbone: any wrapper, any prefix, with a report of what went where."""

from __future__ import annotations

import logging
import os
import pickle
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, master_only
from mmengine.logging import print_log
from torch import Tensor

from .jax_weights import from_jax, is_jax

# Where training scripts put the weights, in the order in which the official RevCol loader looks for them.
WRAPPERS = ("state_dict", "model", "state_dict_ema")
# What data-parallel training, a detector, a wrapped classifier and JAX's training put before a backbone's own names.
PREFIXES = ("", "module.", "backbone.", "module.backbone.", "model.", "model.backbone.", "opt/target/", "params/")


class SetupError(ValueError):
    """A part that a model was given from elsewhere and that does not fit it; raised before any training."""


class CheckpointError(SetupError):
    """A checkpoint that does not fit the backbone it was given to."""


class Loadable(Protocol):
    """What published weights can be loaded into: a backbone, or a classifier over one."""

    classifier_keys: ClassVar[tuple[str, ...]]

    def published_name(self, name: str) -> str: ...
    def adapt_weights(self, weights: dict[str, Tensor]) -> list[str]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any: ...


@dataclass(frozen=True)
class LoadReport:
    """What became of every key of a checkpoint and of every parameter of the backbone.

    Attributes:
        source: The file or URL.
        wrapper: Key of the file under which the weights were found; empty when they lie bare.
        prefix: What was stripped from the names.
        loaded: Names of the backbone that got a value.
        skipped: Keys of the file that belong to no backbone (other modules of a detector, the classifier), to a
            second set of weights (an exponential moving average), or to tokens that this backbone does without.
        missing: Names of the backbone for which the file has nothing; they keep their values.
        unexpected: Keys of the file that should belong to this backbone but do not.
        inert: Python objects beside the weights that were not rebuilt (configs of the training script).
        adapted: What was changed to make the file's weights fit, one sentence each.
    """

    source: str
    wrapper: str
    prefix: str
    loaded: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    inert: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every name of the backbone got a value and no key was left over."""
        return not self.missing and not self.unexpected

    def __str__(self) -> str:
        where = f"weights under {self.wrapper!r}" if self.wrapper else "bare weights"
        lines = [f"checkpoint {self.source}: {where}, prefix {self.prefix!r}"]
        for name in ("loaded", "skipped", "missing", "unexpected", "inert"):
            keys = getattr(self, name)
            shown = "" if name == "loaded" or not keys else f": {_shorten(keys)}"
            lines.append(f"  {name:<10} {len(keys):>5}{shown}")
        lines += [f"  adapted: {note}" for note in self.adapted]
        return "\n".join(lines)


def _shorten(keys: list[str], most: int = 8) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more


class _Inert(dict):
    """Stands in for an object of a class that is not rebuilt. Takes whatever a pickle does to it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass


# What a checkpoint may have rebuilt: tensors, arrays and plain containers. Nothing here runs code that a file names.
_DATA = {
    "torch": re.compile(r"Size|Tensor|device|\w+(Storage|Tensor)"),  # and its dtypes
    "torch._utils": re.compile(r"_rebuild\w+"),
    "torch.storage": re.compile(r"\w+Storage"),
    "torch.serialization": re.compile(r"_get_layout"),
    "collections": re.compile(r"OrderedDict|defaultdict"),
    "builtins": re.compile(r"set|frozenset|slice|range|complex|bytearray"),
    "__builtin__": re.compile(r"set|frozenset|slice|range|complex|bytearray"),
    "numpy": re.compile(r"ndarray|dtype"),
    "numpy.dtypes": re.compile(r"\w+DType"),
    "numpy.core.multiarray": re.compile(r"_reconstruct|scalar"),
    "numpy._core.multiarray": re.compile(r"_reconstruct|scalar"),
    "numpy.core.numeric": re.compile(r"_frombuffer"),
    "numpy._core.numeric": re.compile(r"_frombuffer"),
    "_codecs": re.compile(r"encode"),
}


def _is_data(module: str, name: str) -> bool:
    """Whether a global that a pickle names is rebuilt.

    The whole name counts: a pickle may also name attributes of a global, and from those of any function, such as
    ``_rebuild_tensor.__builtins__.get``, the way to running code is short.
    """
    if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
        return True
    return module in _DATA and _DATA[module].fullmatch(name) is not None


def _inert_pickle(inert: set[str]) -> types.ModuleType:
    """A pickle module for ``torch.load`` that rebuilds tensors, arrays and plain containers and nothing else.

    Training scripts pickle their config objects beside the weights (official RevCol files hold a yacs node and the
    builtin ``input``). Such classes need not be installed, and none of their code runs.
    """

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if _is_data(module, name):
                return super().find_class(module, name)
            inert.add(f"{module}.{name}")
            return _Inert

    module = types.ModuleType("inert_pickle")
    module.Unpickler = Unpickler  # type: ignore[attr-defined]
    module.load = lambda file, **kwargs: Unpickler(file, **kwargs).load()  # type: ignore[attr-defined]
    return module


def read_checkpoint(checkpoint: str | os.PathLike, map_location: str = "cpu") -> tuple[Any, list[str]]:
    """Reads a file of weights without running code that it may carry.

    Args:
        checkpoint: Path, or ``http(s)://`` URL (downloaded once into torch hub's cache folder). ``.npz`` files hold
            arrays, ``.safetensors`` files tensors; any other file is one that ``torch.save`` wrote, or a pickle of
            arrays (detectron2).
        map_location: Device of the tensors, as in ``torch.load``; arrays have none.

    Returns:
        The content, and the names of the classes whose objects were replaced by empty stand-ins.

    Raises:
        FileNotFoundError: if a path does not exist.
        CheckpointError: if the file is none of these.
    """
    path = _local_file(str(checkpoint))
    inert: set[str] = set()
    try:
        return _read(path, map_location, inert), sorted(inert)
    except Exception as error:  # the readers raise errors of many kinds for a damaged file
        raise CheckpointError(
            f"{checkpoint} cannot be read as a checkpoint ({error}). A download may be incomplete; allowed are files "
            "written by torch.save, pickles of numpy arrays, .npz and .safetensors"
        ) from error


def _read(path: Path, map_location: str, inert: set[str]) -> Any:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path, device=map_location)
    with path.open("rb") as file:
        start = file.read(32)
        # A bare pickle, but not one of those with which torch's files of before version 1.6 begin.
        if start.startswith(pickle.PROTO) and torch.serialization.MAGIC_NUMBER.to_bytes(10, "little") not in start:
            file.seek(0)
            return _inert_pickle(inert).load(file)
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError:  # holds objects other than weights
        return torch.load(path, map_location=map_location, weights_only=False, pickle_module=_inert_pickle(inert))


def _local_file(checkpoint: str) -> Path:
    if checkpoint.startswith(("http://", "https://")):
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(checkpoint).path).name
        _download(checkpoint, path)
        barrier()
        return path
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {checkpoint} does not exist; give the path of a file, or a http(s) URL")
    return path


@master_only
def _download(url: str, path: Path) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=True)


def find_weights(content: Any) -> tuple[str, dict[str, Tensor]]:
    """Finds the weights in a checkpoint: ``(key they lie under, or '', names and tensors)``."""
    if isinstance(content, Mapping):
        for wrapper in WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                return wrapper, _tensors(content[wrapper])
        if weights := _tensors(content):
            return "", weights
    keys = (
        f"the keys {_shorten([str(key) for key in content])}" if isinstance(content, Mapping) else repr(type(content))
    )
    raise CheckpointError(f"no weights found: got {keys}; expected one of {WRAPPERS}, or names and tensors themselves")


def _tensors(mapping: Mapping[str, Any]) -> dict[str, Tensor]:
    """The entries that are tensors, or arrays of numbers, as tensors."""
    return {
        key: torch.tensor(value) if isinstance(value, np.ndarray) else value
        for key, value in mapping.items()
        if isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "biuf")
    }


def load_pretrained(
    backbone: Loadable,
    checkpoint: str | os.PathLike,
    prefix: str | None = None,
    map_location: str = "cpu",
) -> LoadReport:
    """Copies the weights of a checkpoint into a backbone and logs a report.

    Args:
        backbone: Receives the weights. Its ``published_name`` and ``adapt_weights`` make a file's names and tensors
            its own; its ``classifier_keys`` are prefixes of names that are skipped on purpose.
        checkpoint: Path or URL of a classification file or of a detector's or segmentor's.
        prefix: What precedes the backbone's names in the file; found by itself when None.
        map_location: Device on which the file is read.

    Returns:
        The report.

    Raises:
        CheckpointError: if no name matches, or the weights do not fit; the backbone is then unchanged.
    """
    content, inert = read_checkpoint(checkpoint, map_location)
    wrapper, weights = find_weights(content)
    adapted = []
    if is_jax(weights):
        weights = from_jax(weights)
        adapted.append("JAX names and layouts converted to PyTorch's")
    own = backbone.state_dict()

    def names(prefix: str) -> dict[str, str]:
        """The backbone's names of what lies under a prefix, and the file's."""
        return {backbone.published_name(key[len(prefix) :]): key for key in weights if key.startswith(prefix)}

    if prefix is None:
        prefix = max(PREFIXES, key=lambda p: len(own.keys() & names(p).keys()))
    keys = names(prefix)
    if not own.keys() & keys.keys():
        raise CheckpointError(
            f"nothing in {checkpoint} matches {type(backbone).__name__}: the file has {_shorten(list(weights), 4)}; "
            f"the backbone has {_shorten(list(own), 4)}. Check that the file belongs to this backbone, "
            "or give the prefix of its names as init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)"
        )
    inside = {name: weights[key] for name, key in keys.items()}
    try:
        adapted += backbone.adapt_weights(inside)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from None
    matched = {name: value for name, value in inside.items() if name in own}
    wrong = [
        f"{name}: file {tuple(value.shape)}, model {tuple(own[name].shape)}"
        for name, value in matched.items()
        if value.shape != own[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{checkpoint} has other shapes than {type(backbone).__name__} in {len(wrong)} of {len(matched)} names: "
            f"{'; '.join(wrong[:4])}{' ...' if len(wrong) > 4 else ''}. Choose the arch that the file was trained with"
        )

    extra = {name: key for name, key in keys.items() if name not in own}
    dropped = [name for name in extra if name.startswith(backbone.classifier_keys) or name not in inside]
    report = LoadReport(
        source=str(checkpoint),
        wrapper=wrapper,
        prefix=prefix,
        loaded=list(matched),
        skipped=[key for key in weights if not key.startswith(prefix)]
        + [extra[name] for name in dropped]
        + [f"{other}.*" for other in WRAPPERS if wrapper and other != wrapper and other in content],
        missing=[name for name in own if name not in inside],
        unexpected=[extra[name] for name in extra if name not in dropped],
        inert=inert,
        adapted=adapted,
    )
    backbone.load_state_dict(matched, strict=False)
    print_log(str(report), logger="current", level=logging.INFO if report.complete else logging.WARNING)
    return report
