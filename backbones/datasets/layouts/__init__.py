"""Layouts of labelled folders, found by looking.

A layout is a module of this package: ``TASK`` is its use, ``TREE`` shows it in an error, and ``find(folder, split)``
returns its ``Labelled`` data, or None where the folder has another layout. A new one needs no
other entry: modules are found by their files.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backbones.datasets.layouts._labelled import Labelled, Split
from backbones.usage import UsageError

__all__ = ["Labelled", "Split", "find_layout"]


def find_layout(folder: str | Path, task: str, split: Split | None = None) -> Labelled:
    """The labelled data in a folder.

    Args:
        folder: Any folder.
        task: ``detection``, ``panoptic``, ``segmentation`` or ``classification``.
        split: How images without a split are divided.

    Raises:
        UsageError: for a missing folder, one without a known layout, or data that contradict themselves.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UsageError(f"--data-root: there is no folder {folder}")
    layouts = [layout for layout in _layouts() if task == layout.TASK]
    for layout in layouts:
        if found := layout.find(folder, split or Split()):
            return found
    trees = "\n\n".join(layout.TREE for layout in layouts)
    there = ", ".join(sorted(entry.name for entry in folder.iterdir())[:12]) or "nothing"
    raise UsageError(f"{folder} has no layout for {task}. It holds {there}. The layouts are\n\n{trees}")


def _layouts() -> Iterator[Any]:
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            yield importlib.import_module(f"{__name__}.{module.name}")
