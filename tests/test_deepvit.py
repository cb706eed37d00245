"""DeepViT: official numbers, and batch norm inside attention."""

import pytest
import torch
import torch.nn.functional as F
from official import assert_equal, load_deepvit
from torch import nn

from backbones import DeepViT
from backbones.deepvit import DEEPVIT_ARCHS, ReAttention

ARCH = dict(embed_dims=48, depth=3, num_heads=4, apply_transform=[False, True, True], cnn_stem=True)


@pytest.fixture(params=["deepvit", "deepvit_plain"])
def official(request, fixtures):
    return load_deepvit(fixtures, request.param)


def test_tokens_and_logits_equal_the_official_ones(official):
    file, net = official
    weights = file["state_dict"]
    with torch.no_grad():
        tokens = net.run_blocks(net.embed(file["input"])[-1], range(net.depth))
    for i, expected in enumerate(file["block_tokens"]):
        assert_equal(tokens[i], expected)
    final = F.layer_norm(tokens[net.depth - 1], (48,), weights["norm.weight"], weights["norm.bias"], 1e-6)
    assert_equal(final, file["final_tokens"])
    assert_equal(F.linear(final[:, 0], weights["head.weight"], weights["head.bias"]), file["logits"])


def test_re_attention_maps_equal_the_official_ones(official):
    """With the unit matrix as values, attention returns its map."""
    file, net = official
    checked = 0
    for i, block in enumerate(net.blocks):
        if not isinstance(block.attn, ReAttention):
            continue
        x = file["block_tokens"][i - 1] if i else net.add_positions(net.embed(file["input"])[-1])
        with torch.no_grad():
            q, k, _ = block.attn.qkv(block.norm1(x)).unflatten(2, (3, 4, -1)).permute(2, 0, 3, 1, 4).unbind()
            eye = torch.eye(17).expand(2, 4, -1, -1)
            assert_equal(block.attn.attend(q, k, eye, q.shape[-1] ** -0.5), file["attention_maps"][i])
        checked += 1
    assert checked == 2


@pytest.mark.parametrize(
    ("arch", "size", "classifier"),
    [
        ("16b", 224, 24_426_664),
        ("24b", 224, 36_261_448),
        ("32b", 224, 48_096_232),
        ("s", 224, 27_312_632),
        ("l", 224, 58_883_708),
        ("l", 384, 59_043_308),
    ],
)
def test_parameters_are_the_published_ones(arch, size, classifier):
    with torch.device("meta"):
        net = DeepViT(arch, img_size=size, pyramid=None)
    norm_and_head = 2 * net.embed_dims + 1000 * (net.embed_dims + 1)
    assert sum(p.numel() for p in net.parameters()) + norm_and_head == classifier


def test_transformed_blocks_of_the_presets():
    def transformed(arch):
        with torch.device("meta"):
            return [i for i, block in enumerate(DeepViT(arch).blocks) if isinstance(block.attn, ReAttention)]

    assert transformed("16b") == list(range(16))
    assert transformed("s") == list(range(11, 16))
    assert transformed("l") == list(range(20, 32))


def test_only_the_small_preset_scales_its_maps():
    assert {name: arch.get("transform_scale", False) for name, arch in DEEPVIT_ARCHS.items()} == {
        "16b": False,
        "24b": False,
        "32b": False,
        "s": True,
        "l": False,
    }


def test_scale_adjustment_is_the_official_formula():
    r = 0.25
    net = DeepViT(dict(ARCH, scale_adjustment=r)).double().eval()
    block = net.blocks[0]
    for p in block.parameters():
        nn.init.normal_(p)
    x = 1e-3 * torch.randn(2, 17, 48, dtype=torch.float64)  # small enough for eps to count

    def norm(x, layer):
        return F.layer_norm(x, (48,), layer.weight, layer.bias, 1e-6)

    y = x + block.attn(norm(x * r, block.norm1), (4, 4)) / r
    y = y + block.mlp(norm(y * r, block.norm2)) / r
    torch.testing.assert_close(block(x, (4, 4), (1.0, 1.0)), y, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("with_cp", [False, True])
def test_running_statistics_are_updated_once(with_cp):
    torch.manual_seed(1)
    net = DeepViT(ARCH, img_size=64, with_cp=with_cp).train()
    sum(f.sum() for f in net(torch.randn(2, 3, 64, 64))).backward()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [int(m.num_batches_tracked) for m in norms] == [1] * 4


def test_recomputing_blocks_changes_nothing():
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    states, grads = [], []
    for with_cp in (False, True):
        torch.manual_seed(2)
        net = DeepViT(ARCH, img_size=64, with_cp=with_cp, drop_path_rate=0.5).double().train()
        torch.manual_seed(3)
        sum(f.square().sum() for f in net(x)).backward()
        states.append(net.state_dict())
        grads.append({name: p.grad for name, p in net.named_parameters()})
    for a, b in zip(states[0].values(), states[1].values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-9, atol=1e-12)


def test_synchronised_batch_norm_inside_attention_is_refused():
    net = nn.SyncBatchNorm.convert_sync_batchnorm(DeepViT(dict(ARCH, cnn_stem=False))).train()
    with pytest.raises(ValueError, match="norm_eval=True"):
        net(torch.randn(1, 3, 64, 64))


def test_wrong_number_of_transforms_is_named():
    with pytest.raises(ValueError, match="apply_transform has 2 entries; depth is 3"):
        DeepViT(dict(ARCH, apply_transform=[True, False]))
