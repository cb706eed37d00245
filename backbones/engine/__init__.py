"""What training with these backbones needs of the runner. Registered in mmengine's root registries."""

from . import resumable
from .layer_decay import LayerDecayOptimWrapperConstructor

__all__ = ["LayerDecayOptimWrapperConstructor", "resumable"]
