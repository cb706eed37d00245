"""HybridViT against timm, which the published weights are made for, and against written-out formulas."""

import pytest
import timm
import torch
import torch.nn.functional as F
from official import assert_equal, load_weights
from torch import nn

from backbones import HybridViT
from backbones.hybrid_vit import ResNet, StandardizedConv2d, pad_same

TOY = dict(embed_dims=48, depth=4, num_heads=4, stem_channels=32)
TOY_16 = dict(**TOY, stage_depths=(1, 2, 1), stage_channels=(128, 256, 128))
TOY_32 = dict(**TOY, stage_depths=(1, 1, 1, 1), stage_channels=(128, 256, 128, 384))
PRESETS = {
    "r26-small-32": "vit_small_r26_s32_224",
    "r50-base": "vit_base_r50_s16_224",
    "r50-large-32": "vit_large_r50_s32_224",
}


# -- official numbers


def test_stages_tokens_and_logits_equal_timm(fixtures):
    file = torch.load(fixtures / "hybrid.pt", weights_only=True)
    config, weights = file["config"], file["state_dict"]
    arch = dict(
        embed_dims=config["embed_dim"],
        depth=config["depth"],
        num_heads=config["num_heads"],
        stage_depths=config["layers"],
        stage_channels=config["channels"],
        stem_channels=config["stem_chs"],
    )
    net = load_weights(HybridViT(arch, img_size=64, pyramid=None, taps=range(3)), weights)
    with torch.no_grad():
        stages, patches = net.patch_embed(file["input"])
        tokens = net.run_blocks(patches, range(3))
    for got, expected in zip(stages, file["stages"], strict=True):
        assert_equal(got, expected)
    for i, expected in enumerate(file["block_tokens"]):
        assert_equal(tokens[i], expected)
    final = F.layer_norm(tokens[2], (48,), weights["norm.weight"], weights["norm.bias"], 1e-6)
    assert_equal(final, file["final_tokens"])
    assert_equal(F.linear(final[:, 0], weights["head.weight"], weights["head.bias"]), file["logits"])


