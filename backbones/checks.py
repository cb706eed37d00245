"""Conditions on the arguments of constructors, which may come as text from a command line."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

LARGEST = 2**31 - 1  # PyTorch's sizes
LARGEST_FLOAT = (2 - 2**-23) * 2.0**127  # of 32 bits


def is_whole(value: Any, least: int = 1) -> bool:
    """Whether a value is a whole number from ``least`` to ``LARGEST``; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= LARGEST


def are_wholes(values: Any, count: int | None = None) -> bool:
    """Whether a value is a list or tuple of positive whole numbers, ``count`` of them if given."""
    listed = isinstance(values, Sequence) and not isinstance(values, str)
    return listed and len(values) == (count or len(values)) and all(map(is_whole, values))


def is_number(value: Any) -> bool:
    """Whether a value is a finite number of float32; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and abs(value) <= LARGEST_FLOAT  # type: ignore[operator]


def check_flag(name: str, value: Any) -> None:
    """Raises ``ValueError`` unless a value is True or False; the text ``no`` would act as True."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; it must be True or False")
