"""DINOv2, DINOv3, SigLIP 2, EVA-02, BEiT: numbers and gradients of timm, files, positions by their own rules."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.layers import LayerNorm, SwiGLUPacked
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import nn

from backbones import EVA02, BEiT, DINOv2, DINOv3, PlainViT, SigLIP2
from backbones.attention_maps import AttentionInput
from backbones.checkpoints import CheckpointError, load_pretrained
from backbones.dinov2 import DINOv2Trunk
from backbones.info.counting import Allocations
from backbones.layers import joint_bias
from backbones.layers.joint_bias import JointBiasAttention, resize_distances

C = 48
SMALL = dict(embed_dims=C, depth=2, num_heads=3)
SIDE = dict(img_size=56, patch_size=14)
TIMM = dict(embed_dim=C, depth=2, num_heads=3, num_classes=0, global_pool="", dynamic_img_size=True)
GATED = dict(mlp_ratio=2.66667 * 2, mlp_layer=SwiGLUPacked, act_layer=nn.SiLU)
SIDE_16 = dict(img_size=64, patch_size=16)
ROTARY = dict(
    use_abs_pos_emb=False, use_rot_pos_emb=True, rope_type="dinov3", rope_temperature=100, rope_rotate_half=True
)
EPS = dict(norm_layer=partial(LayerNorm, eps=1e-5))
vit = partial(VisionTransformer, **TIMM, **SIDE, init_values=1e-5)
siglip = partial(
    VisionTransformer, **{**TIMM, "global_pool": "map"}, **SIDE_16, class_token=False, act_layer="gelu_tanh"
)
dinov3 = partial(Eva, **TIMM, **SIDE_16, **ROTARY, **EPS, init_values=1e-5, num_reg_tokens=4, use_fc_norm=False)
eva02 = partial(Eva, **TIMM, **SIDE, mlp_ratio=4 * 2 / 3, swiglu_mlp=True, use_rot_pos_emb=True, ref_feat_shape=(4, 4))
STATIC = {key: value for key, value in TIMM.items() if key != "dynamic_img_size"}
beit = partial(Beit, **STATIC, **SIDE_16, init_values=0.1, use_abs_pos_emb=False, use_rel_pos_bias=True)
CASES = {  # our class and its arguments, timm's model
    "DINOv2": (DINOv2, dict(arch=SMALL), vit),
    "DINOv2, registers": (DINOv2, dict(arch=SMALL, registers=4), partial(vit, reg_tokens=4, no_embed_class=True)),
    "DINOv2, gated": (DINOv2, dict(arch=dict(SMALL, swiglu=True)), partial(vit, **GATED)),
    "DINOv3": (DINOv3, dict(arch=SMALL), dinov3),
    "DINOv3, gated": (
        DINOv3,
        dict(arch=dict(SMALL, swiglu=True, qkv_bias=False)),
        partial(dinov3, qkv_bias=False, swiglu_mlp=True, swiglu_align_to=8),
    ),
    "SigLIP2": (SigLIP2, dict(arch=SMALL), siglip),
    "EVA02": (EVA02, dict(arch=SMALL), eva02),
    "EVA02, norm": (EVA02, dict(arch=dict(SMALL, sub_norm=True)), partial(eva02, qkv_fused=False, scale_mlp=True)),
    "BEiT": (BEiT, dict(arch=SMALL), beit),
    "TIPSv2": (DINOv2, dict(arch=SMALL, registers=1), partial(vit, reg_tokens=1, no_embed_class=True)),
    "LingBot-Vision g": (
        DINOv3,
        dict(arch=dict(SMALL, mlp_ratio=8 / 3, swiglu=True, qkv_bias=False)),
        partial(dinov3, qkv_bias=False, mlp_ratio=4 * 2 / 3, swiglu_mlp=True, swiglu_align_to=8),
    ),
}
SIZE = {DINOv2: 56, DINOv3: 64, SigLIP2: 64, EVA02: 56, BEiT: 64}


def draw(model: nn.Module) -> nn.Module:
    """Values for which every term counts: fresh layer scales, biases and tables are close to nothing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight") or "norm1.weight" in name or "norm2.weight" in name:
                parameter.uniform_(0.5, 1.5)
            elif parameter.ndim == 2 or parameter.ndim == 4:
                parameter.normal_(std=2 * parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(std=0.5)
    return model


def build(case: str, tmp_path, **kwargs):
    """Our model with the weights of timm's, read from timm's file; timm's model; the load report."""
    cls, arguments, reference = CASES[case]
    theirs = draw(reference()).eval()
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    ours = cls(**arguments, img_size=SIZE[cls], pyramid=None, **kwargs).eval()
    return ours, theirs, load_pretrained(ours, tmp_path / "timm.safetensors")


def assert_close(got, wanted, tolerance=1e-5):
    torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance * wanted.abs().max().item())


