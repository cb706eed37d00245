"""What training with these backbones needs of the runner. Registered in mmengine's root registries."""

from . import resumable
from .layer_decay import DenseLayerDecayOptimWrapperConstructor

__all__ = ["DenseLayerDecayOptimWrapperConstructor", "resumable"]
