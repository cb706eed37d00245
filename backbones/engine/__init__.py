"""Layer-wise learning rates and resumable training, registered in mmengine's root; compiled inference."""

from . import resumable
from .compiled import compile_inference
from .layer_decay import DenseLayerDecayOptimWrapperConstructor

__all__ = ["DenseLayerDecayOptimWrapperConstructor", "compile_inference", "resumable"]
