"""RevColViT against its equations, its reported size, and the laws of the memory modes."""

import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, init_default_scope
from test_reversible import assert_same, backward, image, peak_bytes

from backbones import RevColViT
from backbones.attention_maps import AttentionInput
from backbones.checkpoints import load_pretrained
from backbones.info.model import backbone_parts
from backbones.layers import Mlp
from backbones.revcol_vit import CosineAttention, PostNormBlock, RevColViTTrunk

TOY = dict(embed_dims=16, depths=(1, 2, 1, 1), num_heads=2, num_columns=5)
MODES = [1, 2, 3, 5, "auto"]


def build(mode=None, *, arch=TOY, dtype=torch.float64, shortcut=None, cls=RevColViT, **kwargs):
    """Weights of ordinary size; ``mode`` is ``keep_every``, None is plain autograd."""
    memory = dict() if mode is None else dict(reversible=True, keep_every=mode)
    net = cls(arch, img_size=64, **memory, **kwargs).to(dtype)
    generator = torch.Generator().manual_seed(3)
    for name, p in net.named_parameters():
        values = torch.empty(p.shape)
        if "alpha" in name:
            values.uniform_(0.4, 1, generator=generator) if shortcut is None else values.fill_(shortcut)
        else:
            values.normal_(mean=float(name.endswith(("norm1.weight", "norm2.weight"))), std=0.1, generator=generator)
        p.data.copy_(values)
    return net.train()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "kwargs",
    [dict(), dict(drop_path_rate=0.5), dict(frozen_stages=2, drop_path_rate=0.3), dict(out_indices=(0, 1))],
    ids=str,
)
def test_gradients_equal_plain_autograd(mode, kwargs):
    x = image(size=(2, 3, 40, 64)).requires_grad_(), image(size=(2, 3, 40, 64)).requires_grad_()
    plain, reversible = backward(build(**kwargs), x[0]), backward(build(mode, **kwargs), x[1])
    assert_same(reversible, plain, 1e-9)
    if kwargs.get("frozen_stages", -1) < 0:
        torch.testing.assert_close(x[0].grad, x[1].grad)


@pytest.mark.parametrize(
    ("arch", "parameters", "reported"),
    [("small", 20_648_896, 4.6), ("base", 88_672_800, 18.8)],  # GFLOPs of the classifier at 224 x 224
)
def test_sizes(arch, parameters, reported):
    with torch.device("meta"):
        net = RevColViTTrunk(arch)
    parts, _ = backbone_parts(net, (224, 224))
    assert parts[-1].parameters == parameters
    assert parts[-1].macs / 1e9 == pytest.approx(reported, rel=0.02)


def test_attention_is_by_cosines():
    attention = CosineAttention(12, 3).double()
    with torch.no_grad():
        attention.logit_scale.copy_(torch.tensor([0.5, 2.0, 9.0]))
    x = torch.rand(2, 7, 12, dtype=torch.float64)
    q, k, v = attention.qkv(x).view(2, 7, 3, 3, 4).permute(2, 0, 3, 1, 4)
    cosines = torch.cosine_similarity(q[:, :, :, None], k[:, :, None], dim=-1)
    factors = torch.tensor([math.exp(0.5), math.exp(2.0), 100.0])  # never above 100
    weights = (factors[:, None, None] * cosines).softmax(-1)
    torch.testing.assert_close(AttentionInput(attention, x, (1, 7)).maps(), weights)
    expected = attention.proj((weights @ v).transpose(1, 2).reshape(2, 7, 12))
    torch.testing.assert_close(attention(x, (1, 7)), expected)


def test_norms_lie_behind_the_branches():
    block = PostNormBlock(8, CosineAttention(8, 2), Mlp(8, 32)).double()
    for norm in (block.norm1, block.norm2):
        torch.nn.init.uniform_(norm.weight)
    x = torch.rand(2, 6, 8, dtype=torch.float64)
    y = x + 2 * block.norm1(block.attn(x, (2, 3)))
    expected = y + 3 * block.norm2(block.mlp.fc2(F.gelu(block.mlp.fc1(y))))
    torch.testing.assert_close(block(x, (2, 3), (2.0, 3.0)), expected)


