"""The plain-ViT configs: recipes, sizes, optimiser groups, and short runs of the tools on small models."""

import json
from pathlib import Path

import pytest
import torch
from config_models import NARROW_HEADS, build, count, names, optimizer_settings, path, read
from tool_runs import verb
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.layers import LayerNorm2d

# pycocotools' arrays on numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

FAMILIES = ("vit", "deit", "cait", "deepvit", "ceit", "hybrid-vit")
SAMPLES = (*FAMILIES, "revcol-vit")
COCO = [name for name in names("*_maskrcnn_coco") if not name.startswith("revcol")]
OWN_POSITIONS = {"dinov2": 14, "dinov3": 14, "siglip2": 16, "eva02": 16, "beit": 14}  # and the windows chosen here
VITDET = {"vit": 91_449_024, "vit-large": 311_237_888, "vit-huge": 641_756_992}  # parameters with pyramid, as published


# ------------------------------------------------------------------------------------------------------------ recipes
@pytest.mark.parametrize(
    ("name", "backbone", "arch", "drop_path_rate", "global_blocks", "layer_decay_rate"),
    [
        # ViTDet's, official
        ("vit", "PlainViT", "base", 0.1, (2, 5, 8, 11), 0.7),
        ("vit-large", "PlainViT", "large", 0.4, (5, 11, 17, 23), 0.8),
        ("vit-huge", "PlainViT", "huge-16", 0.5, (7, 15, 23, 31), 0.9),
        # taken over from it
        ("deit", "DeiT", "base", 0.1, (2, 5, 8, 11), 0.7),
        ("deit-small", "DeiT", "small", 0.1, (2, 5, 8, 11), 0.7),
        ("cait", "CaiT", "s24", 0.1, (5, 11, 17, 23), 0.8),
        ("cait-xxs24", "CaiT", "xxs24", 0.1, (5, 11, 17, 23), 0.8),
        ("deepvit", "DeepViT", "s", 0.2, (2, 5, 8, 10), 0.75),
        ("deepvit-large", "DeepViT", "l", 0.2, (4, 9, 14, 19), 0.9),
        ("ceit", "CeiT", "small", 0.1, (2, 5, 8, 11), 0.7),
        ("hybrid-vit", "HybridViT", "r50-base", 0.1, (2, 5, 8, 11), 0.7),
        ("dinov2", "DINOv2", "base", 0.1, (2, 5, 8, 11), 0.7),
        ("dinov3", "DINOv3", "base", 0.1, (2, 5, 8, 11), 0.7),
        ("siglip2", "SigLIP2", "base", 0.1, (2, 5, 8, 11), 0.7),
        ("eva02", "EVA02", "base-16", 0.1, (2, 5, 8, 11), 0.7),
        ("beit", "BEiT", "base", 0.1, (2, 5, 8, 11), 0.7),
    ],
)
def test_recipe_is_vitdets(name, backbone, arch, drop_path_rate, global_blocks, layer_decay_rate):
    cfg = read(f"{name}_maskrcnn_coco")
    got, wrapper = cfg.model.backbone, cfg.optim_wrapper
    assert (got.type, got.arch, got.drop_path_rate) == (backbone, arch, drop_path_rate)
    rel_pos = None if name in OWN_POSITIONS else 1024
    assert (got.window_size, got.get("rel_pos")) == (OWN_POSITIONS.get(name, 14), rel_pos)
    assert tuple(got.global_blocks) == global_blocks
    assert (wrapper.type, wrapper.paramwise_cfg.layer_decay_rate) == ("AmpOptimWrapper", layer_decay_rate)
    assert wrapper.optimizer == dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1)

    length, milestones = (138281, [122916, 133159]) if name == "vit-huge" else (184375, [163889, 177546])
    warm_up, steps = cfg.param_scheduler
    assert (cfg.train_cfg.type, cfg.train_cfg.max_iters) == ("IterBasedTrainLoop", length)
    assert (warm_up.type, warm_up.start_factor, warm_up.end, warm_up.by_epoch) == ("LinearLR", 0.001, 250, False)
    assert (steps.type, steps.milestones, steps.gamma, steps.by_epoch) == ("MultiStepLR", milestones, 0.1, False)
    assert cfg.auto_scale_lr.base_batch_size == 64

    _, _, resize, crop, *_ = cfg.train_dataloader.dataset.dataset.pipeline
    assert (resize.scale, resize.ratio_range, crop.crop_size) == ((1024, 1024), (0.1, 2.0), (1024, 1024))
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (1024, 1024)
    assert cfg.model.data_preprocessor.pad_size_divisor == 1024


