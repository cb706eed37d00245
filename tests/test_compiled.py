"""Compiled inference."""

import pytest
import torch

from backbones import PlainViT, RevCol
from backbones.engine import compile_inference

SMALL = {
    RevCol: dict(channels=(16, 32, 64, 128), depths=(1, 1, 1, 1), num_columns=1),
    PlainViT: dict(embed_dims=48, depth=1, num_heads=2),
}


@pytest.mark.slow  # TorchInductor calls the C++ compiler
@pytest.mark.parametrize("cls", [RevCol, pytest.param(PlainViT, marks=pytest.mark.long)])
def test_compiled_inference_gives_the_eager_maps(cls):
    torch.compiler.reset()
    net = cls(SMALL[cls]).eval()
    compiled = compile_inference(net)
    torch._dynamo.utils.counters.clear()
    for width in (64, 72) if cls is PlainViT else (72,):
        x = torch.randn(1, 3, 64, width)
        for ours, eager in zip(compiled(x), net(x), strict=True):
            torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-5)
            assert not ours.requires_grad
    assert not torch._dynamo.utils.counters["graph_break"]


def test_model_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"RevCol is in training mode; call eval\(\) on it first"):
        compile_inference(RevCol(SMALL[RevCol]).train())
