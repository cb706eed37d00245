"""Recomputed blocks: same numbers, and batch norms count each batch once."""

import pytest
import torch
from torch import nn

from backbones.layers import re_attention, recompute
from backbones.layers.recompute import without_statistics


class Block(nn.Module):
    """Batch norms of both kinds: a module's own, and one whose statistics re-attention computes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 3 * 6, 1)
        self.norm = nn.BatchNorm2d(3 * 6, momentum=None)
        self.matrix = nn.Conv2d(2, 2, 1)
        self.var_norm = nn.BatchNorm2d(2)
        self.proj = nn.Conv2d(6, 6, 1)

    def forward(self, x, scale):
        q, k, v = self.norm(self.conv(x)).flatten(2).unflatten(1, (3, 2, 3)).transpose(3, 4).unbind(1)
        y = re_attention(q, k, v, scale, self.matrix.weight, self.matrix.bias, self.var_norm, 1.0)
        return x + self.proj(y.transpose(2, 3).reshape(x.shape))


def build(training=True):
    torch.manual_seed(1)
    return Block().double().train(training)


def step(block, forward, forwards=2, backwards=1):
    """Outputs, gradients and buffers after a few forwards, which are then backpropagated together."""
    x = torch.randn(2, 6, 4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    outs = [forward(x, 0.7) for _ in range(forwards)]
    for _ in range(backwards):
        sum(out.square().sum() for out in outs).backward(retain_graph=True)
    return [*outs, x.grad, *(p.grad for p in block.parameters()), *block.buffers()]


@pytest.mark.parametrize("backwards", [1, 2])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("early_stop", [True, False])
def test_outputs_gradients_and_statistics_are_the_plain_blocks(training, backwards, early_stop):
    plain, block = build(training), build(training)
    buffers = {name: b.data_ptr() for name, b in block.named_buffers()}
    with torch.utils.checkpoint.set_checkpoint_early_stop(early_stop):
        got = step(block, lambda *args: recompute(block, *args), backwards=backwards)
    for a, b in zip(got, step(plain, plain, backwards=backwards), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert {name: b.data_ptr() for name, b in block.named_buffers()} == buffers


def test_only_the_arguments_are_kept():
    block, kept = build(), []
    x = torch.zeros(2, 6, 4, 3, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        recompute(block, x, 0.7)
    assert all(t.numel() == 0 or t.data_ptr() == x.data_ptr() for t in kept)


@pytest.mark.slow
def test_compiled_block_counts_the_batch_once():
    plain, block = build(), build()
    plain.norm.momentum = block.norm.momentum = 0.1  # the module's own code for None is no graph
    backend = "aot_eager_decomp_partition"  # Inductor without its code; plain aot_eager counts twice in PyTorch 2.4
    compiled = torch.compile(lambda *args: recompute(block, *args), backend=backend, fullgraph=True)
    for a, b in zip(step(block, compiled, 1), step(plain, plain, 1), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_statistics_come_back_after_an_error():
    norm = nn.BatchNorm1d(3)
    before = dict(norm.named_buffers())
    with pytest.raises(RuntimeError, match="stop"), without_statistics(norm):
        norm(torch.randn(5, 3))
        assert norm.num_batches_tracked == 1
        raise RuntimeError("stop")
    assert all(b is before[name] for name, b in norm.named_buffers())
    assert norm.num_batches_tracked == 0
