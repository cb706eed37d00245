#!/usr/bin/env python
"""Predict images and videos: ``python tools/predict.py CONFIG CHECKPOINT INPUT ... -o FOLDER``.

Runs ``densebackbones predict`` from this checkout; the package need not be installed.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    from backbones.cli import run

    sys.exit(run("predict"))
