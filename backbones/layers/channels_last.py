"""Convolution on maps whose channels are the last dimension."""

from torch import Tensor, nn


class ChannelsLastConv2d(nn.Conv2d):
    """``nn.Conv2d`` (same parameters, same checkpoint keys) from ``(B, H, W, C)`` to ``(B, H', W', C')``.

    Layer norm and linear layers want the channels last and contiguous. The permuted view is PyTorch's
    ``channels_last`` memory format, so the convolution runs on the same memory and nothing is copied.
    """

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
