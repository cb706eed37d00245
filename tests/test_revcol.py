"""RevCol against the official numbers and against the equations of the paper."""

import pytest
import torch

from backbones import RevCol
from backbones.checkpoints import CheckpointError, load_pretrained

FILES = ["revcol", "revcol_22k", "revcol_huge"]
TOY = dict(channels=(8, 12, 16, 20), depths=(1, 1, 2, 1), num_columns=3)


def official(fixtures, file, tmp_path, **kwargs):
    data = torch.load(fixtures / f"{file}.pt", weights_only=True)
    config = data["config"]
    arch = dict(
        channels=config["channels"],
        depths=config["layers"],
        num_columns=config["num_subnet"],
        kernel_size=config["kernel_size"],
        top_link=file == "revcol_huge",
    )
    net = RevCol(arch, **kwargs)
    torch.save({"model": data["state_dict"]}, tmp_path / "official.pth")
    report = load_pretrained(net, tmp_path / "official.pth")
    assert report.complete
    return net, data


def relative(got, expected):
    return ((got - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("file", FILES)
def test_levels_equal_the_official_ones(fixtures, tmp_path, file):
    net, data = official(fixtures, file, tmp_path)
    with torch.no_grad():
        feats = net.eval()(data["input"])
    assert max(relative(f, e.detach()) for f, e in zip(feats, data["levels"], strict=True)) < 1e-5


@pytest.mark.parametrize("mode", [dict(), dict(reversible=True), dict(reversible=True, keep_every=2)], ids=str)
@pytest.mark.parametrize("file", FILES)
def test_gradients_equal_the_official_ones(fixtures, tmp_path, file, mode):
    net, data = official(fixtures, file, tmp_path, **mode)
    x = data["input"].requires_grad_()
    torch.autograd.backward(net.eval()(x), data["grad_weights"])
    assert relative(x.grad, data["input_grad"].detach()) < 1e-4
    for name, parameter in net.named_parameters():
        expected = data["grads"][name]
        assert torch.linalg.norm(parameter.grad - expected) <= 1e-4 * torch.linalg.norm(expected), name


@pytest.mark.parametrize(
    ("arch", "parameters"),
    [
        ("tiny", 29_942_144),
        ("small", 60_054_400),
        ("base", 138_038_256),
        ("large", 272_068_352),
        ("xlarge", 832_010_816),
        ("huge", 2_154_713_400),
    ],
)
def test_presets_have_the_official_parameter_counts(arch, parameters):
    with torch.device("meta"):
        net = RevCol(arch)
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(channels=(8, 12, 16)), "4 levels"),
        (dict(depths=(1, 0, 2, 1)), "at least one block"),
        (dict(num_columns=0), "at least one column"),
        (dict(kernel_size=4), "kernel_size is 4; it must be odd"),
    ],
)
def test_bad_dict_archs_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        RevCol({**TOY, **change})


@pytest.mark.parametrize("keep_every", [0, -1, 1.5, "always"])
def test_bad_keep_every_is_named(keep_every):
    with pytest.raises(ValueError, match="keep_every is .*at least 1, or 'auto'"):
        RevCol(TOY, keep_every=keep_every)


@pytest.mark.parametrize("reversible", [False, True])
def test_shortcuts_near_zero_act_as_a_thousandth_in_training_and_evaluation(reversible):
    near, clamped = (RevCol(TOY, reversible=reversible) for _ in range(2))
    clamped.load_state_dict(near.state_dict())
    with torch.no_grad():
        near.subnet1.alpha0.view(-1)[:4] = torch.tensor([0.0, 1e-5, -1e-5, -0.7])
        clamped.subnet1.alpha0.view(-1)[:4] = torch.tensor([1e-3, 1e-3, -1e-3, -0.7])
    x = torch.rand(1, 3, 64, 64)
    stored = near.subnet1.alpha0.clone()
    for a, b in zip(near.eval()(x), clamped.eval()(x), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(near.subnet1.alpha0, stored)  # evaluation writes nothing
    near.train()(x)
    assert torch.equal(near.subnet1.alpha0, clamped.subnet1.alpha0)  # training projects, as the official code does


def test_two_forwards_may_precede_a_backward():
    net = RevCol(TOY).train()
    x = torch.rand(1, 3, 64, 64)
    losses = [f.sum() for f in (net(x)[3], net(x + 1)[3])]
    sum(losses).backward()
    assert torch.isfinite(net.subnet1.alpha3.grad).all()


def test_drop_path_rises_linearly_within_a_column():
    net = RevCol(TOY, drop_path_rate=0.4).train()
    levels = net._draw_drop_path(torch.zeros(20_000, 1, 1, 1), net.columns[0])
    dropped = [(scale == 0).float().mean().item() for level in levels for scale in level]
    assert dropped == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=0.015)
    assert [len(level) for level in levels] == list(net.depths)


