#!/usr/bin/env python
"""Write a model as ONNX: ``python tools/export.py CONFIG CHECKPOINT -o model.onnx``.

Runs ``densebackbones export`` from this checkout; the package need not be installed.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    from backbones.cli import run

    sys.exit(run("export"))
