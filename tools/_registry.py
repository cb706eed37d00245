"""Finding what a config names."""

from typing import Any

from mmengine.registry import Registry


def registered(root: Registry, kind: Any) -> Any:
    """The class or function that a config's ``type`` names, seen from the current default scope; None for no such."""
    if not isinstance(kind, str):
        return kind
    with root.switch_scope_and_registry(None) as registry:
        try:
            return registry.get(kind)
        except RuntimeError:  # upstream returns None, the fork raises
            return None
