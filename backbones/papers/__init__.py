"""The papers at small scale: a file of this folder trains the networks of one comparison and draws its figure.

It has a docstring, whose first line is shown in the list, and a ``COMPARISON``. A new one needs no other entry.
"""

import ast
import importlib
from pathlib import Path

from backbones.papers._runs import Comparison

FOLDER = Path(__file__).parent


def comparisons() -> dict[str, str]:
    """Name -> first line of its module's docstring."""
    found = {}
    for file in sorted(FOLDER.glob("[!_]*.py")):
        docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
        found[file.stem.replace("_", "-")] = docstring.partition("\n")[0]
    return found


def load(name: str) -> Comparison:
    """One of ``comparisons``."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").COMPARISON
