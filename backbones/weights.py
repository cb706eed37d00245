"""Reading published checkpoints into a backbone: any wrapper, any prefix, with a report of what went where."""

from __future__ import annotations

import logging
import os
import pickle
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, master_only
from mmengine.logging import print_log
from torch import Tensor, nn

# Where training scripts put the weights, in the order in which the official RevCol loader looks for them.
WRAPPERS = ("state_dict", "model", "state_dict_ema")
# What data-parallel training, a detector and a wrapped classifier put before a backbone's own names.
PREFIXES = ("", "module.", "backbone.", "module.backbone.", "model.", "model.backbone.")


class CheckpointError(ValueError):
    """A checkpoint that does not fit the backbone it was given to."""


@dataclass(frozen=True)
class LoadReport:
    """What became of every key of a checkpoint and of every parameter of the backbone.

    Attributes:
        source: The file or URL.
        wrapper: Key of the file under which the weights were found; empty when they lie bare.
        prefix: What was stripped from the names.
        loaded: Names of the backbone that got a value.
        skipped: Keys of the file that belong to no backbone (other modules of a detector, the classifier), or to a
            second set of weights (an exponential moving average).
        missing: Names of the backbone for which the file has nothing; they keep their values.
        unexpected: Keys of the file that should belong to this backbone but do not.
        inert: Python objects beside the weights that were not rebuilt (configs of the training script).
    """

    source: str
    wrapper: str
    prefix: str
    loaded: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    inert: list[str] = field(default_factory=list)

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


def _inert_pickle(inert: set[str]) -> types.ModuleType:
    """A pickle module for ``torch.load`` that rebuilds tensors and plain containers and nothing else.

    Training scripts pickle their config objects beside the weights (official RevCol files hold a yacs node and the
    builtin ``input``). Such classes need not be installed, and none of their code runs.
    """

    def is_data(module: str, name: str) -> bool:
        return (
            (module == "torch._utils" and name.startswith("_rebuild"))
            or (module == "torch" and isinstance(getattr(torch, name, None), (torch.dtype, type)))
            or (module == "torch.storage" and name.endswith("Storage"))
            or (module == "torch.serialization" and name == "_get_layout")
            or (module == "collections" and name in ("OrderedDict", "defaultdict"))
            or (
                module in ("builtins", "__builtin__")
                and name in ("set", "frozenset", "slice", "range", "complex", "bytearray")
            )
            or (module in ("numpy", "numpy.dtypes") and (name in ("ndarray", "dtype") or name.endswith("DType")))
            or (module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in ("_reconstruct", "scalar"))
            or (module == "_codecs" and name == "encode")
        )

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if is_data(module, name):
                return super().find_class(module, name)
            inert.add(f"{module}.{name}")
            return _Inert

    module = types.ModuleType("inert_pickle")
    module.Unpickler = Unpickler  # type: ignore[attr-defined]
    module.load = lambda file, **kwargs: Unpickler(file, **kwargs).load()  # type: ignore[attr-defined]
    return module


def read_checkpoint(checkpoint: str | os.PathLike, map_location: str = "cpu") -> tuple[Any, list[str]]:
    """Reads a file written by ``torch.save`` without running code that it may carry.

    Args:
        checkpoint: Path, or ``http(s)://`` URL (downloaded once into torch hub's cache folder).
        map_location: Device of the tensors, as in ``torch.load``.

    Returns:
        The content, and the names of the classes whose objects were replaced by empty stand-ins.

    Raises:
        FileNotFoundError: if a path does not exist.
        CheckpointError: if the file is not one that ``torch.save`` writes.
    """
    path = _local_file(str(checkpoint))
    inert: set[str] = set()
    try:
        try:
            return torch.load(path, map_location=map_location, weights_only=True), []
        except pickle.UnpicklingError:  # holds objects other than weights
            content = torch.load(
                path, map_location=map_location, weights_only=False, pickle_module=_inert_pickle(inert)
            )
            return content, sorted(inert)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{checkpoint} cannot be read as a PyTorch checkpoint ({error}). A download may be incomplete; "
            "allowed are files written by torch.save"
        ) from error


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
    return {key: value for key, value in mapping.items() if isinstance(value, Tensor)}


def load_pretrained(
    backbone: nn.Module,
    checkpoint: str | os.PathLike,
    prefix: str | None = None,
    map_location: str = "cpu",
) -> LoadReport:
    """Copies the weights of a checkpoint into a backbone and logs a report.

    Args:
        backbone: Receives the weights. Its ``classifier_keys`` are prefixes of keys that are skipped on purpose.
        checkpoint: Path or URL of a classification file or of a detector's or segmentor's.
        prefix: What precedes the backbone's names in the file; found by itself when None.
        map_location: Device on which the file is read.

    Returns:
        The report.

    Raises:
        CheckpointError: if no name matches, or a shape differs; the backbone is then unchanged.
    """
    content, inert = read_checkpoint(checkpoint, map_location)
    wrapper, weights = find_weights(content)
    own = backbone.state_dict()
    if prefix is None:
        prefix = max(PREFIXES, key=lambda p: sum(p + name in weights for name in own))

    inside = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
    matched = {name: value for name, value in inside.items() if name in own}
    if not matched:
        raise CheckpointError(
            f"nothing in {checkpoint} matches {type(backbone).__name__}: the file has {_shorten(list(weights), 4)}; "
            f"the backbone has {_shorten(list(own), 4)}. Check that the file belongs to this backbone, "
            "or give the prefix of its names as init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)"
        )
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

    classifier = tuple(getattr(backbone, "classifier_keys", ()))
    extra = [name for name in inside if name not in own]
    report = LoadReport(
        source=str(checkpoint),
        wrapper=wrapper,
        prefix=prefix,
        loaded=list(matched),
        skipped=[key for key in weights if not key.startswith(prefix)]
        + [prefix + name for name in extra if name.startswith(classifier)]
        + [f"{other}.*" for other in WRAPPERS if wrapper and other != wrapper and other in content],
        missing=[name for name in own if name not in inside],
        unexpected=[prefix + name for name in extra if not name.startswith(classifier)],
        inert=inert,
    )
    backbone.load_state_dict(matched, strict=False)
    print_log(str(report), logger="current", level=logging.INFO if report.complete else logging.WARNING)
    return report
