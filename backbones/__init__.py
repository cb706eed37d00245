"""DenseBackbones: backbones with multi-level feature maps for mmdet, mmsegmentation and mmpretrain.

Importing this package registers every backbone in mmengine's root registries.
"""

from .families import check_families

check_families()  # before mmengine is imported: two families write into the same folders

from .engine import LayerDecayOptimWrapperConstructor  # noqa: E402
from .revcol import RevCol  # noqa: E402

__version__ = "0.1.0"
__all__ = ["LayerDecayOptimWrapperConstructor", "RevCol", "__version__"]
