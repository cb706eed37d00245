"""RevCol with the blocks of others: the example of docs/learn/memory.md, and what such blocks may do."""

import copy
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from test_reversible import assert_same, backward, image
from tool_runs import ROOT
from torch import nn

from backbones import RevCol

(EXAMPLE,) = re.findall(r"```python\n(.*?PoolBlock.*?)```", (ROOT / "docs/learn/memory.md").read_text(), re.DOTALL)
ARCH = dict(channels=(8, 12, 16, 20), depths=(1, 2, 1, 1), num_columns=5, block=dict(type="PoolBlock", size=5))
MODES = [1, 2, 3, 5, "auto"]


@pytest.fixture(scope="module", autouse=True)
def example():
    """The names of the example, which registers its block."""
    names: dict = {"__name__": "example"}
    exec(EXAMPLE, names)
    yield names
    del MODELS.module_dict["PoolBlock"]


def registered(cls):
    """Registers a block for one test."""
    MODELS.register_module(module=cls, force=True)
    return dict(type=cls.__name__)


def build(mode=None, *, arch=ARCH, **kwargs) -> RevCol:
    memory = dict() if mode is None else dict(reversible=True, keep_every=mode)
    torch.manual_seed(0)
    net = RevCol(arch, **memory, **kwargs).double()
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.1)
    return net.train()


def test_the_example_builds_reversible_columns_of_its_blocks(example):
    net = example["backbone"]
    assert isinstance(net, RevCol)
    assert net.reversible
    for column in net.columns:
        for level, depth, channels in zip(column.levels, (2, 2, 4, 2), (64, 128, 256, 512), strict=True):
            assert [type(block.block) for block in level.blocks] == [example["PoolBlock"]] * depth
            assert level.blocks[0].block.norm.num_features == channels
            assert level.blocks[0].block.pool.kernel_size == 5
    assert [f.shape for f in net(torch.rand(2, 3, 64, 96))] == [
        (2, 64, 16, 24),
        (2, 128, 8, 12),
        (2, 256, 4, 6),
        (2, 512, 2, 3),
    ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "kwargs", [dict(), dict(drop_path_rate=0.5), dict(frozen_stages=2, out_indices=(1, 2))], ids=str
)
def test_gradients_and_statistics_equal_plain_training(mode, kwargs):
    plain, reversible = build(**kwargs), build(mode, **kwargs)
    assert_same(backward(reversible, image()), backward(plain, image()), 1e-9)
    for (name, a), b in zip(plain.named_buffers(), reversible.buffers(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12, msg=name)
    assert plain.subnet4.level0.blocks[0].block.norm.num_batches_tracked == 1


def test_blocks_are_dropped_whole():
    net = build(drop_path_rate=0.9)
    block, x = net.subnet0.level0.blocks[0], image(size=(2, 4, 6, 8))
    scale = torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)
    y, kept = block(x, scale), copy.deepcopy(block)(x)
    assert torch.equal(y[0], x[0])
    torch.testing.assert_close(y[1], x[1] + 2 * (kept[1] - x[1]))


def test_blocks_keep_their_own_initialisation():
    class Constant(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.layer = nn.Linear(channels, channels)
            nn.init.constant_(self.layer.weight, 0.25)

        def forward(self, x):
            return x + self.layer(x)

    net = RevCol({**ARCH, "block": registered(Constant)})
    assert (net.subnet1.level2.blocks[0].block.layer.weight == 0.25).all()
    assert net.subnet1.level0.fusion.up.channel_reschedule[0].weight.std() < 0.03  # RevCol's own


@pytest.mark.parametrize("mode", [1, 3])
def test_blocks_that_draw_are_refused_where_backward_would_draw_again(mode):
    class Drawing(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.dropout = nn.Dropout(0.1)

        def forward(self, x):
            return x + self.dropout(x)

    arch = {**ARCH, "block": registered(Drawing)}
    net = build(mode, arch=arch)
    with pytest.raises(ValueError, match=r"drew random numbers \(dropout.*drop_path_rate, or reversible=False"):
        net(image())
    net.eval()(image())
    build(arch=arch)(image())


def test_layers_decay_and_freeze_as_with_convnexts():
    net, own = RevCol(ARCH, frozen_stages=1), RevCol({**ARCH, "block": None}, frozen_stages=1)
    depths = {net.get_layer_depth(name) for name, _ in net.named_parameters()}
    assert depths == {own.get_layer_depth(name) for name, _ in own.named_parameters()}
    assert {name.split(".")[0] for name, p in net.named_parameters() if not p.requires_grad} == {"stem", "subnet0"}


def test_a_config_imports_the_file_of_the_block(tmp_path, monkeypatch):
    (tmp_path / "my_blocks.py").write_text(EXAMPLE.split("arch =")[0].replace("PoolBlock", "MyBlock"))
    arch = dict(ARCH, block=dict(type="MyBlock", size=3))
    config = tmp_path / "config.py"
    config.write_text(
        f"custom_imports = dict(imports=['my_blocks'])\nbackbone = dict(type='backbones.RevCol', arch={arch})"
    )
    monkeypatch.syspath_prepend(tmp_path)
    net = MODELS.build(Config.fromfile(config).backbone)
    assert type(net.subnet0.level1.blocks[1].block).__name__ == "MyBlock"


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("PoolBlock", r"block is 'PoolBlock'; it must be the config of a registered module"),
        (dict(size=3), "must be the config"),
        (dict(type="PoolBlok"), "PoolBlok"),
        (dict(type="PoolBlock", sise=3), "sise"),
    ],
)
def test_bad_blocks_are_named(block, message):
    with pytest.raises(ValueError, match=message):
        RevCol({**ARCH, "block": block})


def test_a_kernel_size_beside_a_block_is_refused():
    with pytest.raises(ValueError, match="kernel_size is 5, but block has arguments of its own"):
        RevCol({**ARCH, "kernel_size": 5})


def test_blocks_of_another_layout_are_named():
    class Halving(nn.Module):
        def __init__(self, channels):
            super().__init__()

        def forward(self, x):
            return x[:, ::2]

    net = RevCol({**ARCH, "block": registered(Halving)})
    with pytest.raises(ValueError, match=r"Halving returned \(1, 8, 16, 8\) for \(1, 16, 16, 8\).*same shape"):
        net(torch.rand(1, 3, 64, 64))