@pytest.mark.parametrize("case", CASES)
def test_taps_equal_timm(case, tmp_path):
    ours, theirs, report = build(case, tmp_path, taps=(0, 1))
    assert report.complete
    assert all(key.startswith(("attn_pool.", "norm.")) for key in report.skipped)
    x = torch.randn(2, 3, SIZE[type(ours)], SIZE[type(ours)])
    with torch.no_grad():
        wanted = theirs.forward_intermediates(x, norm=ours.norm is not None, intermediates_only=True)
        for a, b in zip(ours(x), wanted, strict=True):
            assert_close(a, b)


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_timm(case, tmp_path):
    ours, theirs, _ = build(case, tmp_path)
    x = torch.randn(2, 3, SIZE[type(ours)], SIZE[type(ours)])
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    (a,) = ours(inputs[0])
    (b,) = theirs.forward_intermediates(inputs[1], indices=1, norm=ours.norm is not None, intermediates_only=True)
    weights = torch.randn_like(a)
    (a * weights).sum().backward()
    (b * weights).sum().backward()
    assert_close(inputs[0].grad, inputs[1].grad, 1e-4)
    for block, other in zip(ours.blocks, theirs.blocks, strict=True):
        for name in ("norm1.weight", "attn.proj.bias", "norm2.bias"):
            assert_close(block.get_parameter(name).grad, other.get_parameter(name).grad, 1e-4)
        grads = [
            p.grad
            for name, p in other.attn.named_parameters()
            if name[:3] in ("qkv", "q_p", "k_p", "v_p") and p.ndim == 2
        ]
        assert_close(block.attn.qkv.weight.grad, torch.cat(grads), 1e-4)


# -- sizes


@pytest.mark.parametrize(
    ("cls", "arch", "count"),
    [
        (DINOv2, "small", 22_056_576),
        (DINOv2, "base", 86_580_480),
        (DINOv2, "large", 304_368_640),
        (DINOv2, "giant", 1_136_480_768),
        (DINOv3, "large-plus", 403_891_200),
    ],
)
def test_parameters_are_the_published_ones(cls, arch, count):
    """Official files have a mask token beside."""
    with torch.device("meta"):
        net = cls(arch, pyramid=None)
    assert sum(p.numel() for p in net.parameters()) + net.embed_dims == count


# -- DINOv2's files


def official_dinov2(**kwargs) -> dict[str, torch.Tensor]:
    """Weights under the names of the authors."""
    net = draw(DINOv2(SMALL, img_size=56, pyramid=None, **kwargs))
    weights = {official_name(name): value for name, value in net.state_dict().items()}
    return weights | {"mask_token": torch.randn(1, C)}


def official_name(name: str) -> str:
    return name.replace(".gamma_1", ".ls1.gamma").replace(".gamma_2", ".ls2.gamma")


def saved(tmp_path, weights):
    torch.save(weights, tmp_path / "file.pth")
    return tmp_path / "file.pth"


