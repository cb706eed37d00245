#!/usr/bin/env python
"""Draw the curves of training runs and print their results: ``python tools/plot_run.py WORK_DIR ...``.

Runs ``densebackbones plot`` from this checkout; the package need not be installed.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    from backbones.cli import run

    sys.exit(run("plot"))
