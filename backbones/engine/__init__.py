"""Layer-wise learning rates and resumable training, registered in mmengine's root registries."""

from . import resumable
from .layer_decay import DenseLayerDecayOptimWrapperConstructor

__all__ = ["DenseLayerDecayOptimWrapperConstructor", "resumable"]
