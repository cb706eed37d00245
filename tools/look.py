#!/usr/bin/env python
"""Show a model at work: ``python tools/look.py RevCol photographs -o page.html``.

Runs ``densebackbones look`` from this checkout; the package need not be installed.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    from backbones.cli import run

    sys.exit(run("look"))
