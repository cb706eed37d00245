"""The library that reads other formats of boxes."""

from typing import Any

from backbones.usage import UsageError


def supervision() -> Any:
    """The module.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        import supervision as module
    except ImportError as error:
        raise UsageError("this layout needs supervision: pip install 'densebackbones[data]'") from error
    return module
