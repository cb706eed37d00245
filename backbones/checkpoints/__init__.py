"""Reading published checkpoints, reporting their keys and fitting them into our models."""

from .load import Loadable, load_pretrained
from .read import CheckpointError, find_weights, read_checkpoint
from .report import LoadReport

__all__ = [
    "CheckpointError",
    "LoadReport",
    "Loadable",
    "find_weights",
    "load_pretrained",
    "read_checkpoint",
]
