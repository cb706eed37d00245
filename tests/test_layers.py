"""The small shared parts."""

import pytest
import torch
from torch import nn

from backbones.layers import ChannelsLastConv2d, drop_path_scale


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.8])
def test_drop_path_drops_at_its_rate_and_scales_the_survivors(rate):
    scale = drop_path_scale(torch.zeros(20_000, 7), rate)
    assert scale.shape == (20_000, 1, 1, 1)
    dropped = scale == 0
    assert dropped.float().mean().item() == pytest.approx(rate, abs=0.015)
    assert scale[~dropped].unique().tolist() == pytest.approx([1 / (1 - rate)])


def test_channels_last_convolution_is_the_convolution():
    own, plain = ChannelsLastConv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
    plain.load_state_dict(own.state_dict())
    x = torch.rand(2, 9, 11, 4)
    torch.testing.assert_close(own(x), plain(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    assert own(x).is_contiguous()
