"""Published files of the plain-ViT family: JAX, timm, MAE, DeiT, CaiT and detectron2, read as they are."""

import pickle
from functools import partial

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.layers import StdConv2dSame, resample_abs_pos_embed
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer_hybrid import HybridEmbed

from backbones import CaiT, CeiT, DeepViT, DeiT, HybridViT, PlainViT
from backbones.checkpoints import CheckpointError, load_pretrained
from backbones.layers.pos_embed import resize_pos_embed

C, HEADS = 16, 2
ARCH = dict(embed_dims=C, depth=2, num_heads=HEADS)
STAGES = dict(stage_depths=(1, 2, 1), stage_channels=(128, 256, 384))
WINDOWS = dict(window_size=2, global_blocks=(1,))


def vit(cls=PlainViT, arch=ARCH, img_size=64, pyramid=None, **kwargs):
    return cls(arch, img_size=img_size, pyramid=pyramid, **kwargs).eval()


def official(name, img_size=64, **kwargs):
    """A small timm model with random weights: 4 x 4 patches, 3 classes."""
    small = dict(embed_dim=C, depth=2, num_heads=HEADS, img_size=img_size, num_classes=3)
    net = timm.create_model(name, **{**small, **kwargs}).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.5)
    return net


def saved(tmp_path, weights, wrapper=None):
    torch.save({wrapper: weights} if wrapper else weights, tmp_path / "file.pth")
    return tmp_path / "file.pth"


def assert_loaded(net, weights, **changed):
    """Every name of ``net`` has the file's value, or the one in ``changed``."""
    for name, value in net.state_dict().items():
        assert torch.equal(value, changed.get(name, weights.get(name))), name


def assert_refused(net, path, message):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(net, path)
    assert_loaded(net, before)


# -- JAX


