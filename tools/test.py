#!/usr/bin/env python
"""Evaluate a checkpoint, write or draw its predictions: ``python tools/test.py CONFIG CHECKPOINT``.

Runs ``densebackbones test`` from this checkout; the package need not be installed.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    from backbones.cli import run

    sys.exit(run("test"))
