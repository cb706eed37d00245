"""DenseBackbones: backbones with multi-level feature maps for mmdet, mmsegmentation and mmpretrain.

Importing this package registers every backbone in mmengine's root registries.
"""

from .families import check_families

check_families()  # before mmengine is imported: two families write into the same folders

from .beit import BEiT  # noqa: E402
from .cait import CaiT  # noqa: E402
from .ceit import CeiT  # noqa: E402
from .config.shipped import config_path  # noqa: E402
from .deepvit import DeepViT  # noqa: E402
from .dinov2 import DINOv2  # noqa: E402
from .dinov3 import DINOv3  # noqa: E402
from .engine import DenseLayerDecayOptimWrapperConstructor  # noqa: E402
from .eva02 import EVA02  # noqa: E402
from .hybrid_vit import HybridViT  # noqa: E402
from .pyramid import SimpleFeaturePyramid  # noqa: E402
from .revcol import RevCol  # noqa: E402
from .revcol_vit import RevColViT  # noqa: E402
from .siglip2 import SigLIP2  # noqa: E402
from .vit import DeiT, PlainViT  # noqa: E402

__version__ = "0.1.0"
__all__ = [
    "EVA02",
    "BEiT",
    "CaiT",
    "CeiT",
    "DINOv2",
    "DINOv3",
    "DeepViT",
    "DeiT",
    "DenseLayerDecayOptimWrapperConstructor",
    "HybridViT",
    "PlainViT",
    "RevCol",
    "RevColViT",
    "SigLIP2",
    "SimpleFeaturePyramid",
    "__version__",
    "config_path",
]
