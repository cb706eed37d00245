#!/usr/bin/env python
"""Put a backbone into a config: ``python tools/drop_in.py CONFIG --backbone RevCol --arch tiny -o NEW.py``.

Runs ``densebackbones drop-in`` from this checkout; the package need not be installed.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    from backbones.cli import run

    sys.exit(run("drop-in"))
