#!/usr/bin/env python
"""Make a small data set in COCO's layout: ``python tools/make_sample_coco.py data/sample_coco``.

Runs ``densebackbones sample-data`` from this checkout; the package need not be installed.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    from backbones.cli import run

    sys.exit(run("sample-data"))
