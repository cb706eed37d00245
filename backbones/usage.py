"""Errors and notices of the command line, and the names of its commands as the user would type them."""

import sys
from pathlib import Path

# Scripts in tools/ whose name is not the verb's.
SCRIPTS = {"plot": "plot_run", "sample-data": "make_sample_coco"}


class UsageError(Exception):
    """Invalid input; the message names it, the allowed values and the remedy."""


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
