"""CeiT against the official numbers and against textbook code."""

import pytest
import torch
import torch.nn.functional as F
from official import assert_equal
from torch import nn

from backbones import CeiT
from backbones.ceit import CeiTBlock, ImageToTokens, LayerwiseClassAttention, LocallyEnhancedFeedForward
from backbones.layers import Attention

ARCH = dict(embed_dims=48, depth=3, num_heads=3)
STATISTICS = ("running_mean", "running_var")


def randomize(module):
    """Random parameters and batch-norm statistics, so that nothing is hidden by a one or a zero."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    for name, buffer in module.named_buffers():
        if name.endswith(STATISTICS):
            nn.init.uniform_(buffer, 0.5, 1.5)
    return module


# -- official numbers


def test_tokens_of_every_block_and_logits_equal_the_official_ones(fixtures):
    file = torch.load(fixtures / "ceit.pt", weights_only=True)
    weights = file["state_dict"]
    net = CeiT(ARCH, img_size=64, pyramid=None, taps=range(3)).eval()
    net.load_state_dict({key: value for key, value in weights.items() if not key.startswith(net.classifier_keys)})
    lca = LayerwiseClassAttention(**ARCH).eval()
    lca.load_state_dict({key: value for key, value in weights.items() if key in lca.state_dict()})
    assert weights.keys() - net.state_dict().keys() - lca.state_dict().keys() == {"head.weight", "head.bias"}
    with torch.no_grad():
        tokens = net.run_blocks(net.embed(file["input"])[-1], range(3))
        maps = net(file["input"])
        class_tokens = net.class_tokens(file["input"])
        logits = F.linear(lca(class_tokens), weights["head.weight"], weights["head.bias"])
    for i, expected in enumerate(file["block_tokens"]):
        assert_equal(tokens[i], expected)
        assert_equal(maps[i], expected[:, 1:].transpose(1, 2).unflatten(2, (4, 4)))
        assert_equal(class_tokens[:, i], expected[:, 0])
    assert_equal(logits, file["logits"])


@pytest.mark.parametrize(
    ("arch", "img_size", "parameters"),
    [
        ("tiny", 224, 6_356_904),
        ("tiny", 384, 6_429_864),
        ("small", 224, 24_204_840),
        ("small", 384, 24_350_760),
        ("base", 224, 94_405_416),
    ],
)
def test_presets_have_the_official_parameter_counts(arch, img_size, parameters):
    with torch.device("meta"):
        net = CeiT(arch, img_size=img_size, pyramid=None)
        lca = LayerwiseClassAttention(net.embed_dims, net.depth, net.num_heads)
        head = nn.Linear(net.embed_dims, 1000)
    assert sum(p.numel() for part in (net, lca, head) for p in part.parameters()) == parameters
    assert net.embed_dims == 64 * net.num_heads


# -- the stem


@pytest.mark.parametrize("patch_size", [16, 32])
def test_stem_is_conv_norm_pool_patches(patch_size):
    stem = randomize(ImageToTokens(48, patch_size)).eval()
    w = stem.state_dict()
    x = torch.rand(2, 3, 64, 96)
    y = F.conv2d(x, w["backbone.conv.weight"], stride=2, padding=3)
    mean, var, scale, shift = (w[f"backbone.bn.{name}"][:, None, None] for name in (*STATISTICS, "weight", "bias"))
    y = (y - mean) / (var + 1e-5).sqrt() * scale + shift  # no activation
    y = F.pad(y, (1, 1, 1, 1), value=float("-inf")).unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))
    n = patch_size // 4
    patches = y.unfold(2, n, n).unfold(3, n, n)  # (B, 64, h, w, n, n)
    expected = torch.einsum("bchwij,dcij->bdhw", patches, w["proj.weight"]) + w["proj.bias"][:, None, None]
    assert_equal(stem(x).detach(), expected)


@pytest.mark.parametrize("patch_size", [0, 18])
def test_a_patch_size_that_the_stem_cannot_make_is_named(patch_size):
    with pytest.raises(ValueError, match=f"patch_size is {patch_size}; it must be a positive multiple of 4"):
        ImageToTokens(48, patch_size)


# -- the feed-forward branch


def textbook_leff(leff, x, grid, prefix):
    """Pixel by pixel, tokens in their order."""
    h, w = grid
    weights = leff.state_dict(keep_vars=True)

    def norm(y, name):
        dims = tuple(range(y.ndim - 1))
        mean, var = y.mean(dims), y.var(dims, correction=0)
        return (y - mean) / (var + 1e-5).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def pointwise(y, name):
        return y @ weights[f"{name}.weight"][:, :, 0, 0].T + weights[f"{name}.bias"]

    y = F.gelu(norm(pointwise(x[:, prefix:], "conv1"), "bn1"))
    kernel = weights["conv2.weight"][:, 0]  # (hidden, 3, 3)
    rows = []
    for i in range(h):
        for j in range(w):
            total = weights["conv2.bias"]
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if 0 <= i + di < h and 0 <= j + dj < w:
                        total = total + y[:, (i + di) * w + j + dj] * kernel[:, di + 1, dj + 1]
            rows.append(total.expand(len(x), -1))
    y = F.gelu(norm(torch.stack(rows, dim=1), "bn2"))
    return torch.cat([x[:, :prefix], norm(pointwise(y, "conv3"), "bn3")], dim=1)


@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize("grid", [(3, 5), (1, 4)])
def test_leff_and_its_gradients_are_those_of_textbook_code(grid, prefix):
    leff = randomize(LocallyEnhancedFeedForward(6, 10)).double().train()
    tokens = torch.randn(2, prefix + grid[0] * grid[1], 6, dtype=torch.float64)
    upstream = torch.randn_like(tokens)
    grads = []
    for compute in (lambda x: leff(x, grid), lambda x: textbook_leff(leff, x, grid, prefix)):
        x = tokens.clone().requires_grad_()
        y = compute(x)
        grads.append((y, *torch.autograd.grad(y, [x, *leff.parameters()], upstream)))
    for got, expected in zip(*grads, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_the_class_token_is_updated_by_its_own_norm():
    block = randomize(CeiTBlock(12, Attention(12, 3), LocallyEnhancedFeedForward(12, 48))).eval()
    x = torch.randn(2, 1 + 2 * 3, 12)
    attended = x + block.attn(block.norm1(x), (2, 3))
    cls, normed = attended[:, 0], block.norm2(attended)
    got = block(x, (2, 3), (1.0, 1.0))
    torch.testing.assert_close(got[:, 0], cls + normed[:, 0])
    torch.testing.assert_close(got[:, 1:], (attended + block.leff(normed, (2, 3)))[:, 1:])
    block_with_dropped_branch = block(x, (2, 3), (1.0, torch.zeros(2, 1, 1)))
    torch.testing.assert_close(block_with_dropped_branch, attended)


# -- any size


@pytest.mark.parametrize(("size", "grid"), [((75, 101), (5, 7)), ((230, 250), (15, 16))])
def test_odd_sizes_are_those_of_the_image_filled_with_zeros(size, grid):
    net = randomize(CeiT(ARCH, img_size=64, pyramid=None)).eval()
    x = torch.rand(1, 3, *size)
    whole = F.pad(x, (0, 16 * grid[1] - size[1], 0, 16 * grid[0] - size[0]))
    (got,), (expected,) = net(x), net(whole)
    assert got.shape == (1, 48, *grid)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    torch.testing.assert_close(net.class_tokens(x), net.class_tokens(whole), rtol=0, atol=0)


def test_recomputing_blocks_changes_neither_gradients_nor_statistics():
    plain, recomputed = (randomize(CeiT(ARCH, pyramid=None, with_cp=with_cp)) for with_cp in (False, True))
    recomputed.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 64, 96)
    for net in (plain, recomputed):
        net.train()(x)[0].square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        assert torch.linalg.norm(a.grad - b.grad) <= 1e-5 * torch.linalg.norm(a.grad), name
    for (name, a), b in zip(plain.named_buffers(), recomputed.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


# -- class tokens of all layers


def test_lca_is_the_last_layers_attention_over_all_layers():
    lca = randomize(LayerwiseClassAttention(12, depth=5, num_heads=3)).double()
    tokens = torch.randn(2, 5, 12, dtype=torch.float64)
    block = lca.lca
    t = tokens + lca.pos_layer_embed
    q, k, v = block.attn.qkv(block.norm1(t)).chunk(3, dim=-1)
    heads = []
    for i in range(3):
        part = slice(4 * i, 4 * i + 4)
        attention = (q[:, 4, None, part] @ k[..., part].transpose(1, 2) / 2).softmax(-1)  # (B, 1, L); 2 = sqrt(4)
        heads.append(attention @ v[..., part])
    last = t[:, 4] + block.attn.proj(torch.cat(heads, dim=-1))[:, 0]
    last = last + block.feedforward.fc2(F.gelu(block.feedforward.fc1(block.norm2(last))))
    torch.testing.assert_close(lca(tokens), lca.norm(last), rtol=1e-12, atol=1e-12)


def test_layer_positions_start_at_zero():
    assert torch.equal(LayerwiseClassAttention(12, depth=5, num_heads=3).pos_layer_embed, torch.zeros(1, 5, 12))


def test_without_a_class_token_there_are_none_to_attend():
    with pytest.raises(ValueError, match="no class token; build it without window_size"):
        CeiT(ARCH, window_size=2).class_tokens(torch.rand(1, 3, 64, 64))