@pytest.mark.parametrize(
    "pyramid", ["levels", dict(type="LevelPyramid", num_outs=5), dict(type="SimpleFeaturePyramid")]
)
def test_each_stride_is_made_from_its_level(pyramid):
    net, x = build(pyramid=pyramid).eval(), image()
    feats, maps = net(x), net.last_maps(x)
    own = pyramid == "levels" or pyramid["type"] == "LevelPyramid"
    for i, feat in enumerate(feats):
        level = net.pyramid.levels[min(i, 3)]
        expected = level(maps[min(i, 3) if own else 3])
        expected = expected[..., ::2, ::2] if i == 4 else expected
        torch.testing.assert_close(feat, expected[..., : feat.shape[2], : feat.shape[3]])


def test_columns_follow_the_papers_equation():
    net = build().eval()
    x = image()
    patches = F.conv2d(x, net.stem[0].weight, net.stem[0].bias, stride=16).permute(0, 2, 3, 1)  # 3 x 4
    places = F.interpolate(net.pos_embed.view(1, 4, 4, 16).permute(0, 3, 1, 2), size=(3, 4), mode="bicubic")
    stem = net.stem[1](patches) + places.permute(0, 2, 3, 1)
    previous = None
    for column in net.columns:
        feats = []
        for l in range(4):
            level = column.levels[l]
            y = level.fusion.down[1](level.fusion.down[0](feats[-1])) if l else stem
            if previous and l < 3:
                y = y + level.fusion.up[1](level.fusion.up[0](previous[l + 1]))
            tokens = y.flatten(1, 2)
            for block in level.blocks:
                tokens = block(tokens, (3, 4), (1.0, 1.0))
            y = tokens.view(y.shape)
            feats.append(y + column.alphas[l].flatten() * previous[l] if previous else y)
        previous = feats
    for got, expected in zip(net.last_maps(x), previous, strict=True):
        torch.testing.assert_close(got, expected.permute(0, 3, 1, 2))
    (last,) = net.coarsest_maps(x, [4])
    assert torch.equal(last, net.last_maps(x)[3])


def test_norms_start_at_zero_and_feedforward_layers_smaller_with_depth():
    torch.manual_seed(0)
    net = RevColViT({**TOY, "embed_dims": 64, "num_columns": 2})
    for column in net.columns:
        stds = [block.mlp.fc2.weight.std().item() for level in column.levels for block in level.blocks]
        assert stds == pytest.approx([0.02 / math.sqrt(2 * i) for i in (1, 2, 3, 4, 5)], rel=0.05)
        norms = [norm for level in column.levels for block in level.blocks for norm in (block.norm1, block.norm2)]
        assert not any(norm.weight.any() for norm in norms)
        assert column.levels[3].blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_drop_path_rises_within_a_column_and_is_drawn_for_each_branch():
    net = RevColViT(TOY, drop_path_rate=0.4).train()
    draws = [pair for level in net._draw_drop_path(torch.zeros(20_000, 2, 3, 16), net.columns[0]) for pair in level]
    assert [[(scale == 0).float().mean().item() for scale in pair] for pair in draws] == [
        pytest.approx([rate] * 2, abs=0.015) for rate in (0, 0.1, 0.2, 0.3, 0.4)
    ]
    assert all(scale.shape == (20_000, 1, 1) for pair in draws for scale in pair)
    assert not torch.equal(*draws[-1])


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")  # one cycle, nothing to clear
@pytest.mark.parametrize(
    ("mode", "columns", "sets"), [(1, (4, 8), 4), pytest.param(4, (8, 16), 2, marks=pytest.mark.long)]
)
def test_memory_grows_by_the_kept_maps_alone(mode, columns, sets):
    """A further column costs one set of its maps with ``keep_every=1``, a k-th of one with k."""
    arch = dict(embed_dims=64, depths=(1, 1, 1, 1), num_heads=2)
    x = image(torch.float32, (1, 3, 512, 512))
    small, large = (
        peak_bytes(build(mode, dtype=torch.float32, shortcut=1.0, arch={**arch, "num_columns": n}), x) for n in columns
    )
    one_set = 4 * 64 * 32**2 * 4
    assert large - small == pytest.approx(sets * one_set, rel=0.1)


