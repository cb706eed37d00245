#!/usr/bin/env python
"""Train the networks of a paper's claim and draw the figure: ``python tools/papers.py cait --data-root FLOWERS``.

Runs ``densebackbones papers`` from this checkout; the package need not be installed.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    from backbones.cli import run

    sys.exit(run("papers"))
