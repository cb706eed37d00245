#!/usr/bin/env python
"""Find the faults of a data set: ``python tools/check_data.py CONFIG``.

Runs ``densebackbones check-data`` from this checkout; the package need not be installed.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    from backbones.cli import run

    sys.exit(run("check-data"))
