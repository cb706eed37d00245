"""Errors, notices and folders of the command line, and the names of its commands as the user would type them."""

import os
import sys
from pathlib import Path

# Scripts in tools/ whose name is not the verb's.
SCRIPTS = {"plot": "plot_run", "sample-data": "make_sample_coco"}


class UsageError(Exception):
    """Invalid input; the message names it, the allowed values and the remedy."""


def make_folder(folder: Path) -> None:
    """Make a folder for results, before the work that they take.

    Raises:
        UsageError: if it cannot be made, or nothing can be written into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be made: {error}; name another place") from error
    if not os.access(folder, os.W_OK):
        raise UsageError(f"the folder {folder} cannot be written; name another place")


def note(message: str) -> None:
    """Print a notice about changed behaviour, to stderr."""
    print(f"note: {message}", file=sys.stderr)


def command(verb: str) -> str:
    """How to run a verb: by the script beside the one that is running, or else by the installed command."""
    running = Path(sys.argv[0])
    script = running.with_name(SCRIPTS.get(verb, verb.replace("-", "_")) + ".py") if running.name else running
    if running.suffix == ".py" and running.parent.name == "tools" and script.is_file():
        return f"python {script}"
    return f"densebackbones {verb}"
