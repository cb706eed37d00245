"""The small shared parts."""

import pytest
import torch
from torch import nn

from backbones.layers import ChannelsLastConv2d, Linear, drop_path_scale


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.8])
def test_drop_path_drops_at_its_rate_and_scales_the_survivors(rate):
    scale = drop_path_scale(torch.zeros(20_000, 7, 1), rate)
    assert scale.shape == (20_000, 1, 1)
    dropped = scale == 0
    assert dropped.float().mean().item() == pytest.approx(rate, abs=0.015)
    assert scale[~dropped].unique().tolist() == pytest.approx([1 / (1 - rate)])


def test_channels_last_convolution_is_the_convolution():
    own, plain = ChannelsLastConv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
    plain.load_state_dict(own.state_dict())
    x = torch.rand(2, 9, 11, 4)
    torch.testing.assert_close(own(x), plain(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    assert own(x).is_contiguous()


@pytest.mark.parametrize("shape", [(2, 40, 30, 12), (5, 12), (1, 1, 1, 12)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_linear_is_the_linear_layer(dtype, shape):
    torch.set_num_threads(2)  # with one thread PyTorch does not choose oneDNN
    own, plain = Linear(12, 7).to(dtype), nn.Linear(12, 7).to(dtype)
    plain.load_state_dict(own.state_dict())
    image = torch.rand(shape, dtype=dtype)
    x = [image.clone().requires_grad_() for _ in range(2)]
    y = own(x[0]), plain(x[1])
    torch.testing.assert_close(*y)
    assert y[0].is_contiguous()
    grad = torch.rand_like(y[0])
    for out in y:
        out.backward(grad)
    for a, b in zip([x[0], *own.parameters()], [x[1], *plain.parameters()], strict=True):
        assert torch.linalg.norm(a.grad - b.grad) <= 64 * torch.finfo(dtype).eps * torch.linalg.norm(b.grad)
