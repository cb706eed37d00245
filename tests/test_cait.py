"""CaiT: official numbers, with the class attention that classification puts behind the backbone."""

import pytest
import timm
import torch
import torch.nn.functional as F
from official import assert_equal, load, load_weights
from torch import nn

from backbones import CaiT
from backbones.cait import CAIT_ARCHS, ClassAttentionBlock

ARCH = dict(embed_dims=48, depth=4, num_heads=4)


def classify(weights, patches, num_heads):
    """Two class-attention blocks, final norm and head, from the official names."""
    prefix = "blocks_token_only."
    blocks = nn.ModuleList(ClassAttentionBlock(patches.shape[2], num_heads) for _ in range(2))
    blocks.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    cls_token = weights["cls_token"].expand(len(patches), -1, -1)
    for block in blocks:
        cls_token = block(cls_token, patches)
    x = F.layer_norm(cls_token[:, 0], cls_token.shape[2:], weights["norm.weight"], weights["norm.bias"], 1e-6)
    return F.linear(x, weights["head.weight"], weights["head.bias"])


@pytest.mark.parametrize("name", ["cait", "cait_official"])
def test_tokens_and_logits_equal_the_official_ones(fixtures, name):
    file, arch = load(fixtures, name)
    net = load_weights(CaiT(arch, img_size=64, pyramid=None), file["state_dict"])
    with torch.no_grad():
        tokens = net.run_blocks(net.embed(file["input"])[-1], range(net.depth))
        for i, expected in enumerate(file["block_tokens"]):
            assert_equal(tokens[i], expected)
        assert_equal(classify(file["state_dict"], tokens[net.depth - 1], net.num_heads), file["logits"])


@pytest.mark.parametrize(
    ("arch", "size", "classifier"),
    [
        ("xxs24", 224, 11_956_264),
        ("xxs36", 384, 17_372_680),
        ("xs24", 384, 26_670_088),
        ("s24", 224, 46_916_200),
        ("s36", 384, 68_366_632),
        ("m36", 384, 271_221_352),
        ("m48", 448, 356_460_520),
    ],
)
def test_parameters_are_the_published_ones(arch, size, classifier):
    with torch.device("meta"):
        net = CaiT(arch, img_size=size, pyramid=None)
        class_attention = 2 * sum(p.numel() for p in ClassAttentionBlock(net.embed_dims, net.num_heads).parameters())
    token_norm_and_head = 3 * net.embed_dims + 1000 * (net.embed_dims + 1)
    assert sum(p.numel() for p in net.parameters()) + class_attention + token_norm_and_head == classifier


def test_full_preset_equals_timm_at_another_size():
    reference = timm.create_model("cait_xxs24_224", img_size=112).eval()
    for name, p in reference.named_parameters():
        if "gamma" in name or "proj_" in name:  # their initial values would hide the branches
            nn.init.normal_(p)
    net = load_weights(CaiT("xxs24", img_size=112, pyramid=None), reference.state_dict())
    x = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        tokens = net.run_blocks(net.embed(x)[-1], [23])[23]
        assert_equal(classify(reference.state_dict(), tokens, 4), reference(x))


def test_class_attention_costs_a_detector_nothing():
    net = CaiT(ARCH)
    assert not [name for name, _ in net.named_parameters() if "cls" in name or "token" in name]


def test_drop_path_is_the_same_in_all_blocks():
    assert CaiT(ARCH, drop_path_rate=0.2).drop_path_rates() == [0.2] * 4


@pytest.mark.parametrize(("arch", "value"), [("xxs36", 1e-5), ("s24", 1e-5), ("s36", 1e-6), ("m48", 1e-6)])
def test_layer_scales_start_where_the_official_ones_do(arch, value):
    net = CaiT(dict(CAIT_ARCHS[arch], embed_dims=48, num_heads=4))
    gammas = [p for name, p in net.named_parameters() if "gamma" in name]
    assert len(gammas) == 2 * net.depth
    assert all((p == value).all() for p in gammas)


def test_talking_heads_work_in_windows_and_with_relative_positions():
    net = CaiT(ARCH, img_size=128, window_size=4, rel_pos=True, pyramid=None).eval()
    x = torch.randn(1, 3, 128, 128)
    y = x.clone()
    y[..., :64, :64] = 0
    changed = (net(x)[0] != net(y)[0]).any(1)[0]
    assert changed[:4, :4].all()
    assert not changed[4:].any()
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    before = net(x)[0]
    with torch.no_grad():
        net.blocks[0].attn.rel_pos_h[0] += 1  # from the first row to the last
    rows = (net(x)[0] != before).any(1)[0].any(1)
    assert rows.any()
