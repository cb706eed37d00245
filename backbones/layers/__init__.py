"""Parts that more than one backbone family uses. Imports torch only."""

from .attention import Attention
from .channels_last import ChannelsLastConv2d
from .drop_path import drop_path_rates, drop_path_scale
from .exporting import crop, exporting
from .linear import Linear, linear
from .mlp import Mlp, SwiGLU
from .norm import LayerNorm2d
from .recompute import recompute, recompute_options, without_statistics
from .rotary import CentredRotary, IndexRotary, Rotary, Rotation
from .score_maps import re_attention, talking_heads
from .windows import ceil_div, padding, window_partition, window_unpartition

__all__ = [
    "Attention",
    "CentredRotary",
    "ChannelsLastConv2d",
    "IndexRotary",
    "LayerNorm2d",
    "Linear",
    "Mlp",
    "Rotary",
    "Rotation",
    "SwiGLU",
    "ceil_div",
    "crop",
    "drop_path_rates",
    "drop_path_scale",
    "exporting",
    "linear",
    "padding",
    "re_attention",
    "recompute",
    "recompute_options",
    "talking_heads",
    "window_partition",
    "window_unpartition",
    "without_statistics",
]
