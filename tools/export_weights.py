#!/usr/bin/env python
"""Take the backbone out of a checkpoint: ``python tools/export_weights.py CHECKPOINT -o backbone.pth``.

Runs ``densebackbones export-weights`` from this checkout; the package need not be installed.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    from backbones.cli import run

    sys.exit(run("export-weights"))
