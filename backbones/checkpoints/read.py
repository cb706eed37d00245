"""Reading a checkpoint file: any wrapper, and no code of the file ever runs."""

from __future__ import annotations

import os
import pickle
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, master_only
from torch import Tensor

from ..errors import SetupError

# Keys under which training scripts store the weights, in the order of the official RevCol loader.
WRAPPERS = ("state_dict", "model", "state_dict_ema")


class CheckpointError(SetupError):
    """A checkpoint that cannot be read, or does not fit the model it was given to."""


class _Inert(dict):
    """Empty stand-in for an object of a class that is not on the list below; accepts every operation of a pickle."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass


# Globals that a pickle may name: tensors, arrays and plain containers. None of them runs code of the file.
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
    """Whether a global named in a pickle is rebuilt.

    The full name is matched. A pickle may also name attributes of a global, and an attribute of any function, such as
    ``_rebuild_tensor.__builtins__.get``, leads to running code.
    """
    if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
        return True
    return module in _DATA and _DATA[module].fullmatch(name) is not None


def _inert_pickle(inert: set[str]) -> types.ModuleType:
    """A pickle module for ``torch.load`` that rebuilds tensors, arrays and plain containers only.

    Training scripts pickle config objects beside the weights (official RevCol files hold a yacs node and the builtin
    ``input``). Their classes need not be installed, and their code does not run.

    Args:
        inert: Receives the names of the classes that were replaced.
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
    """Reads a checkpoint without running code it may carry.

    Args:
        checkpoint: Path, or ``http(s)://`` URL (downloaded once into torch hub's cache folder). Formats: ``.npz``,
            ``.safetensors``, files of ``torch.save``, and pickles of arrays (detectron2).
        map_location: Device of the tensors, as in ``torch.load``; arrays have none.

    Returns:
        The content, and the names of the classes whose objects were replaced by empty stand-ins.

    Raises:
        FileNotFoundError: for a path that does not exist.
        CheckpointError: for a file of another format, or a damaged one.
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
    """Finds the weights in a checkpoint.

    Returns:
        The wrapper key (``""`` for bare weights), and the tensors by checkpoint key.

    Raises:
        CheckpointError: for a file without tensors.
    """
    if isinstance(content, Mapping):
        for wrapper in WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                return wrapper, _tensors(content[wrapper])
        if weights := _tensors(content):
            return "", weights
    keys = f"the keys {shorten([str(key) for key in content])}" if isinstance(content, Mapping) else repr(type(content))
    raise CheckpointError(f"no weights found: got {keys}; expected one of {WRAPPERS}, or names and tensors themselves")


def _tensors(mapping: Mapping[str, Any]) -> dict[str, Tensor]:
    """The entries that are tensors, or arrays of numbers, as tensors."""
    return {
        key: torch.tensor(value) if isinstance(value, np.ndarray) else value
        for key, value in mapping.items()
        if isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "biuf")
    }


def shorten(keys: Sequence[str], most: int = 8) -> str:
    """The first keys of a list, and how many more there are."""
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