def test_every_coco_config_has_its_row_above():
    (mark,) = test_recipe_is_vitdets.pytestmark
    assert sorted(f"{row[0]}_maskrcnn_coco" for row in mark.args[1]) == COCO


@pytest.mark.parametrize("name", COCO)
def test_images_are_normalised_as_the_weights_expect(name):
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    if name.startswith(("deepvit", "hybrid-vit", "siglip2", "beit")):
        mean = std = [127.5] * 3
    elif name.startswith("eva02"):
        mean, std = [122.7709, 116.7460, 104.0937], [68.5005, 66.6322, 70.3232]
    preprocessor = read(name).model.data_preprocessor
    assert (preprocessor.mean, preprocessor.std) == (mean, std)


@pytest.mark.parametrize("name", COCO)
def test_batch_norms_are_frozen(name):
    model = build(name)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    assert bool(norms) == name.startswith(("deepvit", "ceit"))
    model.train()
    assert not any(norm.training for norm in norms)


# -------------------------------------------------------------------------------------------------------------- sizes
@pytest.mark.parametrize("name", VITDET)
def test_parameters_are_the_published_ones(name):
    backbone = build(f"{name}_maskrcnn_coco").backbone
    unread = backbone.embed_dims  # the official position table keeps the class token's row, which nothing reads
    assert count(backbone) + unread == VITDET[name]


@pytest.mark.parametrize("name", COCO)
def test_five_levels_lie_where_the_anchors_are(name):
    model = build(name).eval()
    with torch.no_grad():
        feats = model.extract_feat(torch.zeros(1, 3, 1024, 1024, device="meta"))
    assert [(f.shape[1], 1024 / f.shape[2], 1024 / f.shape[3]) for f in feats] == [
        (256, *stride) for stride in model.rpn_head.prior_generator.strides
    ]


def test_heads_normalise_channels():
    model = build("vit_maskrcnn_coco")
    convs = [*model.roi_head.bbox_head.shared_convs, *model.roi_head.mask_head.convs]
    assert [(type(conv.norm), conv.norm.eps) for conv in convs] == [(LayerNorm2d, 1e-6)] * 8
    assert [conv.with_norm for conv in model.rpn_head.rpn_conv] == [False, False]


# ---------------------------------------------------------------------------------------------------------- optimiser
def test_learning_rates_and_weight_decay_are_the_official_ones():
    got = optimizer_settings("vit_maskrcnn_coco")
    for name, depth, decay in [
        ("backbone.pos_embed", 0, 0.0),
        ("backbone.patch_embed.proj.weight", 0, 0.1),
        ("backbone.patch_embed.proj.bias", 0, 0.1),
        ("backbone.blocks.0.norm1.weight", 1, 0.0),
        ("backbone.blocks.0.attn.qkv.bias", 1, 0.1),
        ("backbone.blocks.11.norm2.bias", 12, 0.0),
        ("backbone.blocks.11.attn.rel_pos_h", 12, 0.1),
        ("backbone.pyramid.simfp_2.1.weight", 13, 0.1),
        ("roi_head.mask_head.convs.0.ln.weight", 13, 0.1),
        ("rpn_head.rpn_cls.bias", 13, 0.1),
    ]:
        assert got[name] == pytest.approx((1e-4 * 0.7 ** (13 - depth), decay)), name


def test_everything_decays_in_the_largest_model():
    got = optimizer_settings("vit-huge_maskrcnn_coco")
    assert {decay for _, decay in got.values()} == {0.1}
    assert got["backbone.pos_embed"][0] == pytest.approx(1e-4 * 0.9**33)


@pytest.mark.parametrize("name", [name for name in COCO if name != "vit-huge_maskrcnn_coco"])
def test_weight_decay_spares_the_trunks_norms_scales_and_positions(name):
    model, got = build(name), optimizer_settings(name)
    spared = {
        f"backbone.{module}.{parameter}"
        for module, norm in model.backbone.named_modules()
        if isinstance(norm, (nn.LayerNorm, nn.GroupNorm, _BatchNorm)) and not isinstance(norm, LayerNorm2d)
        for parameter in ("weight", "bias")
    }
    spared |= {
        name
        for name in got
        if "gamma_" in name or name.endswith(("backbone.pos_embed", "relative_position_bias_table"))
    }
    assert {name for name, (_, decay) in got.items() if decay == 0} == spared


