"""Imports a host and finds the classes that a config names."""

import contextlib
import importlib
import io
from typing import Any

from mmengine.registry import Registry


def import_host(scope: str) -> None:
    """Import the modules of a config's default scope, without the lines that some hosts print while importing.

    Raises:
        ImportError: if the host is not installed or does not load.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        for module in ("models", "datasets"):
            importlib.import_module(f"{scope}.{module}")


def registered(root: Registry, kind: Any) -> Any:
    """The class or function of a config's ``type``, seen from the current default scope, or None if there is none."""
    if not isinstance(kind, str):
        return kind
    with root.switch_scope_and_registry(None) as registry:
        try:
            return registry.get(kind)
        except RuntimeError:  # upstream returns None, the fork raises
            return None
