"""Parts that more than one backbone family uses. Imports torch only."""

from .channels_last import ChannelsLastConv2d
from .drop_path import drop_path_scale
from .linear import Linear, linear

__all__ = ["ChannelsLastConv2d", "Linear", "drop_path_scale", "linear"]