@pytest.mark.parametrize("cached_values", [300, 2**18])
def test_evaluation_without_gradients_computes_the_same_in_parts(monkeypatch, cached_values):
    monkeypatch.setattr("backbones.revcol.CACHED_VALUES", cached_values)
    net = RevCol(TOY).eval()
    torch.nn.init.ones_(net.subnet0.level0.blocks[0].gamma)
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        parts = net(x)
    for a, b in zip(parts, net(x), strict=True):
        torch.testing.assert_close(a, b.detach())


def test_odd_sizes_round_down():
    feats = RevCol(TOY)(torch.zeros(1, 3, 75, 101))
    assert [tuple(f.shape[2:]) for f in feats] == [(18, 25), (9, 12), (4, 6), (2, 3)]


def test_levels_that_reach_no_output_are_frozen():
    net = RevCol(TOY, out_indices=(1,))
    frozen = {name.rsplit(".", 1)[0][:14] for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {"subnet2.level2", "subnet2.level3", "subnet2", "subnet1.level3", "subnet1"}
    assert [name for name, p in net.named_parameters() if not p.requires_grad and "alpha" in name] == [
        "subnet1.alpha3",
        "subnet2.alpha2",
        "subnet2.alpha3",
    ]


def test_the_top_link_keeps_the_coarsest_level_in_use():
    net = RevCol({**TOY, "num_columns": 2, "top_link": True}, out_indices=(0,))
    net(torch.rand(1, 3, 64, 64))[0].sum().backward()
    unused = {name.split(".")[1] for name, p in net.named_parameters() if p.grad is None}
    assert unused == {"alpha1", "alpha2", "alpha3", "level1", "level2", "level3"}
    assert not [name for name, p in net.named_parameters() if p.grad is None and (p.requires_grad or "subnet0" in name)]


def test_columns_follow_the_papers_equation():
    """c_l = a_l * p_l + F_l(c_{l-1}, p_{l+1}), each F_l called by hand, channels last."""
    net = RevCol(TOY).eval()
    x = torch.rand(1, 3, 64, 96)
    stem = net.stem(x.permute(0, 2, 3, 1))
    previous = None
    for column in net.columns:
        feats, down = [], stem
        for l in range(4):
            ups = [previous[l + 1]] if previous and l < 3 else []
            down = column.levels[l]([None] * net.depths[l], down, *ups)
            if previous:
                down = down + column.alphas[l].flatten() * previous[l]
            feats.append(down)
        previous = feats
    for got, expected in zip(net(x), previous, strict=True):
        torch.testing.assert_close(got, expected.permute(0, 3, 1, 2))


@pytest.mark.parametrize("file_size", [1, 3, 5])
def test_smaller_kernels_are_padded_at_load_and_compute_the_same(tmp_path, file_size):
    small, large = RevCol({**TOY, "kernel_size": file_size}), RevCol({**TOY, "kernel_size": 7})
    for column in small.columns:
        for level in column.levels:
            torch.nn.init.ones_(level.blocks[0].gamma)  # 1e-6 at the start, which would hide the convolutions
    decoder = torch.rand(4, 1, 3, 3)  # has a kernel of its own, which is no business of the backbone
    content = {**small.state_dict(), "decoder_blocks.0.normal_layers.0.0.dwconv.weight": decoder}
    torch.save({"model": content}, tmp_path / "small.pth")
    report = load_pretrained(large, tmp_path / "small.pth")
    assert report.complete
    assert report.adapted == [f"depthwise kernels zero-padded from {file_size}x{file_size} to 7x7"]
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for got, expected in zip(large.eval()(x), small.eval()(x), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_larger_kernels_are_refused(tmp_path):
    torch.save(RevCol({**TOY, "kernel_size": 5}).state_dict(), tmp_path / "large.pth")
    with pytest.raises(CheckpointError, match=r"kernels are 5x5, but kernel_size is 3.*pass arch=.*kernel_size=5"):
        load_pretrained(RevCol(TOY), tmp_path / "large.pth")


def test_padding_does_not_blow_up_the_first_gradients():
    net = RevCol("tiny")
    norms = []
    for width in (128, 64):
        x = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
        x[1, :, :, width:] = 0  # as a data preprocessor pads a narrower image
        net.zero_grad()
        sum((f * torch.linspace(-1, 1, f.shape[1])[:, None, None]).mean() for f in net(x)).backward()
        norms.append(torch.stack([p.grad.norm() for p in net.parameters() if p.grad is not None]).norm())
    assert 0.1 < norms[1] / norms[0] < 10
