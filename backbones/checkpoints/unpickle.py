"""Unpickling tensors, arrays and plain containers, and nothing else of a file."""

from __future__ import annotations

import pickle
import re
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


class _Inert(dict):
    """Empty stand-in for an object of a class that is not on the list below; accepts every operation of a pickle."""

    name: str = "numpy.ndarray"  # of the class; those of other classes are subclasses

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass


def _encode(text: str, encoding: str) -> bytes:
    """Bytes as pickle's protocol 2 writes them. Other codecs make a few bytes into gigabytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode(encoding)


def _bytearray(*content: Any) -> bytearray:
    """Of content; a number would be a length."""
    if content and not isinstance(content[0], (bytes, str, list)):
        raise pickle.UnpicklingError(f"a bytearray of {content[0]!r}")
    return bytearray(*content)


def _empty_array(*_: Any) -> np.ndarray:
    """NumPy's ``_reconstruct``; the pickle then sets shape and values. ``ndarray`` itself would allocate any shape."""
    return np.empty(0, np.int8)


# Globals that a pickle may name: tensors, arrays and plain containers. None of them runs code of the file, or makes
# something large of a small file.
_DATA = {
    "torch": re.compile(r"Size|device|\w+Storage"),  # and its dtypes
    "torch._utils": re.compile(r"_rebuild_(tensor(_v[23])?|parameter|sparse_tensor|qtensor|meta_tensor_no_storage)"),
    "torch.storage": re.compile(r"\w+Storage"),
    "torch.serialization": re.compile(r"_get_layout"),
    "collections": re.compile(r"OrderedDict|defaultdict|Counter"),
    "builtins": re.compile(r"set|frozenset|slice|complex"),
    "__builtin__": re.compile(r"set|frozenset|slice|complex"),
    "numpy": re.compile(r"dtype"),
    "numpy.dtypes": re.compile(r"\w+DType"),
    "numpy.core.multiarray": re.compile(r"scalar"),
    "numpy._core.multiarray": re.compile(r"scalar"),
    "numpy.core.numeric": re.compile(r"_frombuffer"),
    "numpy._core.numeric": re.compile(r"_frombuffer"),
}
_REPLACED: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _encode,
    ("builtins", "bytearray"): _bytearray,
    ("__builtin__", "bytearray"): _bytearray,
    ("numpy", "ndarray"): _Inert,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
}


def _is_data(module: str, name: str) -> bool:
    """Whether a global named in a pickle is rebuilt.

    The full name is matched. A pickle may also name attributes of a global, and an attribute of any function, such as
    ``_rebuild_tensor.__builtins__.get``, leads to running code.
    """
    if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
        return True
    return module in _DATA and _DATA[module].fullmatch(name) is not None


def inert_pickle(inert: set[str]) -> types.ModuleType:
    """A pickle module for ``torch.load`` that rebuilds tensors, arrays and plain containers only.

    Training scripts pickle config objects beside the weights (official RevCol files hold a yacs node and the builtin
    ``input``). Their classes need not be installed, and their code does not run.

    Args:
        inert: Receives the names of the classes that were replaced.
    """

    def stand_in(name: str) -> type:
        inert.add(name)
        return type("Inert", (_Inert,), {"name": name})

    def attribute(owner: Any, name: str) -> type:
        """A method of a class, as pickle's protocol 2 names it."""
        inside = isinstance(owner, type) and issubclass(owner, _Inert)
        return stand_in(f"{owner.name}.{name}" if inside else "builtins.getattr")

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) in _REPLACED:
                return _REPLACED[module, name]
            if _is_data(module, name):
                return super().find_class(module, name)
            if name == "getattr" and module in ("builtins", "__builtin__"):
                return attribute
            return stand_in(f"{module}.{name}")

    module = types.ModuleType("inert_pickle")
    module.Unpickler = Unpickler  # type: ignore[attr-defined]
    module.load = lambda file, **kwargs: Unpickler(file, **kwargs).load()  # type: ignore[attr-defined]
    return module