def jax_block(path, numbers):
    """Shapes of an encoder block; ``numbers``: of the attention, the second norm and the MLP."""
    attention, norm, mlp = numbers
    shapes = {f"{path}/LayerNorm_{n}/{leaf}": (C,) for n in (0, norm) for leaf in ("scale", "bias")}
    attention, mlp = f"{path}/MultiHeadDotProductAttention_{attention}", f"{path}/MlpBlock_{mlp}"
    for part in ("query", "key", "value"):
        shapes |= {
            f"{attention}/{part}/kernel": (C, HEADS, C // HEADS),
            f"{attention}/{part}/bias": (HEADS, C // HEADS),
        }
    shapes |= {f"{attention}/out/kernel": (HEADS, C // HEADS, C), f"{attention}/out/bias": (C,)}
    shapes |= {f"{mlp}/Dense_0/kernel": (C, 4 * C), f"{mlp}/Dense_0/bias": (4 * C,)}
    return shapes | {f"{mlp}/Dense_1/kernel": (4 * C, C), f"{mlp}/Dense_1/bias": (C,)}


def jax_file(path, prefix, numbers, kernel, positions, **more):
    shapes = {"embedding/kernel": kernel, "embedding/bias": (C,), "cls": (1, 1, C), **positions, **more}
    shapes |= {"Transformer/encoder_norm/scale": (C,), "Transformer/encoder_norm/bias": (C,)}
    for i in range(2):
        shapes |= jax_block(f"Transformer/encoderblock_{i}", numbers)
    shapes |= {"head/kernel": (C, 3), "head/bias": (3,)}
    random = np.random.default_rng(0)
    np.savez(path, **{prefix + key: random.standard_normal(shape, np.float32) for key, shape in shapes.items()})
    return path


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_original_jax_weights_convert_as_in_timm(tmp_path, prefix):
    positions = {"Transformer/posembed_input/pos_embedding": (1, 17, C)}
    pre_logits = {"pre_logits/kernel": (C, C), "pre_logits/bias": (C,)}
    path = jax_file(tmp_path / "vit.npz", prefix, (1, 2, 3), (16, 16, 3, C), positions, **pre_logits)
    theirs, ours = official("vit_tiny_patch16_224"), vit()
    theirs.load_pretrained(path)
    report = load_pretrained(ours, path)
    assert_loaded(ours, theirs.state_dict())
    assert report.complete
    assert report.prefix == prefix
    skipped = ["pre_logits.fc.weight", "pre_logits.fc.bias", "norm.weight", "norm.bias", "head.weight", "head.bias"]
    assert report.skipped == [prefix + name for name in skipped]
    assert report.adapted == ["JAX names and layouts converted to PyTorch's"]


def test_big_vision_weights_convert_as_in_timm(tmp_path):
    path = jax_file(tmp_path / "vit.npz", "params/", (0, 1, 0), (16, 16, 3, C), {"pos_embedding": (1, 16, C)})
    theirs, ours = official("vit_tiny_patch16_224", no_embed_class=True), vit()
    theirs.load_pretrained(path)
    report = load_pretrained(ours, path)
    table = torch.cat([torch.zeros(1, 1, C), theirs.pos_embed], dim=1)
    assert_loaded(ours, theirs.state_dict(), pos_embed=table)
    assert report.complete
    assert report.adapted[1:] == ["pos_embed got rows of zeros in front, for cls_token"]


@pytest.mark.parametrize("norm_shape", [(), (1, 1, 1)], ids=["vectors", "maps"])
def test_jax_hybrids_convert_as_in_timm(tmp_path, norm_shape):
    shapes, width = {}, 64
    stages = zip(STAGES["stage_depths"], STAGES["stage_channels"], strict=True)
    shapes |= {"conv_root/kernel": (7, 7, 3, width), "gn_root/scale": (*norm_shape, width), "gn_root/bias": (width,)}
    for s, (depth, channels) in enumerate(stages, start=1):
        for j in range(1, depth + 1):
            inner = channels // 4
            convs = {"1": (1, 1, width, inner), "2": (3, 3, inner, inner), "3": (1, 1, inner, channels)}
            if j == 1:
                convs["_proj"] = (1, 1, width, channels)
            for name, shape in convs.items():
                shapes[f"block{s}/unit{j}/conv{name}/kernel"] = shape
                shapes[f"block{s}/unit{j}/gn{name}/scale"] = (*norm_shape, shape[-1])
                shapes[f"block{s}/unit{j}/gn{name}/bias"] = (*norm_shape, shape[-1])
            width = channels
    positions = {"Transformer/posembed_input/pos_embedding": (1, 17, C)}
    path = jax_file(tmp_path / "r50.npz", "", (1, 2, 3), (1, 1, width, C), positions, **shapes)
    resnet = ResNetV2(
        STAGES["stage_depths"],
        STAGES["stage_channels"],
        num_classes=0,
        global_pool="",
        preact=False,
        stem_type="same",
        conv_layer=partial(StdConv2dSame, eps=1e-8),
    )
    theirs = official("vit_tiny_patch16_224", patch_size=1, embed_layer=partial(HybridEmbed, backbone=resnet))
    theirs.load_pretrained(path)
    ours = vit(HybridViT, {**ARCH, **STAGES})
    report = load_pretrained(ours, path)
    assert_loaded(ours, theirs.state_dict())
    assert report.complete


# -- other files


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_detectron2_pickle_of_vitdet_is_read_whole(fixtures, tmp_path, protocol):
    weights = torch.load(fixtures / "vitdet.pt", weights_only=True)["state_dict"]
    arrays = {f"backbone.{name}": value.numpy() for name, value in weights.items()}
    arrays["roi_heads.box_head.fc1.bias"] = np.zeros(3, np.float32)
    content = {"model": arrays, "__author__": "someone", "matching_heuristics": True}
    (tmp_path / "vitdet.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    net = PlainViT(
        dict(embed_dims=64, depth=4, num_heads=4),
        img_size=64,
        window_size=3,
        global_blocks=(1, 3),
        rel_pos=128,
        pyramid=dict(type="SimpleFeaturePyramid", out_channels=32),
    )
    report = load_pretrained(net, tmp_path / "vitdet.pkl")
    official_names = {name: name.replace("pyramid.", "") for name in net.state_dict()}
    ours = {name: weights.get(theirs, weights.get(f"net.{theirs}")) for name, theirs in official_names.items()}
    assert_loaded(net, ours, pos_embed=weights["net.pos_embed"][:, 1:])
    assert report.complete
    assert (report.wrapper, report.prefix) == ("model", "backbone.")
    assert report.skipped == ["roi_heads.box_head.fc1.bias"]
    assert report.adapted == ["this model has no prefix tokens: 1 of 17 rows of pos_embed dropped"]


def test_beits_pyramid_is_found(tmp_path):
    source = vit(arch={**ARCH, "depth": 4}, pyramid="taps")
    weights = {f"backbone.{name.removeprefix('pyramid.')}": value for name, value in source.state_dict().items()}
    assert "backbone.fpn1.0.weight" in weights
    net = vit(arch={**ARCH, "depth": 4}, pyramid="taps")
    assert load_pretrained(net, saved(tmp_path, weights, "state_dict")).complete
    assert_loaded(net, source.state_dict())


def test_timms_safetensors_with_layer_scale_compute_the_same(tmp_path):
    """DeiT-III: positions are added before the class token is put in front; names of timm."""
    theirs, ours = official("deit3_small_patch16_224"), vit(layer_scale_init_value=1e-6, taps=(0, 1))
    save_file(theirs.state_dict(), tmp_path / "deit3.safetensors")
    report = load_pretrained(ours, tmp_path / "deit3.safetensors")
    assert report.complete
    assert sorted(report.skipped) == ["head.bias", "head.weight", "norm.bias", "norm.weight"]
    assert report.adapted == ["pos_embed got rows of zeros in front, for cls_token"]
    assert torch.equal(ours.blocks[1].gamma_2, theirs.blocks[1].ls2.gamma)
    x = torch.randn(1, 3, 64, 64)
    for a, b in zip(ours(x), theirs.forward_intermediates(x, intermediates_only=True), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * b.abs().max().item())


def test_mae_pretraining_is_read_without_its_decoder(fixtures, tmp_path):
    weights = torch.load(fixtures / "mae.pt", weights_only=True)["state_dict"]
    net = PlainViT(dict(embed_dims=48, depth=3, num_heads=4), img_size=64, pyramid=None, pos_embed="sincos")
    report = load_pretrained(net, saved(tmp_path, weights, "model"))
    assert_loaded(net, weights)
    assert report.complete
    assert not report.adapted
    assert {name.split(".")[0] for name in report.skipped} == {
        *("mask_token", "norm", "decoder_pos_embed", "decoder_embed", "decoder_blocks", "decoder_norm", "decoder_pred")
    }


def test_mae_fine_tuned_has_another_norm(tmp_path):
    theirs, net = official("vit_tiny_patch16_224", global_pool="avg"), vit()
    report = load_pretrained(net, saved(tmp_path, theirs.state_dict(), "model"))
    assert_loaded(net, theirs.state_dict())
    assert report.complete
    assert report.skipped == ["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"]


def test_windows_have_no_use_for_tokens(tmp_path):
    theirs = official("deit_tiny_distilled_patch16_224")
    for cls in (PlainViT, DeiT):
        net = vit(cls, **WINDOWS)
        report = load_pretrained(net, saved(tmp_path, theirs.state_dict(), "model"))
        assert_loaded(net, theirs.state_dict(), pos_embed=theirs.pos_embed[:, 2:])
        assert report.complete
        assert report.skipped[:2] == ["cls_token", "dist_token"]
        assert report.adapted == [
            "this model has no prefix tokens: cls_token, dist_token, 2 of 18 rows of pos_embed dropped"
        ]
        assert f"  adapted: {report.adapted[0]}" in str(report)


def test_class_tokens_without_a_row_are_dropped_too(tmp_path):
    theirs, net = official("deit3_small_patch16_224"), vit(layer_scale_init_value=1e-6, **WINDOWS)
    report = load_pretrained(net, saved(tmp_path, theirs.state_dict(), "model"))
    assert torch.equal(net.pos_embed, theirs.pos_embed)
    assert report.complete
    assert report.adapted == ["this model has no prefix tokens: cls_token dropped"]


def test_distilled_files_belong_to_deit(tmp_path):
    theirs, net = official("deit_tiny_distilled_patch16_224"), vit(DeiT)
    path = saved(tmp_path, theirs.state_dict(), "model")
    report = load_pretrained(net, path)
    assert_loaded(net, theirs.state_dict())
    assert report.complete
    assert not report.adapted
    assert_refused(vit(), path, r"2 rows .*\(cls_token, dist_token\) and PlainViT has 1 \(cls_token\).* belong to DeiT")


def test_files_without_distillation_belong_to_plain_vit(tmp_path):
    path = saved(tmp_path, official("deit_tiny_patch16_224").state_dict(), "model")
    assert_refused(vit(DeiT), path, r"1 rows .*\(cls_token\) and DeiT has 2 \(cls_token, dist_token\).* to PlainViT")


def test_cait_is_read_without_class_attention(tmp_path):
    theirs, net = official("cait_xxs24_224"), vit(CaiT)
    weights = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    report = load_pretrained(net, saved(tmp_path, weights, "model"))
    assert_loaded(net, theirs.state_dict())
    assert report.complete
    assert not report.adapted
    assert (report.wrapper, report.prefix) == ("model", "module.")
    assert {name.split(".")[1] for name in report.skipped} == {"cls_token", "blocks_token_only", "norm", "head"}


@pytest.mark.parametrize(
    ("name", "cls", "arch", "wrapper", "prefix"),
    [
        ("vit", PlainViT, dict(depth=4, num_heads=4), None, ""),
        ("deit_distilled", DeiT, dict(depth=3, num_heads=4), "model", ""),
        ("cait_official", CaiT, dict(depth=3, num_heads=4), "model", "module."),
        ("deepvit_plain", DeepViT, dict(depth=2, num_heads=4), "state_dict", ""),
        ("deepvit", DeepViT, dict(depth=3, num_heads=4, apply_transform=(0, 1, 1), cnn_stem=True), None, "module."),
        ("ceit", CeiT, dict(depth=3, num_heads=3), "model", ""),
        ("hybrid", HybridViT, dict(depth=3, num_heads=4, **{**STAGES, "stage_depths": (1, 2, 2)}), None, ""),
    ],
)
def test_official_names_are_all_known(fixtures, tmp_path, name, cls, arch, wrapper, prefix):
    weights = torch.load(fixtures / f"{name}.pt", weights_only=True)["state_dict"]
    net = vit(cls, dict(embed_dims=48, **arch))
    path = saved(tmp_path, {prefix + key: value for key, value in weights.items()}, wrapper)
    report = load_pretrained(net, path)
    assert_loaded(net, weights)
    assert report.complete
    assert not report.adapted
    assert report.skipped == [prefix + key for key in weights if key not in net.state_dict()]


# -- tables of positions


@pytest.mark.parametrize(("img_size", "grid"), [(96, (6, 6)), ((48, 128), (3, 8))])
@pytest.mark.parametrize("windows", [{}, WINDOWS], ids=["class token", "windows"])
def test_tables_of_other_grids_are_resized_by_deits_rule(tmp_path, img_size, grid, windows):
    theirs, net = official("vit_tiny_patch16_224"), vit(img_size=img_size, **windows)
    report = load_pretrained(net, saved(tmp_path, theirs.state_dict()))
    expected = resample_abs_pos_embed(theirs.pos_embed.data, list(grid), antialias=False)
    assert_loaded(net, theirs.state_dict(), pos_embed=expected[:, 1 - net.num_prefix :])
    assert report.adapted[-1] == (
        f"pos_embed was resized from 4 x 4 to {grid[0]} x {grid[1]}; img_size=64 keeps it as it is"
    )


def test_tables_of_images_that_are_not_square_need_their_size(tmp_path):
    theirs = official("vit_tiny_patch16_224", img_size=(32, 96))
    path = saved(tmp_path, theirs.state_dict())
    net = vit(img_size=(32, 96))
    assert not load_pretrained(net, path).adapted
    assert_loaded(net, theirs.state_dict())
    assert_refused(vit(), path, r"table of 13 rows cannot be factored into a square grid.*img_size=\(H, W\)")


def test_a_table_with_two_readings_is_pointed_out(tmp_path):
    theirs, net = official("vit_tiny_patch16_224"), vit(img_size=(32, 128))
    report = load_pretrained(net, saved(tmp_path, theirs.state_dict()))
    assert_loaded(net, theirs.state_dict())
    assert report.adapted == ["pos_embed was taken for 2 x 8; if it is for 4 x 4, pass img_size=64"]


def test_resizing_keeps_prefix_rows_and_the_dtype():
    table = torch.randn(1, 2 + 3 * 5, 8)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        given = table.to(dtype)
        resized = resize_pos_embed(given, 2, (3, 5), (4, 7))
        wide = torch.promote_types(dtype, torch.float32)
        places = given[:, 2:].to(wide).reshape(1, 3, 5, 8).permute(0, 3, 1, 2)
        places = F.interpolate(places, (4, 7), mode="bicubic", align_corners=False)
        assert resized.dtype == dtype
        assert torch.equal(resized[:, :2], given[:, :2])
        assert torch.equal(resized[:, 2:], places.permute(0, 2, 3, 1).reshape(1, 28, 8).to(dtype))
    assert resize_pos_embed(table, 2, (3, 5), (3, 5)) is table


# -- files that cannot fit


def test_other_patches_are_refused(tmp_path):
    path = saved(tmp_path, official("vit_tiny_patch16_224", patch_size=8).state_dict())
    assert_refused(vit(), path, r"kernel of 8 x 8 in the file and of 16 x 16 in the model; .*patch_size=8$")
    path = saved(tmp_path, vit(CeiT, {**ARCH, "patch_size": 32}).state_dict())
    assert_refused(vit(CeiT), path, r"kernel of 8 x 8 in the file and of 4 x 4 in the model; .*patch_size=32$")


def test_layer_scale_is_not_left_out(tmp_path):
    path = saved(tmp_path, official("deit3_small_patch16_224").state_dict())
    assert_refused(vit(), path, "LayerScale.*pass layer_scale_init_value=1e-6")


def test_relative_positions_are_neither_left_out_nor_cut(tmp_path):
    deep = {**ARCH, "depth": 4}
    source = vit(arch=deep, window_size=2, global_blocks=(1, 3), rel_pos=128)
    path = saved(tmp_path, source.state_dict())
    theirs = "2 x 2 in blocks 0, 2; 8 x 8 in blocks 1, 3"
    advice = r"Pass window_size=2, global_blocks=\(1, 3\), rel_pos=128"
    assert_refused(vit(arch=deep), path, f"the file has tables for {theirs}; the model for none. {advice}")
    other = dict(arch=deep, window_size=2, global_blocks=(1, 3))
    message = f"{theirs}; the model for 2 x 2 in blocks 0, 2; 4 x 4 in blocks 1, 3. {advice}"
    assert_refused(vit(**other, rel_pos=64), path, message)
    everywhere = saved(tmp_path, vit(rel_pos=(32, 128)).state_dict())
    assert_refused(vit(), everywhere, r"2 x 8 in blocks 0, 1; the model for none. Pass rel_pos=\(32, 128\)")


def test_relative_positions_that_a_file_lacks_stay_zero(tmp_path):
    theirs, net = official("vit_tiny_patch16_224"), vit(**WINDOWS, rel_pos=128)
    report = load_pretrained(net, saved(tmp_path, theirs.state_dict()))
    assert report.missing == [name for name in net.state_dict() if "rel_pos" in name]
    zeros = {name: torch.zeros_like(net.state_dict()[name]) for name in report.missing}
    assert_loaded(net, {**theirs.state_dict(), **zeros}, pos_embed=theirs.pos_embed[:, 1:])


# -- weights of another network


def dino(version: int) -> dict[str, torch.Tensor]:
    """A file with the key names of DINOv2 with registers, or of DINOv3, over the blocks of a small ViT."""
    weights = vit(layer_scale_init_value=1e-6).state_dict()
    weights["mask_token"] = torch.zeros(1, 1, C)
    if version == 2:
        return weights | {"register_tokens": torch.zeros(1, 4, C)}
    del weights["pos_embed"]
    return weights | {"storage_tokens": torch.zeros(1, 4, C), "rope_embed.periods": torch.zeros(4)}


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (2, r"Missing in the file, 0: none\. Without a place in the model, 1: register_tokens"),
        (3, r"Missing in the file, 1: pos_embed\. Without a place .*, 2: storage_tokens, rope_embed\.periods"),
    ],
)
def test_transformers_with_other_tokens_or_positions_are_refused(tmp_path, version, message):
    net = vit(layer_scale_init_value=1e-6)
    path = saved(tmp_path, dino(version))
    assert_refused(net, path, message)
    assert not load_pretrained(net, path, strict=False).complete


def test_new_pyramid_and_relative_positions_are_no_error(tmp_path):
    """ViTDet's start from MAE's weights."""
    net = vit(pyramid="simple", rel_pos=True, **WINDOWS)
    report = load_pretrained(net, saved(tmp_path, vit().state_dict()))
    assert {name.split(".")[0] for name in report.missing if "rel_pos" not in name} == {"pyramid"}
    assert sum("rel_pos" in name for name in report.missing) == 4