@pytest.mark.parametrize("registers", [0, 1, 4])
def test_official_files_load_whole(registers, tmp_path):
    weights = official_dinov2(registers=registers)
    net = DINOv2(SMALL, registers=registers, img_size=56, pyramid=None)
    report = load_pretrained(net, saved(tmp_path, weights))
    assert report.complete
    assert report.skipped == ["mask_token"]
    assert report.adapted == []
    for name, value in net.state_dict().items():
        assert torch.equal(value, weights[official_name(name)]), name


def in_transformers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights under the names of transformers' Dinov2Model."""
    renamed = {}
    steps = (
        ("norm.", "layernorm."),
        ("pos_embed", "embeddings.position_embeddings"),
        ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
        ("cls_token", "embeddings.cls_token"),
        ("mask_token", "embeddings.mask_token"),
        ("register_tokens", "embeddings.register_tokens"),
    )
    for name, value in weights.items():
        for ours, theirs in steps:
            if name.startswith(ours):
                name = name.replace(ours, theirs)
        name = name.replace("blocks.", "encoder.layer.").replace("attn.proj.", "attention.output.dense.")
        name = name.replace("ls1.gamma", "layer_scale1.lambda1").replace("ls2.gamma", "layer_scale2.lambda1")
        name = name.replace("mlp.w12.", "mlp.weights_in.").replace("mlp.w3.", "mlp.weights_out.")
        if "attn.qkv" in name:
            for part, chunk in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[name.replace("attn.qkv", f"attention.attention.{part}")] = chunk.clone()
        else:
            renamed[name] = value
    return renamed


@pytest.mark.parametrize("prefix", ["", "dinov2."])
def test_files_of_the_transformers_library_load_whole(prefix, tmp_path):
    weights = official_dinov2(registers=4)
    renamed = {prefix + name: value for name, value in in_transformers(weights).items()} | {
        "classifier.bias": torch.ones(3)
    }
    net = DINOv2(SMALL, registers=4, img_size=56, pyramid=None)
    report = load_pretrained(net, saved(tmp_path, renamed), strict=False)
    assert report.missing == []
    assert report.unexpected == ["classifier.bias"]
    assert report.adapted == [
        "names of the transformers library converted to those of the authors",
        "q_proj, k_proj, v_proj of 2 blocks were joined to qkv",
    ]
    for name, value in net.state_dict().items():
        assert torch.equal(value, weights[official_name(name)]), name


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        (dict(registers=4), dict(), "the file has 4 registers and the model 0; pass registers=4"),
        (dict(), dict(registers=4), "the file has 0 registers and the model 4; pass registers=0"),
        (dict(registers=1), dict(registers=4), "the file has 1 registers and the model 4; pass registers=1"),
        (dict(), dict(img_size=70), r"a table for 4 x 4 patches, .* for 5 x 5; pass img_size=56"),
    ],
)
def test_files_of_another_model_name_the_arguments(theirs, ours, message, tmp_path):
    net = DINOv2(SMALL, **{"img_size": 56, "pyramid": None, **ours})
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(net, saved(tmp_path, official_dinov2(**theirs)))


def test_windows_drop_registers(tmp_path):
    net = DINOv2(SMALL, registers=4, img_size=56, window_size=2, global_blocks=(1,), pyramid=None)
    report = load_pretrained(net, saved(tmp_path, official_dinov2(registers=4)))
    assert report.complete
    assert sorted(report.skipped) == ["cls_token", "mask_token", "register_tokens"]
    assert report.adapted == [
        "this model has no prefix tokens: cls_token, register_tokens, 1 of 17 rows of pos_embed dropped"
    ]
    assert net(torch.randn(1, 3, 70, 98))[0].shape == (1, C, 5, 7)


# -- DINOv2's positions


