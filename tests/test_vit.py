"""PlainViT and DeiT: official numbers, attention against its formula, tables, windows, pyramids."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from official import assert_equal, load, load_weights
from torch import nn

from backbones import DeiT, PlainViT
from backbones.layers import Attention, window_partition, window_unpartition
from backbones.layers import attention as attention_module
from backbones.layers.pos_embed import resize_pos_embed
from backbones.pyramid import to_stride
from backbones.vit import VIT_ARCHS, ViTTrunk

ARCH = dict(embed_dims=48, depth=4, num_heads=4)


# -- official numbers


@pytest.mark.parametrize(("name", "cls"), [("vit", PlainViT), ("deit_distilled", DeiT)])
def test_tokens_of_every_block_equal_timm(fixtures, name, cls):
    file, arch = load(fixtures, name)
    weights = file["state_dict"]
    net = load_weights(cls(arch, img_size=64, pyramid=None, taps=range(arch["depth"])), weights)
    with torch.no_grad():
        tokens = net.run_blocks(net.embed(file["input"])[-1], range(arch["depth"]))
        maps = net(file["input"])
    prefix = net.num_prefix
    for i, expected in enumerate(file["block_tokens"]):
        assert_equal(tokens[i], expected)
        assert_equal(maps[i], expected[:, prefix:].transpose(1, 2).unflatten(2, (4, 4)))
    final = F.layer_norm(tokens[arch["depth"] - 1], (48,), weights["norm.weight"], weights["norm.bias"], 1e-6)
    assert_equal(final, file["final_tokens"])
    logits = F.linear(final[:, 0], weights["head.weight"], weights["head.bias"])
    if cls is DeiT:
        assert_equal(logits, file["logits_cls"])
        logits_dist = F.linear(final[:, 1], weights["head_dist.weight"], weights["head_dist.bias"])
        logits = (logits + logits_dist) / 2
    assert_equal(logits, file["logits"])


def test_mae_encoder_equals_the_official_one(fixtures):
    file, arch = load(fixtures, "mae")
    net = load_weights(PlainViT(arch, img_size=64, pos_embed="sincos", pyramid=None), file["state_dict"])
    with torch.no_grad():
        tokens = net.add_positions(net.embed(file["input"])[-1])
        kept = file["noise"].argsort(dim=1)[:, :4]  # a quarter of 16 patches
        patches = tokens[:, 1:].gather(1, kept[..., None].expand(-1, -1, 48))
        tokens = torch.cat([tokens[:, :1], patches], dim=1)
        for block in net.blocks:
            tokens = block(tokens, (4, 1), (1.0, 1.0))
        weights = file["state_dict"]
        assert_equal(F.layer_norm(tokens, (48,), weights["norm.weight"], weights["norm.bias"], 1e-6), file["latent"])


def test_sincos_table_is_maes(fixtures):
    file, arch = load(fixtures, "mae")
    net = PlainViT(arch, img_size=64, pos_embed="sincos")
    torch.testing.assert_close(net.pos_embed, file["state_dict"]["pos_embed"], rtol=0, atol=1e-6, check_stride=False)
    assert not net.pos_embed.requires_grad


def test_vitdet_blocks_and_pyramid_equal_detectron2(fixtures):
    file, arch = load(fixtures, "vitdet")
    net = PlainViT(
        arch,
        img_size=64,
        rel_pos=128,
        window_size=3,
        global_blocks=(1, 3),
        pyramid=dict(type="SimpleFeaturePyramid", out_channels=32),
    )
    weights = {net.published_name(key): value for key, value in file["state_dict"].items()}
    weights["pos_embed"] = weights["pos_embed"][:, 1:]  # ViTDet skips the class token's row
    net.load_state_dict(weights)
    net.eval()
    with torch.no_grad():
        tokens = net.run_blocks(net.embed(file["input"])[-1], range(4))
        for i, expected in enumerate(file["block_maps"]):
            assert_equal(tokens[i].unflatten(1, (8, 6)), expected)
        for got, expected in zip(net(file["input"]), file["pyramid"], strict=True):
            assert_equal(got, expected)


@pytest.mark.parametrize(
    ("arch", "classifier"),
    [
        ("tiny", 5_717_416),
        ("small", 22_050_664),
        ("small-32", 22_878_952),
        ("base", 86_567_656),
        ("base-32", 88_224_232),
        ("base-8", 86_576_872),
        ("large", 304_326_632),
        ("huge", 632_045_800),
    ],
)
def test_parameters_are_the_published_ones(arch, classifier):
    with torch.device("meta"):
        net = PlainViT(arch, pyramid=None)
    norm_and_head = 2 * net.embed_dims + 1000 * (net.embed_dims + 1)
    assert sum(p.numel() for p in net.parameters()) + norm_and_head == classifier


@pytest.mark.parametrize(("arch", "classifier"), [("tiny", 5_910_800), ("small", 22_436_432), ("base", 87_338_192)])
def test_parameters_of_distilled_models_are_the_published_ones(arch, classifier):
    with torch.device("meta"):
        net = DeiT(arch, pyramid=None)
    norm_and_heads = 2 * net.embed_dims + 2 * 1000 * (net.embed_dims + 1)
    assert sum(p.numel() for p in net.parameters()) + norm_and_heads == classifier


@pytest.mark.parametrize(
    ("cls", "arch", "model", "size"),
    [
        (PlainViT, "tiny", "vit_tiny_patch16_224", 224),
        (PlainViT, "small-32", "vit_small_patch32_224", 256),
        (PlainViT, "base", "vit_base_patch16_224", 64),
        (PlainViT, dict(VIT_ARCHS["huge"], depth=2), "vit_huge_patch14_224", 98),
        (DeiT, "small", "deit_small_distilled_patch16_224", 96),
    ],
)
def test_full_presets_equal_timm_at_other_sizes(cls, arch, model, size):
    depth = cls.parse_arch(arch)["depth"]
    reference = timm.create_model(model, img_size=size, depth=depth).eval()
    net = load_weights(cls(arch, img_size=size, pyramid=None), reference.state_dict())
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        tokens = net.run_blocks(net.embed(x)[-1], [net.depth - 1])[net.depth - 1]
        assert_equal(reference.norm(tokens), reference.forward_features(x))


# -- attention


def plain_attention(attention: Attention, x, grid):
    """The formula, with every score and every bias written out."""
    heads = attention.num_heads
    q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in attention.qkv(x).chunk(3, dim=2))
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    if attention.has_rel_pos:
        places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
        for axis, table in enumerate((attention.rel_pos_h, attention.rel_pos_w)):
            distance = torch.tensor([[i[axis] - j[axis] for j in places] for i in places])
            scores = scores + torch.einsum("bhnd,nmd->bhnm", q, table[distance + grid[axis] - 1])
    return attention.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("rel_pos", "chunk_bytes"),
    [(False, 0), (True, 10**6), (True, 4 * 3 * 15 * 8)],
    ids=["plain", "longer queries", "four rows at a time"],
)
def test_attention_is_its_formula_with_all_gradients(rel_pos, chunk_bytes, monkeypatch):
    monkeypatch.setattr(attention_module, "CHUNK_BYTES", chunk_bytes)
    grid = (3, 5)
    attention = Attention(24, 3, grid if rel_pos else None).double()
    for p in attention.parameters():
        nn.init.normal_(p)
    x = torch.randn(2, 15, 24, dtype=torch.float64, requires_grad=True)
    inputs = [x, *attention.parameters()]
    got, expected = attention(x, grid), plain_attention(attention, x, grid)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad(got, inputs, weights), torch.autograd.grad(expected, inputs, weights), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_relative_tables_are_interpolated_for_other_grids():
    attention = Attention(8, 1, (4, 4)).double()
    nn.init.normal_(attention.rel_pos_h)
    nn.init.normal_(attention.rel_pos_w)
    other = Attention(8, 1, (6, 3)).double()
    weights = attention.state_dict()
    for name, length in (("rel_pos_h", 11), ("rel_pos_w", 5)):
        weights[name] = F.interpolate(weights[name].T[None], size=length, mode="linear")[0].T
    other.load_state_dict(weights)
    x = torch.randn(1, 18, 8, dtype=torch.float64)
    torch.testing.assert_close(attention(x, (6, 3)), other(x, (6, 3)))


@pytest.mark.parametrize("chunk_bytes", [10**9, 2 * 576 * 4 * 100], ids=["fused", "by rows"])
def test_attention_never_holds_a_map_of_all_pairs(chunk_bytes, monkeypatch):
    """Tokens are all that is kept: nothing of N x N values is saved for backward."""
    monkeypatch.setattr(attention_module, "CHUNK_BYTES", chunk_bytes)
    grid, n = (24, 24), 576
    attention = Attention(16, 2, grid)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        attention(torch.randn(1, n, 16, requires_grad=True), grid)
    assert max(sizes) <= n * 2 * (8 + 24 + 24)  # one of the longer queries
    assert max(sizes) < n * n


# -- windows


def test_windows_are_cut_row_by_row_and_filled_with_zeros():
    x = torch.arange(1.0, 13.0).view(1, 12, 1)  # 3 x 4
    windows = window_partition(x, (3, 4), 3)
    assert windows[..., 0].tolist() == [[1, 2, 3, 5, 6, 7, 9, 10, 11], [4, 0, 0, 8, 0, 0, 12, 0, 0]]
    assert torch.equal(window_unpartition(windows, (3, 4), 3), x)


@pytest.mark.parametrize("cls", [PlainViT, DeiT])
def test_windows_see_no_further(cls):
    net = cls(ARCH, img_size=128, window_size=4, pyramid=None).eval()
    x = torch.randn(1, 3, 128, 128)
    y = x.clone()
    y[..., :64, :64] = 0  # the first window
    a, b = net(x)[0], net(y)[0]
    changed = (a != b).any(1)[0]
    assert changed[:4, :4].all()
    assert not changed[4:].any()
    assert not changed[:, 4:].any()


def test_global_blocks_see_everything():
    net = PlainViT(ARCH, img_size=128, window_size=4, global_blocks=(-1,), pyramid=None).eval()
    x = torch.randn(1, 3, 128, 128)
    y = x.clone()
    y[..., :64, :64] = 0
    assert (net(x)[0] != net(y)[0]).any(1).all()


# -- position table


def test_table_is_resized_in_forward():
    trunk = ViTTrunk(ARCH, img_size=64).eval()
    patches = torch.zeros(1, 48, 6, 5)
    table = resize_pos_embed(trunk.pos_embed, 1, (4, 4), (6, 5))
    assert torch.equal(trunk.add_positions(patches)[:, 1:], table[:, 1:])


def test_padding_is_inside():
    """The image is padded on the right with zeros, which are cut off from the maps."""
    net = PlainViT(ARCH, img_size=64, pyramid=None).eval()
    x = torch.randn(1, 3, 70, 75)
    padded = F.pad(x, (0, 5, 0, 10))
    torch.testing.assert_close(net(x)[0], net(padded)[0])
    assert net(x)[0].shape == (1, 48, 5, 5)


# -- pyramids


@pytest.mark.parametrize("patch_size", [8, 14, 32])
def test_other_patch_sizes_are_resampled_in_place(patch_size):
    """A map whose value is its own place in the image keeps it at stride 16, as does each of the four levels."""
    net = PlainViT(dict(ARCH, patch_size=patch_size), pyramid="taps").eval()
    size = (224, 448)  # whole patches of every size
    h, w = (n // patch_size for n in size)
    ys = (torch.arange(h) + 0.5) * patch_size
    x = to_stride(ys[:, None].expand(h, w).expand(1, 48, h, w), net.stride, net.pyramid.in_stride, size)
    assert x.shape == (1, 48, 14, 28)
    inner = slice(1, -1)  # beyond the outermost centres the map has nothing to interpolate
    torch.testing.assert_close(x[0, 0, inner, 0], ((torch.arange(14) + 0.5) * 16)[inner])


@pytest.mark.parametrize(
    ("taps", "expected"), [(None, (0, 1, 2, 3)), ((0, 1, 1 + 1, -1), (0, 1, 2, 3))], ids=["default", "given"]
)
def test_taps_pyramid_takes_block_outputs_in_order(taps, expected):
    net = PlainViT(ARCH, img_size=64, pyramid="taps", taps=taps).eval()
    assert net.sources == [f"block{i}" for i in expected]
    x = torch.randn(1, 3, 64, 64)
    raw = PlainViT(ARCH, img_size=64, pyramid=None, taps=(0, 1, 2, 3)).eval()
    raw.load_state_dict(net.state_dict(), strict=False)
    maps = raw(x)
    finest, fine, middle, coarse = net(x)
    torch.testing.assert_close(middle, maps[2])
    torch.testing.assert_close(coarse, F.max_pool2d(maps[3], 2))
    torch.testing.assert_close(fine, net.pyramid.fpn2(maps[1]))
    torch.testing.assert_close(finest, net.pyramid.fpn1(maps[0]))


def test_default_taps_are_the_ends_of_the_quarters():
    with torch.device("meta"):
        assert PlainViT("base", pyramid="taps").sources == ["block2", "block5", "block8", "block11"]
        assert PlainViT("large", pyramid="taps").sources == ["block5", "block11", "block17", "block23"]


def test_five_levels_for_a_detector_without_neck():
    net = PlainViT(ARCH, pyramid=dict(type="SimpleFeaturePyramid", out_channels=32, num_outs=5)).eval()
    assert net.strides == (4, 8, 16, 32, 64)
    feats = net(torch.randn(1, 3, 128, 192))
    assert [tuple(f.shape[1:]) for f in feats] == [(32, 128 // s, 192 // s) for s in net.strides]
    assert torch.equal(feats[4], feats[3][:, :, ::2, ::2])


def test_pyramid_as_a_neck_equals_the_pyramid_inside():
    from mmdet.registry import MODELS

    inside = PlainViT(ARCH, img_size=64).eval()
    neck = MODELS.build(dict(type="SimpleFeaturePyramid", in_channels=48)).eval()
    neck.load_state_dict(inside.pyramid.state_dict())
    bare = PlainViT(ARCH, img_size=64, pyramid=None).eval()
    bare.load_state_dict(inside.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 64)
    for a, b in zip(neck(bare(x)), inside(x), strict=True):
        torch.testing.assert_close(a, b)
        assert a.is_contiguous()  # RoIAlign reads the memory as NCHW


# -- training


def test_recomputing_blocks_changes_nothing():
    x = torch.randn(2, 3, 64, 64)
    grads = []
    for with_cp in (False, True):
        torch.manual_seed(3)
        net = PlainViT(ARCH, img_size=64, drop_path_rate=0.5, with_cp=with_cp).double().train()
        torch.manual_seed(4)
        sum(f.square().sum() for f in net(x.double())).backward()
        grads.append({name: p.grad for name, p in net.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-12, atol=1e-12)


def test_recomputing_blocks_keeps_only_their_inputs():
    def kept(with_cp):
        net = PlainViT(ARCH, img_size=64, with_cp=with_cp, pyramid=None).train()
        total = 0

        def pack(t):
            nonlocal total
            total += t.numel()
            return t

        patches = net.embed(torch.randn(1, 3, 64, 64))[-1]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            net.run_blocks(patches, [3])
        return total

    assert kept(True) <= 0.15 * kept(False)


def test_drop_path_rates_rise_linearly():
    net = PlainViT(ARCH, drop_path_rate=0.3)
    assert net.drop_path_rates() == pytest.approx([0, 0.1, 0.2, 0.3])


def test_layer_depths_are_vitdets():
    net = PlainViT(ARCH, rel_pos=True, window_size=2)
    depth = {name: net.get_layer_depth(f"backbone.{name}", "backbone.") for name, _ in net.named_parameters()}
    assert depth["pos_embed"] == depth["patch_embed.proj.weight"] == (0, 6)
    assert depth["blocks.2.attn.rel_pos_h"] == depth["blocks.2.mlp.fc1.bias"] == (3, 6)
    assert depth["pyramid.simfp_2.0.weight"] == (5, 6)


@pytest.mark.slow
def test_compiles_into_one_graph():
    net = PlainViT(ARCH, img_size=64, rel_pos=True, window_size=3, global_blocks=(1,)).eval()
    x = torch.randn(1, 3, 96, 64)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(x), net(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


# -- bad input


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(window_size=0), "window_size is 0.*positive"),
        (dict(window_size=-3), "window_size is -3.*positive"),
        (dict(global_blocks=(1,)), "without window_size every block is global"),
        (dict(window_size=2, global_blocks=(4,)), r"global_blocks is \(4,\).*between -4 and 3"),
        (dict(pyramid="taps", taps=(0, 1, 2, 4)), r"taps is \(0, 1, 2, 4\).*between -4 and 3"),
        (dict(pyramid="taps", taps=(0, 1)), "4 increasing"),
        (dict(pyramid=None, taps=(2, 1)), "increasing"),
        (dict(taps=(0, 1, 2, 3)), "reads the last block"),
        (dict(pyramid=None, taps=()), "increasing"),
        (dict(pyramid="fpn"), "pyramid is 'fpn'.*'simple', 'taps', None"),
        (dict(pyramid=dict(out_channels=64)), "pyramid is .*'simple', 'taps', None"),
        (dict(pyramid=dict(type="mmdet.ChannelMapper", in_channels=[8], out_channels=8)), "ChannelMapper.*a neck"),
        (dict(pyramid=dict(type="SimpleFeaturePyramid", num_outs=6)), "num_outs is 6"),
        (dict(img_size=0), "image size is 0"),
        (dict(img_size=(1, 2, 3)), "image size is"),
        (dict(rel_pos=-5), "image size is -5"),
        (dict(pos_embed="rotary"), "pos_embed is 'rotary'"),
        (dict(arch=dict(ARCH, num_heads=5)), "multiple of num_heads, 5"),
        (dict(arch=dict(ARCH, num_heads=0)), "'num_heads': 0.*start at 1"),
        (dict(arch=dict(ARCH, patch_size=0)), "'patch_size': 0.*start at 1"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        PlainViT(**{"arch": ARCH, **kwargs})
