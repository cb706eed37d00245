"""Compiled inference."""

import copy

import pytest
import torch
from archs import small_arch

from backbones import PlainViT, RevCol
from backbones.engine import compile_inference


@pytest.mark.slow  # TorchInductor calls the C++ compiler
@pytest.mark.parametrize("cls", [RevCol, PlainViT])
def test_compiled_inference_gives_the_eager_maps_of_any_size(cls):
    net = cls(small_arch(cls.__name__)).eval()
    compiled = compile_inference(copy.deepcopy(net))
    for size in ((64, 64), (64, 96)):
        x = torch.randn(1, 3, *size)
        for ours, eager in zip(compiled(x), net(x), strict=True):
            torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-5)
            assert not ours.requires_grad


def test_model_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"RevCol is in training mode; call eval\(\) on it first"):
        compile_inference(RevCol(small_arch("RevCol")).train())
