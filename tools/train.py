#!/usr/bin/env python
"""Train a detector, segmentor or classifier: ``python tools/train.py configs/revcol_maskrcnn_coco.py``.

Runs ``densebackbones train`` from this checkout; the package need not be installed.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    from backbones.cli import run

    sys.exit(run("train"))
