#!/usr/bin/env python
"""Describe a model: ``python tools/info.py RevCol --arch base --size 800 1333``.

Runs ``densebackbones info`` from this checkout; the package need not be installed.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    from backbones.cli import run

    sys.exit(run("info"))