def test_positions_of_another_size_are_resized_at_load(tmp_path):
    source = RevColViTTrunk(TOY, img_size=64)
    torch.save({"state_dict": {f"backbone.{name}": p for name, p in source.state_dict().items()}}, tmp_path / "a.pth")
    net = RevColViT(TOY, img_size=96)
    report = load_pretrained(net, tmp_path / "a.pth")
    assert report.adapted == ["pos_embed was resized from 4 x 4 to 6 x 6; img_size=64 keeps it as it is"]
    assert all(name.startswith("pyramid.") for name in report.missing)
    assert torch.equal(net.subnet4.level1.blocks[1].attn.qkv.weight, source.subnet4.level1.blocks[1].attn.qkv.weight)


def test_layers_decay_by_column_and_block():
    net = RevColViT(TOY)
    for name, depth in [
        ("stem.0.weight", 0),
        ("pos_embed", 0),
        ("subnet0.alpha3", 1),
        ("subnet0.level0.blocks.0.attn.logit_scale", 1),
        ("subnet2.level1.fusion.up.0.weight", 4),
        ("subnet2.level1.blocks.1.mlp.fc1.weight", 5),
        ("subnet4.level3.blocks.0.norm1.bias", 9),
        ("pyramid.simfp_2.0.weight", 10),
    ]:
        assert net.get_layer_depth(name) == (depth, 11), name
        assert name in dict(net.named_parameters())


def test_raw_levels_have_stride_16():
    net = RevColViT(TOY, pyramid=None)
    assert net.strides == (16, 16, 16, 16)
    assert [f.shape for f in net(torch.rand(1, 3, 75, 101))] == [(1, 16, 5, 7)] * 4


def test_the_trunk_returns_the_last_level():
    net = build(cls=RevColViTTrunk).eval()
    assert torch.equal(net(image()), build(pyramid=None).eval()(image())[3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(num_heads=3), "embed_dims is 16; it must be a multiple of num_heads, 3"),
        (dict(embed_dims=0), r"channels \[0, 0, 0, 0\].*at least one"),
        (dict(depths=(1, 1, 1)), "4 levels"),
        (dict(num_columns=0), "at least one column"),
        (dict(mlp_ratio="x"), "mlp_ratio is 'x'"),
    ],
)
def test_bad_dict_archs_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        RevColViT({**TOY, **change})


@pytest.mark.parametrize("pyramid", ["taps", dict(type="FPN"), dict(out_channels=8)])
def test_bad_pyramids_are_named(pyramid):
    with pytest.raises(ValueError, match="it must be 'levels', None, or a dict"):
        RevColViT(TOY, pyramid=pyramid)


@pytest.mark.parametrize("mode", [dict(), dict(reversible=True)], ids=str)
def test_the_plain_head_classifies_the_last_level(mode):
    pytest.importorskip("mmpretrain")
    import backbones.classification  # noqa: F401  (registers)

    init_default_scope("mmpretrain")
    backbone = dict(type="RevColViTTrunk", arch=TOY, **mode)
    head = dict(type="RevColHead", num_classes=3)
    model = MODELS.build(dict(type="DenseClassifier", backbone=backbone, head=head)).train()
    x = torch.rand(2, 3, 64, 64)
    logits = model(x, mode="tensor")
    norm, layer = model.head.cls.classifier
    torch.testing.assert_close(logits, layer(norm(model.backbone(x).mean((2, 3)))))
    logits.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    with pytest.raises(ValueError, match="SupervisedRevColHead reads a RevCol, not a RevColViTTrunk"):
        MODELS.build(
            dict(type="DenseClassifier", backbone=backbone, head=dict(type="SupervisedRevColHead", num_classes=3))
        )
    with pytest.raises(ValueError, match="backbone is a RevColViT; DenseClassifier takes a RevCol or a trunk"):
        MODELS.build(dict(type="DenseClassifier", backbone={**backbone, "type": "RevColViT"}, head=head))