def test_positions_without_registers_belong_to_a_slightly_longer_grid():
    """Coordinates are (i + 0.5) * 4 / (n + 0.1) - 0.5, with a bicubic kernel of a = -0.75 and repeated edges."""
    trunk = draw(DINOv2Trunk(SMALL, img_size=56)).double()
    table = trunk.pos_embed.detach()
    assert trunk.positions((4, 4)) is trunk.pos_embed
    by_axis = []
    for n in (6, 3):
        matrix = torch.zeros(n, 4, dtype=torch.float64)
        for i in range(n):
            x = (i + 0.5) * 4 / (n + 0.1) - 0.5
            for j in range(int(x // 1) - 1, int(x // 1) + 3):
                matrix[i, min(max(j, 0), 3)] += keys_kernel(abs(x - j), -0.75)
        by_axis.append(matrix)
    places = torch.einsum("ri,cj,ijd->rcd", *by_axis, table[0, 1:].unflatten(0, (4, 4))).flatten(0, 1)
    got = trunk.positions((6, 3))
    assert torch.equal(got[:, :1], table[:, :1])
    torch.testing.assert_close(got[0, 1:], places)


def keys_kernel(x: float, a: float) -> float:
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def test_positions_with_registers_are_antialiased_and_registers_have_none():
    trunk = draw(DINOv2Trunk(SMALL, img_size=56, registers=4))
    places = trunk.pos_embed[0, 1:].unflatten(0, (4, 4)).permute(2, 0, 1)[None]
    wanted = F.interpolate(places, (6, 3), mode="bicubic", antialias=True)[0].flatten(1).T
    got = trunk.positions((6, 3))
    assert torch.equal(got[:, 0], trunk.pos_embed[:, 0])
    assert torch.equal(got[:, 1:5], torch.zeros(1, 4, C))
    torch.testing.assert_close(got[0, 5:], wanted)


def test_tokens_are_class_registers_patches():
    trunk = draw(DINOv2Trunk(SMALL, img_size=56, registers=4))
    tokens = trunk.add_positions(torch.zeros(1, C, 4, 4))
    assert tokens.shape == (1, 21, C)
    assert torch.equal(tokens[:, 0], trunk.cls_token[:, 0] + trunk.pos_embed[:, 0])
    assert torch.equal(tokens[:, 1:5], trunk.register_tokens)
    assert torch.equal(tokens[:, 5:], trunk.pos_embed[:, 1:])


# -- the final norm


def test_the_norm_is_trained_by_earlier_taps_and_frozen_with_the_last_block():
    net = DINOv2(SMALL, pyramid=None, taps=(0,))
    assert net.norm.weight.requires_grad
    assert not net.blocks[1].norm1.weight.requires_grad
    net(torch.rand(1, 3, 56, 56))[0].square().sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    frozen = DINOv2(SMALL, pyramid=None, frozen_stages=2)
    assert not any(p.requires_grad for p in frozen.parameters())


def test_the_norm_can_be_left_out():
    net = DINOv2(SMALL, img_size=56, pyramid=None).eval()
    bare = DINOv2(SMALL, img_size=56, pyramid=None, final_norm=False).eval()
    bare.load_state_dict(net.state_dict(), strict=False)
    x = torch.randn(1, 3, 56, 56)
    (a,), (b,) = net(x), bare(x)
    torch.testing.assert_close(a, net.norm(b.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(registers=-1), "registers is -1.*0 or more"),
        (dict(registers=True), "registers is True"),
        (dict(arch=dict(SMALL, swiglu="yes")), "swiglu is 'yes'"),
        (dict(final_norm="no"), "final_norm is 'no'"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DINOv2(**{"arch": SMALL, **kwargs})


# -- DINOv3's and EVA-02's files and rotations


def official_dinov3() -> tuple[dict[str, torch.Tensor], nn.Module]:
    """Weights under the names of the authors: one bias with a mask, parts of gated branches, rounded periods."""
    net = draw(DINOv3(dict(SMALL, swiglu=True), pyramid=None))
    weights = {official_name(name): value for name, value in net.state_dict().items()}
    for i in range(2):
        base = f"blocks.{i}."
        q, v = (weights.pop(f"{base}attn.qkv.{part}_bias") for part in "qv")
        weights[f"{base}attn.qkv.bias"] = torch.cat([q, torch.full((C,), float("nan")), v])
        weights[f"{base}attn.qkv.bias_mask"] = torch.cat([torch.ones(C), torch.zeros(C), torch.ones(C)])
        for leaf in ("weight", "bias"):
            gate, value = weights.pop(f"{base}mlp.w12.{leaf}").chunk(2)
            weights |= {f"{base}mlp.w1.{leaf}": gate.clone(), f"{base}mlp.w2.{leaf}": value.clone()}
    weights["rope_embed.periods"] = weights["rope_embed.periods"].bfloat16().float()
    return weights | {"mask_token": torch.ones(1, C), "local_cls_norm.weight": torch.ones(C)}, net


def test_dinov3s_official_file_loads_whole(tmp_path):
    weights, source = official_dinov3()
    net = DINOv3(dict(SMALL, swiglu=True), pyramid=None)
    report = load_pretrained(net, saved(tmp_path, weights))
    assert report.complete
    assert sorted(report.skipped) == ["local_cls_norm.weight", "mask_token"]
    assert report.adapted == [
        "w1, w2 of 2 blocks were joined to w12",
        "bias_mask of 2 blocks was folded into the biases of queries, keys and values",
    ]
    expected = source.state_dict() | {"rope_embed.periods": weights["rope_embed.periods"]}
    for name, value in net.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert not torch.equal(expected["rope_embed.periods"], source.rope_embed.periods)


def test_eupes_and_lingbots_layouts_are_dinov3s(tmp_path):
    """LingBot-Vision's keys have a prefix, EUPE's file the layers that its teachers' features were compared through."""
    weights, source = official_dinov3()
    weights = {f"backbone.{name}": value for name, value in weights.items()}
    weights |= {f"projectors.teacher{i}.0.weight": torch.ones(C, C) for i in range(2)}
    net = DINOv3(dict(SMALL, swiglu=True), pyramid=None)
    report = load_pretrained(net, saved(tmp_path, weights))
    assert report.complete
    assert {"projectors.teacher0.0.weight", "projectors.teacher1.0.weight"} <= set(report.skipped)
    assert torch.equal(net.blocks[1].mlp.w3.weight, source.blocks[1].mlp.w3.weight)


@pytest.mark.parametrize("gated", [False, True])
def test_dinov3_of_the_transformers_library_loads_whole(gated, tmp_path):
    """Names of DINOv3ViTModel; a branch without a gate has ``up_proj`` and ``down_proj``, too."""
    source = draw(DINOv3(dict(SMALL, swiglu=gated), pyramid=None))
    parts = {"w12": ("gate_proj", "up_proj"), "w3": ("down_proj",), "fc1": ("up_proj",), "fc2": ("down_proj",)}
    parts |= {"qkv": ("q_proj", "k_proj", "v_proj")}
    steps = (
        ("blocks.", "layer."),
        ("gamma_1", "layer_scale1.lambda1"),
        ("gamma_2", "layer_scale2.lambda1"),
        ("storage", "register"),
        ("patch_embed.proj.", "embeddings.patch_embeddings."),
        ("attn.proj.", "attention.o_proj."),
        ("attn.", "attention."),
        ("qkv.q_bias", "q_proj.bias"),
        ("qkv.v_bias", "v_proj.bias"),
    )
    weights = {}
    for name, value in source.state_dict().items():
        for ours, theirs in steps:
            name = name.replace(ours, theirs)
        name = f"embeddings.{name}" if name.endswith(("_token", "_tokens")) else name
        *_, layer, leaf = name.split(".")
        stored = parts.get(layer, (layer,))
        for part, chunk in zip(stored, value.chunk(len(stored)), strict=True):
            weights[f"{name.removesuffix(f'{layer}.{leaf}')}{part}.{leaf}"] = chunk.clone()
    del weights["rope_embed.periods"]
    net = DINOv3(dict(SMALL, swiglu=gated), pyramid=None)
    report = load_pretrained(net, saved(tmp_path, weights))
    assert report.complete
    for name, value in net.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name


def test_timms_files_without_periods_and_zero_biases_say_so(tmp_path):
    theirs = draw(dinov3(qkv_bias=False))
    net = DINOv3(SMALL, pyramid=None)
    nn.init.ones_(net.blocks[0].attn.qkv.q_bias)
    report = load_pretrained(net, saved(tmp_path, theirs.state_dict()))
    assert report.complete
    assert [note.partition(" in the file")[0] for note in report.adapted] == [
        "queries and values have no bias",
        "rope_embed.periods are not",
    ]
    assert not net.blocks[0].attn.qkv.q_bias.any()


def test_eva02s_official_file_loads_whole(tmp_path):
    net = draw(EVA02(dict(SMALL, sub_norm=True), img_size=56, pyramid=None))
    weights = dict(net.state_dict())
    for i in range(2):
        base = f"blocks.{i}.attn."
        for part in "qv":
            weights[f"{base}{part}_bias"] = weights.pop(f"{base}qkv.{part}_bias")
        for part, value in zip("qkv", weights.pop(f"{base}qkv.weight").chunk(3), strict=True):
            weights[f"{base}{part}_proj.weight"] = value.clone()
        weights[f"{base}rope.freqs_cos"] = weights[f"{base}rope.freqs_sin"] = torch.ones(16, 16)
    ours = EVA02(dict(SMALL, sub_norm=True), img_size=56, pyramid=None)
    report = load_pretrained(
        ours, saved(tmp_path, weights | {"lm_head.bias": torch.ones(3), "norm.bias": torch.ones(C)})
    )
    assert report.complete
    assert {key.rpartition(".")[2] for key in report.skipped} == {"freqs_cos", "freqs_sin", "bias"}
    assert report.adapted[-1] == "4 tables of cosines and sines (rope.freqs_*) are computed, not loaded"
    for name, value in ours.state_dict().items():
        assert torch.equal(value, net.state_dict()[name]), name


@pytest.mark.parametrize("cls", [DINOv3, EVA02])
def test_windows_turn_with_the_true_places(cls):
    """A windowed block is a global one whose scores are masked to the windows."""
    net = draw(cls(SMALL, img_size=64, window_size=3, pyramid=None)).double()
    grid, block = (6, 9), net.blocks[0]
    tokens = torch.randn(2, 54, C, dtype=torch.float64)
    attention = block.attn
    q, k, v = attention._project(tokens, net.rope_embed(grid, None, tokens))
    places = torch.arange(54)
    window = places // 9 // 3 * 3 + places % 9 // 3
    scores = (q @ k.mT * 16**-0.5).masked_fill(window[:, None] != window, float("-inf"))
    expected = attention.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(block.attend(tokens, grid, net.rope_embed(grid, 3, tokens)), expected)


@pytest.mark.parametrize("case", ["DINOv3", "EVA02"])
def test_rotations_of_other_grids_equal_timm(case, tmp_path):
    ours, theirs, _ = build(case, tmp_path)
    x = torch.randn(1, 3, 5 * ours.stride, 7 * ours.stride)
    if case == "EVA02":  # whose table timm resizes by a rule of its own
        theirs.pos_embed.data.zero_()
        ours.pos_embed.data.zero_()
    with torch.no_grad():
        (wanted,) = theirs.forward_intermediates(x, indices=1, norm=ours.norm is not None, intermediates_only=True)
        assert_close(ours(x)[0], wanted)


def test_rotation_is_taken_in_float32():
    net = DINOv3(SMALL, pyramid=None)
    rotation = net.rope_embed((4, 4), None, torch.zeros(1, dtype=torch.bfloat16))
    assert rotation.cos.dtype == torch.float32
    assert net.rope_embed((4, 4), None, torch.zeros(1, dtype=torch.float64)).cos.dtype == torch.float64


# -- BEiT's tables


@pytest.mark.parametrize("grid", [(14, 9), (7, 10)])
def test_beits_tables_are_stretched_geometrically(grid):
    """The old distances are 0, 1, 1 + r, 1 + r + r^2, ..., with the r for which the last is the farthest new one."""
    distances = torch.randn(3, 13, 13, dtype=torch.float64)
    expected = distances.numpy()
    for axis, n in enumerate(grid, start=1):
        roots = np.roots([1, 1, 1, 1, 1, 1 - (n - 1)])  # 1 + r + ... + r^5 = n - 1
        reached = np.cumsum(max(roots.real[abs(roots.imag) < 1e-9]) ** np.arange(6))
        places = np.concatenate([-reached[::-1], [0], reached])
        wanted = np.arange(-(n - 1), n)
        expected = np.apply_along_axis(lambda values, x=wanted, xp=places: np.interp(x, xp, values), axis, expected)
    torch.testing.assert_close(resize_distances(distances, grid), torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


def test_smaller_grids_have_the_near_distances():
    distances = torch.randn(3, 7, 9)
    torch.testing.assert_close(resize_distances(distances, (3, 2)), distances[:, 1:6, 3:6], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("chunk_bytes", [10**9, 1], ids=["at once", "row by row"])
def test_joint_biases_are_their_formula_with_all_gradients(prefix, chunk_bytes, monkeypatch):
    monkeypatch.setattr(joint_bias, "CHUNK_BYTES", chunk_bytes)
    grid, n = (3, 4), 12
    attention = draw(JointBiasAttention(24, 3, grid)).double()
    x = torch.randn(2, prefix + n, 24, dtype=torch.float64, requires_grad=True)
    table = attention.relative_position_bias_table
    rows, columns = torch.arange(n) // 4, torch.arange(n) % 4
    index = (rows[:, None] - rows + 2) * 7 + columns[:, None] - columns + 3
    bias = table[index].permute(2, 0, 1)
    if prefix:
        bias = F.pad(bias, (1, 0, 1, 0))
        bias[:, :1], bias[:, 1:, :1], bias[:, :1, :1] = (t[:, None, None] for t in table[[-3, -2, -1]])
    q, k, v = (t.unflatten(2, (3, 8)).transpose(1, 2) for t in attention.qkv(x).chunk(3, dim=2))
    maps = (q @ k.mT * 8**-0.5 + bias).softmax(-1)
    expected, got = attention.proj((maps @ v).transpose(1, 2).flatten(2)), attention(x, grid)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(AttentionInput(attention, x, grid).maps(), maps)
    weights, inputs = torch.randn_like(got), [x, *attention.parameters()]
    for a, b in zip(
        torch.autograd.grad(got, inputs, weights), torch.autograd.grad(expected, inputs, weights), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_joint_biases_never_hold_a_map_of_all_pairs(monkeypatch):
    monkeypatch.setattr(joint_bias, "CHUNK_BYTES", 10**5)
    attention, n, sizes = JointBiasAttention(16, 2, (24, 24)), 576, []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        attention(torch.randn(1, n, 16, requires_grad=True), (24, 24))
    assert max(sizes) <= 3 * n * 16


def test_beits_shared_table_is_copied_and_another_size_names_its_own(tmp_path):
    net = BEiT(SMALL, img_size=64, pyramid=None)
    weights = {k: v for k, v in net.state_dict().items() if "bias_table" not in k}
    table = torch.randn(52, 3)
    path = saved(tmp_path, weights | {"rel_pos_bias.relative_position_bias_table": table})
    report = load_pretrained(net, path)
    assert report.complete
    assert report.skipped == []
    assert report.adapted == ["one table of relative positions for all blocks was copied to 2 blocks"]
    assert all(torch.equal(block.attn.relative_position_bias_table, table) for block in net.blocks)
    with pytest.raises(CheckpointError, match="52 rows in the file and 732 in the model; pass img_size=64"):
        load_pretrained(BEiT(SMALL, pyramid=None), path)


# -- other families


def sam(**kwargs):
    small = dict(img_size=64, patch_size=16, embed_dim=C, depth=2, num_heads=3, num_classes=0, neck_chans=8)
    return draw(
        VisionTransformerSAM(**small, use_rel_pos=True, window_size=3, global_attn_indexes=(1,), **kwargs)
    ).eval()


def test_sams_image_encoder_is_a_plain_vit(tmp_path):
    theirs = sam()
    weights = {
        f"image_encoder.{name.replace('mlp.fc', 'mlp.lin')}": value for name, value in theirs.state_dict().items()
    }
    weights["mask_decoder.iou_token.weight"] = torch.ones(1, 3)
    net = PlainViT(
        SMALL, img_size=64, window_size=3, global_blocks=(1,), rel_pos=True, pyramid=None, taps=(0, 1)
    ).eval()
    report = load_pretrained(net, saved(tmp_path, weights))
    assert report.complete
    assert report.prefix == "image_encoder."
    assert report.adapted == ["pos_embed was a map and became a table"]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(net(x), theirs.forward_intermediates(x, intermediates_only=True), strict=True):
            assert_close(a, b)


TEXT = {f"text_model.encoder.layers.0.mlp.fc{i}.weight": torch.ones(3, 3) for i in (1, 2)}


@pytest.mark.parametrize(
    ("file", "model", "message"),
    [
        (lambda: official_dinov3()[0], dict(cls=DINOv2), r"storage_tokens\) are those of DINOv3: type='DINOv3'"),
        (lambda: official_dinov3()[0], dict(cls=PlainViT), r"are those of DINOv3: type='DINOv3'"),
        (lambda: official_dinov2(registers=4), dict(cls=DINOv3), r"are those of DINOv2: type='DINOv2', registers=4"),
        (lambda: official_dinov2(registers=4), dict(cls=SigLIP2), r"are those of DINOv2: type='DINOv2', registers=4"),
        (lambda: eva02(scale_mlp=True, qkv_fused=False).state_dict(), dict(cls=DINOv2, registers=4), "type='EVA02'"),
        (lambda: beit().state_dict(), dict(cls=EVA02), "are those of BEiT: type='BEiT'"),
        (lambda: siglip().state_dict(), dict(cls=EVA02), "are those of SigLIP2: type='SigLIP2'"),
        (lambda: TEXT, dict(cls=SigLIP2), "are those of text tower: give a file with the image tower"),
    ],
    ids=lambda value: value["cls"].__name__ if isinstance(value, dict) else "",
)
def test_files_of_another_family_name_it(file, model, message, tmp_path):
    net = model.pop("cls")(SMALL, img_size=64, pyramid=None, **model)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(net, saved(tmp_path, file()))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("cls", [DINOv3, EVA02, BEiT])
def test_positions_of_their_own_leave_no_room_for_others(cls):
    for kwargs in (dict(rel_pos=True), dict(pos_embed="sincos")):
        with pytest.raises(ValueError, match=f"leave both out, as {cls.__name__} has"):
            cls(SMALL, **kwargs)


# -- frozen


@pytest.mark.parametrize("pyramid", [None, "simple", "taps"])
@pytest.mark.parametrize("cls", SIZE)
def test_a_frozen_trunk_takes_the_memory_of_inference(cls, pyramid):
    """The same peak, and after it nothing but the maps that the pyramid reads."""
    net = cls(dict(SMALL, depth=4), img_size=SIZE[cls], pyramid=pyramid, frozen_stages=4).train()
    x = torch.randn(2, 3, SIZE[cls], SIZE[cls])
    with Allocations() as inference, torch.no_grad():
        net.forward_maps(x, set(net.sources))
    with Allocations() as training:
        maps = net.forward_maps(x, set(net.sources))
    assert training.peak == inference.peak
    assert training.level == sum(m.untyped_storage().nbytes() for m in maps.values())
    assert not any(m.requires_grad for m in maps.values())
    assert net(x)[0].requires_grad == (pyramid is not None)
