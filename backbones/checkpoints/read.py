"""Reading a checkpoint file: any wrapper, and no code of the file ever runs."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError
from .archive import check_archive
from .download import download
from .hub import INDEX, SCHEME, from_hub, shards
from .unpickle import inert_pickle

# Keys under which training scripts store the weights, in the order of the official RevCol loader.
WRAPPERS = ("state_dict", "model", "state_dict_ema")


def read_checkpoint(checkpoint: str | os.PathLike, map_location: str = "cpu") -> tuple[Any, list[str]]:
    """Reads a checkpoint without running code it may carry.

    Args:
        checkpoint: Path, ``http(s)://`` URL (downloaded once into torch hub's cache folder), or ``hf://ORG/NAME[/FILE]``
            (likewise into the Hugging Face hub's). Formats: ``.npz``, ``.safetensors``, the index of its shards
            (``.safetensors.index.json``), files of ``torch.save``, and pickles of arrays (detectron2).
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
        check_archive(path)
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
    if path.suffix == ".safetensors" or path.name.endswith(INDEX):
        from safetensors.torch import load_file

        files = [path.parent / shard for shard in shards(path)] if path.name.endswith(INDEX) else [path]
        return {key: value for file in files for key, value in load_file(file, device=map_location).items()}
    with path.open("rb") as file:
        start = file.read(32)
        # A bare pickle, but not one of those with which torch's files of before version 1.6 begin.
        if start.startswith(pickle.PROTO) and torch.serialization.MAGIC_NUMBER.to_bytes(10, "little") not in start:
            file.seek(0)
            return inert_pickle(inert).load(file)
    return torch.load(path, map_location=map_location, weights_only=False, pickle_module=inert_pickle(inert))


def _local_file(checkpoint: str) -> Path:
    if checkpoint.startswith(("http://", "https://")):
        return download(checkpoint)
    if checkpoint.startswith(SCHEME):
        return from_hub(checkpoint)
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint {checkpoint} does not exist; give the path of a file, or a http(s) or hf:// address"
        )
    return path


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


def _tensors(mapping: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The entries that are tensors, or arrays of numbers, as tensors."""
    weights = {key: value for key, value in mapping.items() if isinstance(value, (Tensor, np.ndarray))}
    if wrong := [key for key in weights if not isinstance(key, str)]:
        raise CheckpointError(f"the names of weights must be text, and one is {wrong[0]!r}")
    return {
        key: _tensor(value) if isinstance(value, np.ndarray) else value
        for key, value in weights.items()
        if isinstance(value, Tensor) or value.dtype.kind in "biuf"
    }


def _tensor(array: np.ndarray) -> Tensor:
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.tensor(native if native.itemsize <= 8 else native.astype(np.float64))  # PyTorch has no longer floats


def shorten(keys: Sequence[str], most: int = 8) -> str:
    """The first keys of a list, and how many more there are."""
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
