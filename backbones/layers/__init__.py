"""Parts that more than one backbone family uses. Imports torch only."""

from .channels_last import ChannelsLastConv2d
from .drop_path import drop_path_scale

__all__ = ["ChannelsLastConv2d", "drop_path_scale"]
