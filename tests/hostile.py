"""Hostile input: drawn cases, each of which must end in a result or a named error of ours."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import backbones

PACKAGE = Path(backbones.__file__).parent
SUITE = 50
CASES = pytest.mark.parametrize("cases", [pytest.param(SUITE, id="suite"), pytest.param(500, marks=pytest.mark.long)])

# What a command line or a config file may hold in place of anything
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([10**30, -(10**30), 0.5, -1.5, 16.0, float("nan"), float("inf"), 1e308]),
    st.text(max_size=3),
    st.sampled_from(
        ["no", "16", "auto", b"x", (), [], {}, {"type": "x"}, object(), (1, "a"), [None], [[1]], (1, 2, 3, 4)]
    ),
)


def check(cases: int, property_: Callable[[Any], Any], drawn: st.SearchStrategy) -> None:
    """Runs a property on drawn cases: in the suite the same ones every time, otherwise new ones."""
    wrapped = settings(
        max_examples=cases,
        derandomize=cases == SUITE,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )(given(drawn)(lambda case: property_(case)))
    wrapped()


def result_or_named_error(call: Callable[[], Any], kind: type[Exception] = ValueError) -> Any:
    """The result, or an error of this kind, which our code raised with a message."""
    try:
        return call()
    except kind as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        assert raised_in.is_relative_to(PACKAGE), f"{type(error).__name__} of {raised_in}: {error}"
        assert len(str(error)) > 20, error
        return error