# --------------------------------------------------------------------------------------------- from scratch, sample set
@pytest.mark.parametrize("family", SAMPLES)
def test_sample_configs_differ_from_revcols_in_the_backbone_only(family):
    ours, revcols = read(f"{family}_maskrcnn_sample").to_dict(), read("revcol_maskrcnn_sample").to_dict()
    for cfg in (ours, revcols):
        del cfg["model"]["backbone"], cfg["model"]["neck"]["in_channels"]
    assert ours == revcols


@pytest.mark.parametrize("family", SAMPLES)
def test_sample_backbones_are_of_about_one_size(family):
    name = f"{family}_maskrcnn_sample"
    backbone = build(name).backbone
    assert count(backbone) == pytest.approx(3.2e6, rel=0.1)
    assert list(backbone.out_channels) == read(name).model.neck.in_channels
    assert backbone.norm_eval is False


# --------------------------------------------------------------------------------------------------------- short runs
SMALL = {  # any of the COCO configs with two narrow blocks, images of 128 pixels and four iterations
    "model.backbone.init_cfg": None,
    "model.backbone.arch._delete_": True,
    "model.backbone.arch.embed_dims": 32,
    "model.backbone.arch.depth": 2,
    "model.backbone.arch.num_heads": 2,
    "model.backbone.global_blocks": "(1,)",
    "model.data_preprocessor.pad_size_divisor": 128,
    **NARROW_HEADS,
    "model.train_cfg.rpn_proposal.max_per_img": 50,
    "model.test_cfg.rpn.max_per_img": 20,
    "model.test_cfg.rcnn.score_thr": 0.0,
    "model.test_cfg.rcnn.max_per_img": 5,
    "train_dataloader.dataset.dataset.pipeline.2.scale": "(128,128)",
    "train_dataloader.dataset.dataset.pipeline.3.crop_size": "(128,128)",
    "val_dataloader.dataset.pipeline.1.scale": "(128,128)",
    "train_dataloader.batch_size": 2,
    "train_dataloader.dataset.dataset.indices": 8,
    "val_dataloader.dataset.indices": 2,
    **{f"{loop}_dataloader.num_workers": 0 for loop in ("train", "val")},
    **{f"{loop}_dataloader.persistent_workers": False for loop in ("train", "val")},
    "train_cfg.max_iters": 4,
    "train_cfg.val_interval": 4,
    "param_scheduler.0.end": 2,
    "default_hooks.checkpoint.interval": 2,
    "default_hooks.logger.interval": 1,
    "randomness.seed": 0,
}
PYRAMID = {"model.backbone.pyramid.out_channels": 16}
OF_FAMILY = {
    "vit": PYRAMID,
    "deit": PYRAMID,
    "cait": PYRAMID,
    "deepvit": {**PYRAMID, "model.backbone.arch.cnn_stem": True},
    "ceit": PYRAMID,
    "hybrid-vit": {
        "model.backbone.arch.stage_depths": "1,1,1",
        "model.backbone.arch.stage_channels": "128,128,128",
        "model.backbone.arch.stem_channels": 32,
        "model.neck.in_channels": "128,128,32,32",
        "model.neck.out_channels": 16,
    },
}


def train(family: str, work_dir: Path, *arguments) -> tuple[dict[int, float], dict[str, float]]:
    """Trains in this process; returns {iteration: loss} and the metrics of the evaluation at the end."""
    own = {"experiment_name": work_dir.name, "visualizer.name": work_dir.name}  # mmengine keeps one of each name
    options = [f"{key}={value}" for key, value in {**SMALL, **OF_FAMILY[family], **own}.items()]
    config = path(f"{family}_maskrcnn_coco")
    verb("train", config, *arguments, "--work-dir", work_dir, "--cfg-options", *options)
    (file,) = work_dir.glob("*/vis_data/scalars.json")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    losses = {record["step"]: record["loss"] for record in records if "loss" in record}
    return losses, {name: value for name, value in records[-1].items() if name.startswith("coco/")}


@pytest.mark.parametrize(
    "family", [*FAMILIES[::2], *(pytest.param(family, marks=pytest.mark.long) for family in FAMILIES[1::2])]
)
@pytest.mark.slow
def test_trains_evaluates_and_resumes(family, data, tmp_path):
    whole, resumed = tmp_path / f"{family}-whole", tmp_path / f"{family}-resumed"
    losses, metrics = train(family, whole, "--data-root", data)
    assert list(losses) == [1, 2, 3, 4]
    assert 0 <= metrics["coco/bbox_mAP"] <= 1
    assert 0 <= metrics["coco/segm_mAP"] <= 1
    continued = train(family, resumed, "--data-root", data, "--resume", whole / "iter_2.pth")
    assert continued == ({step: losses[step] for step in (3, 4)}, metrics)