@pytest.mark.parametrize("arch", PRESETS)
def test_presets_with_two_blocks_equal_timm(arch):
    theirs = timm.create_model(PRESETS[arch], img_size=64, depth=2, num_classes=0).eval()
    ours = HybridViT({**HybridViT.archs[arch], "depth": 2}, img_size=64, pyramid=None)
    load_weights(ours, theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        tokens = ours.run_blocks(ours.embed(x)[1], [1])[1]
        assert_equal(theirs.norm(tokens), theirs.forward_features(x))


@pytest.mark.parametrize("size", [(75, 101), (230, 250), (33, 64)])
def test_the_resnet_equals_timms_at_any_size(size):
    theirs = timm.create_model("vit_base_r50_s16_224", embed_dim=12, depth=1, num_heads=1).patch_embed.backbone.eval()
    ours = ResNet((3, 4, 9), (256, 512, 1024), stem_channels=64).eval()
    ours.load_state_dict(theirs.state_dict())
    expected = x = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = theirs.stem(x)
        for got, stage in zip(ours(x), theirs.stages, strict=True):
            expected = stage(expected)
            assert_equal(got, expected)


@pytest.mark.parametrize(
    ("arch", "img_size", "parameters"),
    [
        ("r50-base", 224, 98_659_112),
        ("r50-base", 384, 98_950_952),
        ("r26-small-32", 224, 36_431_912),
        ("r50-large-32", 224, 328_994_856),
        ("r50-large-32", 384, 329_092_136),
    ],
)
def test_presets_have_the_official_parameter_counts(arch, img_size, parameters):
    with torch.device("meta"):
        net = HybridViT(arch, img_size=img_size, pyramid=None)
        norm, head = nn.LayerNorm(net.embed_dims), nn.Linear(net.embed_dims, 1000)
    assert sum(p.numel() for part in (net, norm, head) for p in part.parameters()) == parameters
    assert net.embed_dims == 64 * net.num_heads
    if (arch, img_size) == ("r50-base", 224):
        assert sum(p.numel() for part in (net, norm) for p in part.parameters()) == 97_890_112


@pytest.mark.parametrize("arch", PRESETS)
def test_presets_have_timms_names_and_shapes(arch):
    with torch.device("meta"):
        ours = HybridViT(arch, pyramid=None).state_dict()
        theirs = timm.create_model(PRESETS[arch], num_classes=0).state_dict()
    shapes = {key: value.shape for key, value in theirs.items() if not key.startswith("norm.")}
    assert {key: value.shape for key, value in ours.items()} == shapes


# -- padding and standardisation


@pytest.mark.parametrize(
    ("length", "kernel_size", "stride", "before", "after"),
    [(224, 7, 2, 2, 3), (225, 7, 2, 3, 3), (112, 3, 2, 0, 1), (113, 3, 2, 1, 1), (56, 1, 2, 0, 0), (57, 1, 2, 0, 0)],
)
def test_same_padding_gives_the_odd_pixel_to_the_end(length, kernel_size, stride, before, after):
    x = torch.ones(1, 1, length, length)
    assert torch.equal(pad_same(x, kernel_size, stride, value=7.0), F.pad(x, (before, after) * 2, value=7.0))


def test_each_direction_is_padded_for_its_own_length():
    x = torch.ones(1, 1, 8, 9)
    assert torch.equal(pad_same(x, 3, 2), F.pad(x, (1, 1, 0, 1)))


@pytest.mark.parametrize("stride", [1, 2])
def test_weights_are_standardised_with_the_biased_variance(monkeypatch, stride):
    monkeypatch.setattr("backbones.hybrid_vit.CONV_EPS", 0.5)
    conv = StandardizedConv2d(4, 6, 3, stride).double()
    x = torch.randn(2, 4, 9, 12, dtype=torch.float64)
    mean = conv.weight.mean((1, 2, 3), keepdim=True)
    var = (conv.weight - mean).square().sum((1, 2, 3), keepdim=True) / (4 * 3 * 3)
    weight = (conv.weight - mean) / (var + 0.5).sqrt()
    padded = F.pad(x, (1, 1, 1, 1)) if stride == 1 else F.pad(x, (0, 1, 1, 1))  # 12 columns are even, 9 rows odd
    torch.testing.assert_close(conv(x), F.conv2d(padded, weight, stride=stride), rtol=1e-12, atol=1e-12)


def test_the_pool_is_padded_with_nothing_that_could_win():
    net = ResNet((1,), (128,), stem_channels=32)
    net.stages = nn.ModuleList([nn.Identity()])
    stem = torch.full((1, 32, 5, 6), 0.25)
    net.stem = nn.Sequential(nn.Identity())
    assert torch.equal(net(stem)[0], torch.full((1, 32, 3, 3), 0.25))


# -- levels


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        ((230, 250), [(58, 63), (29, 32), (15, 16), (8, 8)]),
        ((75, 101), [(19, 26), (10, 13), (5, 7), (3, 4)]),
        ((64, 64), [(16, 16), (8, 8), (4, 4), (2, 2)]),
    ],
)
@pytest.mark.parametrize("arch", [TOY_16, TOY_32], ids=["16", "32"])
@pytest.mark.parametrize("pyramid", ["taps", "simple"])
def test_every_size_gives_successive_ceilings(arch, pyramid, size, sizes):
    net = HybridViT(arch, img_size=64, pyramid=pyramid)
    feats = net(torch.rand(1, 3, *size))
    assert net.strides == (4, 8, 16, 32)
    assert [tuple(f.shape) for f in feats] == [(1, c, *s) for c, s in zip(net.out_channels, sizes, strict=True)]


def to_map(tokens, grid):
    return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)


@pytest.mark.parametrize(("taps", "blocks"), [(None, (2, 3)), ((0, 2), (0, 2))])
def test_levels_of_a_stride_16_model_are_two_stages_and_two_blocks(taps, blocks):
    net = HybridViT(TOY_16, img_size=64, taps=taps).eval()
    x = torch.rand(2, 3, 64, 96)
    maps, patches = net.embed(x, {"stage0", "stage1"})
    stage0, stage1 = maps["stage0"], maps["stage1"]
    tokens = net.run_blocks(patches, blocks)
    middle, last = (to_map(tokens[i], (4, 6)) for i in blocks)
    conv = net.pyramid.level3
    coarsest = F.conv2d(last, conv.weight, conv.bias, stride=2, padding=1)
    assert conv.kernel_size == (3, 3)
    assert net.out_channels == (128, 256, 48, 48)
    for got, expected in zip(net(x), (stage0, stage1, middle, coarsest), strict=True):
        torch.testing.assert_close(got, expected)


