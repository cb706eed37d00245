"""The ImageNet path: classifiers over the backbones of this package. Needs mmpretrain.

Configs import it by ``custom_imports=dict(imports=["backbones.classification"])``; importing ``backbones`` alone does
not, so detection and segmentation work without mmpretrain.
"""

from .attention_similarity import DiverseClassifier
from .classifier import DenseClassifier
from .distillation import DistilledClassifier, DistilledHead, soft_distillation
from .heads import CaiTHead, CeiTHead, ClassTokenHead, MeanPoolHead
from .mae import MaskedAutoencoder
from .revcol_heads import RevColHead, SupervisedRevColHead

__all__ = [
    "CaiTHead",
    "CeiTHead",
    "ClassTokenHead",
    "DenseClassifier",
    "DistilledClassifier",
    "DistilledHead",
    "DiverseClassifier",
    "MaskedAutoencoder",
    "MeanPoolHead",
    "RevColHead",
    "SupervisedRevColHead",
    "soft_distillation",
]
