#!/usr/bin/env python
"""Measure the backbones and rewrite docs/BENCHMARKS.md: ``python tools/benchmark.py [SECTION ...]``.

Runs ``densebackbones benchmark`` from this checkout; the package need not be installed.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    from backbones.cli import run

    sys.exit(run("benchmark"))