def test_levels_of_a_stride_32_model_are_three_stages_and_the_last_block():
    net = HybridViT(TOY_32, img_size=64).eval()
    x = torch.rand(2, 3, 64, 96)
    maps, patches = net.embed(x, {"stage0", "stage1", "stage2"})
    stages = [maps[f"stage{i}"] for i in range(3)]
    last = to_map(net.run_blocks(patches, [3])[3], (2, 3))
    assert net.out_channels == (128, 256, 128, 48)
    for got, expected in zip(net(x), (*stages, last), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("arch", "taps"), [("r50-base", (8, 11)), ("r26-small-32", (11,)), ("r50-large-32", (23,))], ids=str
)
def test_presets_tap_three_quarters_of_the_depth_and_the_end(arch, taps):
    with torch.device("meta"):
        blocks = [name for name in HybridViT(arch).sources if name.startswith("block")]
        assert blocks == [f"block{i}" for i in taps]


@pytest.mark.parametrize(
    ("arch", "taps", "count"), [(TOY_16, (3,), 2), (TOY_16, (0, 1, 2, 3), 2), (TOY_32, (2, 3), 1)], ids=str
)
def test_a_wrong_number_of_taps_is_named(arch, taps, count):
    with pytest.raises(ValueError, match=f"takes {count} increasing"):
        HybridViT(arch, taps=taps)


# -- stages


@pytest.mark.parametrize(
    ("out_indices", "trained"),
    [
        ((0,), {"stem", "stages.0"}),
        ((1,), {"stem", "stages.0", "stages.1"}),
        ((0, 2), {"stem", "stages.0", "stages.1", "stages.2", "embedding", "blocks.0", "blocks.1", "blocks.2"}),
    ],
)
def test_unused_parts_are_frozen(out_indices, trained):
    net = HybridViT(TOY_16, out_indices=out_indices)
    sum(f.square().sum() for f in net(torch.rand(1, 3, 64, 64))).backward()

    def part(name):
        name = name.removeprefix("patch_embed.backbone.")
        if name.startswith(("stages.", "blocks.")):
            return ".".join(name.split(".")[:2])
        return "stem" if name.startswith("stem.") else "embedding"

    assert {part(name) for name, p in net.named_parameters() if p.requires_grad} == trained
    assert {part(name) for name, p in net.named_parameters() if p.grad is not None} == trained


def test_frozen_stages_count_stem_stages_embedding_blocks():
    names = [
        {"patch_embed.backbone.stem"},
        *({f"patch_embed.backbone.stages.{s}"} for s in range(3)),
        {"patch_embed.proj", "cls_token", "pos_embed"},
        *({f"blocks.{i}"} for i in range(4)),
    ]
    for n in range(len(names)):
        net = HybridViT(TOY_16, pyramid=None, frozen_stages=n)
        frozen = set().union(*names[: n + 1])
        for name, parameter in net.named_parameters():
            assert parameter.requires_grad != any(name.startswith(start) for start in frozen), (n, name)
    assert len(net.stages()) == len(names)


# -- bad archs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(stage_depths=(1, 1)), r"stage_depths is \(1, 1\).*three entries"),
        (dict(stage_depths=(1, 0, 1)), r"stage_depths is \(1, 0, 1\).*at least one block"),
        (dict(stage_depths=(1, 1), stage_channels=(128, 256)), "three entries"),
        (dict(stage_channels=(128, 256)), r"stage_channels \(128, 256\); both must have three entries"),
        (dict(stage_channels=(128, 256, 192)), r"stage_channels \(128, 256, 192\).*multiples of 32 and 128"),
        (dict(stem_channels=48), "stem_channels is 48.*multiples of 32 and 128"),
    ],
    ids=str,
)
def test_bad_archs_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        HybridViT({**TOY_16, **change})
