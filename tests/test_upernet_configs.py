"""The UPerNet configs for ADE20K: recipes, published sizes, optimiser groups, and short runs on small models."""

import json
import math
from pathlib import Path

import config_models
import cv2
import numpy as np
import pytest
import torch
from config_models import count, gmacs
from conftest import ROOT
from mmengine.config import Config
from tool_runs import verb
from torch import nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

pytestmark = [  # mmseg's warnings about settings of the recipes
    pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False:UserWarning"),
    pytest.mark.filterwarnings("ignore:`reduce_zero_label` will be deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:The draw is False:UserWarning"),
]

CONFIGS = [name.removesuffix("_upernet_ade20k") for name in config_models.names("*_upernet_ade20k")]
REVCOLS = [name for name in CONFIGS if name.startswith("revcol")]
VITS = [name for name in CONFIGS if name not in REVCOLS]


def read(name: str) -> Config:
    return config_models.read(f"{name}_upernet_ade20k")


def build(name: str) -> nn.Module:
    return config_models.build(f"{name}_upernet_ade20k")


# ------------------------------------------------------------------------------------------------------------ recipes
def test_every_config_has_its_row_below():
    (revcols,), (vits,) = (test.pytestmark for test in (test_recipe_is_revcols, test_recipe_is_maes))
    assert sorted(row[0] for row in [*revcols.args[1], *vits.args[1]]) == sorted(CONFIGS)


@pytest.mark.parametrize(
    ("name", "lr", "layer_decay_rate", "crop", "stride", "warm_up", "channels", "batch"),
    [
        ("revcol", 6e-5, 1.0, 512, 341, 1500, 512, 2),
        ("revcol-vit", 6e-5, 1.0, 512, 341, 1500, 512, 2),  # taken over from it
        ("revcol-small", 4e-5, 1.0, 512, 341, 1500, 512, 2),
        ("revcol-base", 4e-5, 1.0, 512, 426, 1500, 512, 2),
        ("revcol-base-22k", 4e-5, 0.9, 640, 426, 1500, 512, 2),
        ("revcol-large", 4e-5, 0.9, 640, 426, 3000, 512, 2),
        ("revcol-huge", 4e-5, 0.9, 640, 426, 3000, 1440, 1),
    ],
)
def test_recipe_is_revcols(name, lr, layer_decay_rate, crop, stride, warm_up, channels, batch):
    cfg = read(name)
    check_recipe(cfg, lr, 0.01, layer_decay_rate, crop, stride, warm_up, channels, batch)
    assert cfg.model.backbone.drop_path_rate == 0.3
    assert cfg.model.backbone.reversible is True


@pytest.mark.parametrize(
    ("name", "backbone", "arch", "drop_path_rate", "layer_decay_rate", "channels"),
    [
        ("vit", "PlainViT", "base", 0.1, 0.65, 768),  # MAE's; the others are taken over from it
        ("deit", "DeiT", "base", 0.1, 0.65, 768),
        ("cait", "CaiT", "s24", 0.1, 0.75, 384),
        ("deepvit", "DeepViT", "s", 0.2, 0.7, 512),
        ("ceit", "CeiT", "small", 0.1, 0.65, 512),
        ("hybrid-vit", "HybridViT", "r50-base", 0.1, 0.65, 768),
        ("beit", "backbones.BEiT", "base", 0.1, 0.65, 768),
        ("dinov2", "backbones.DINOv2", "base", 0.1, 0.65, 768),
    ],
)
def test_recipe_is_maes(name, backbone, arch, drop_path_rate, layer_decay_rate, channels):
    cfg = read(name)
    check_recipe(cfg, 1e-4, 0.05, layer_decay_rate, 512, 341, 1500, channels, 2)
    got = cfg.model.backbone
    assert (got.type, got.arch, got.drop_path_rate) == (backbone, arch, drop_path_rate)


def check_recipe(cfg, lr, weight_decay, layer_decay_rate, crop, stride, warm_up, channels, batch):
    wrapper = cfg.optim_wrapper
    assert (wrapper.type, wrapper.constructor) == ("AmpOptimWrapper", "DenseLayerDecayOptimWrapperConstructor")
    assert wrapper.optimizer == dict(type="AdamW", lr=lr, betas=(0.9, 0.999), weight_decay=weight_decay)
    assert wrapper.paramwise_cfg.layer_decay_rate == layer_decay_rate
    assert (cfg.train_cfg.type, cfg.train_cfg.max_iters) == ("IterBasedTrainLoop", 160_000)
    assert cfg.param_scheduler == [
        dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=warm_up),
        dict(type="PolyLR", power=1.0, begin=warm_up, end=160_000, eta_min=0.0, by_epoch=False),
    ]
    assert (cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size) == (batch, 8 * batch)

    _, zero, resize, cropping, *_ = cfg.train_dataloader.dataset.pipeline
    assert zero == dict(type="LoadAnnotations", reduce_zero_label=True)
    assert (resize.scale, resize.ratio_range) == ((4 * crop, crop), (0.5, 2.0))
    assert (cropping.crop_size, cropping.cat_max_ratio) == ((crop, crop), 0.75)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.pipeline[1] == dict(type="Resize", scale=(4 * crop, crop), keep_ratio=True)
    model = cfg.model
    assert model.data_preprocessor.size == (crop, crop)
    assert model.test_cfg == dict(mode="slide", crop_size=(crop, crop), stride=(stride, stride))

    decode, auxiliary = model.decode_head, model.auxiliary_head
    assert (decode.type, decode.channels, decode.num_classes, decode.norm_cfg.type) == (
        "UPerHead",
        channels,
        150,
        "SyncBN",
    )
    assert (auxiliary.type, auxiliary.in_index, auxiliary.channels, auxiliary.loss_decode.loss_weight) == (
        "FCNHead",
        2,
        256,
        0.4,
    )
    assert cfg.custom_imports.imports == ["backbones"]
    assert model.pretrained is None  # would go to the backbone as an argument


@pytest.mark.parametrize("name", CONFIGS)
def test_copy_that_a_work_dir_gets_is_the_same_config(name, tmp_path):
    read(name).dump(tmp_path / "copy.py")
    assert Config.fromfile(tmp_path / "copy.py").to_dict() == read(name).to_dict()


@pytest.mark.parametrize("name", CONFIGS)
def test_images_are_normalised_as_the_weights_expect(name):
    preprocessor = read(name).model.data_preprocessor
    half = name in ("deepvit", "hybrid-vit", "beit")
    assert preprocessor.mean == ([127.5] * 3 if half else [123.675, 116.28, 103.53])
    assert preprocessor.std == ([127.5] * 3 if half else [58.395, 57.12, 57.375])


# -------------------------------------------------------------------------------------------------------------- sizes
@pytest.mark.parametrize(
    ("name", "millions"), [("revcol", 60), ("revcol-small", 90), ("revcol-base", 168), ("revcol-large", 306)]
)
def test_parameters_are_the_published_ones(name, millions):
    """The readme rounds down. Its 122 M for the base size are less than the backbone alone."""
    assert count(build(name)) // 10**6 == millions


def test_published_parameters_of_the_huge_size_count_3x3_kernels():
    """Before padding, that is: 40 more for every channel of every block."""
    model = build("revcol-huge")
    padding = sum(
        block.dwconv.weight.numel() * 40 // 49
        for column in model.backbone.columns
        for level in column.levels
        for block in level.blocks
    )
    assert (count(model) - padding) // 10**6 == 2421


@pytest.mark.parametrize(("name", "published"), [("revcol", 937), ("revcol-small", 1031), ("revcol-large", 2610)])
def test_flops_are_the_published_ones(name, published):
    """Of a test on images four times as wide as the crop. The readme's 1169 G of the base size miss."""
    model, crop = build(name).eval(), read(name).model.test_cfg.crop_size[0]
    counted = gmacs(lambda image: model.decode_head(model.backbone(image)), crop, 4 * crop)
    assert counted == pytest.approx(published, abs=1)


@pytest.mark.parametrize("name", CONFIGS)
def test_levels_fit_the_heads(name):
    model, crop = build(name).eval(), read(name).model.test_cfg.crop_size[0]
    image = torch.zeros(1, 3, crop, crop, device="meta")
    with torch.no_grad():
        feats = model.backbone(image)
        assert model.decode_head(feats).shape == (1, 150, crop // 4, crop // 4)
        assert model.auxiliary_head(feats).shape == (1, 150, crop // 16, crop // 16)
    assert model.backbone.strides == (4, 8, 16, 32)


@pytest.mark.parametrize("name", VITS)
def test_published_batch_norms_are_frozen_and_new_ones_are_not(name):
    model = build(name).train()
    norms = {key: norm for key, norm in model.backbone.named_modules() if isinstance(norm, _BatchNorm)}
    trained = {key for key, norm in norms.items() if norm.training}
    assert trained == ({"pyramid.fpn1.1"} if name in ("vit", "deit", "cait", "beit", "dinov2") else set())
    assert bool(norms.keys() - trained) == (name in ("deepvit", "ceit"))
    assert all(norm.training for norm in model.decode_head.modules() if isinstance(norm, SyncBatchNorm))
    assert read(name).sync_bn == (None if name in ("deepvit", "ceit") else "torch")


# ---------------------------------------------------------------------------------------------------------- optimiser
def settings(name: str) -> dict[str, tuple[float, float]]:
    return config_models.optimizer_settings(f"{name}_upernet_ade20k")


@pytest.mark.parametrize(
    ("name", "lr", "rate", "depth", "parameters"),
    [
        ("revcol", 6e-5, 1.0, 14, {"backbone.stem.0.weight": 0, "decode_head.conv_seg.weight": 14}),
        ("revcol-large", 4e-5, 0.9, 19, {"backbone.stem.0.weight": 0, "backbone.subnet7.level3.blocks.1.gamma": 18}),
        ("vit", 1e-4, 0.65, 13, {"backbone.pos_embed": 0, "backbone.blocks.11.attn.qkv.weight": 12}),
        ("vit", 1e-4, 0.65, 13, {"backbone.pyramid.fpn1.0.weight": 13, "auxiliary_head.conv_seg.weight": 13}),
    ],
)
def test_learning_rates_decay_by_depth(name, lr, rate, depth, parameters):
    got = settings(name)
    for parameter, own in parameters.items():
        assert got[parameter][0] == pytest.approx(lr * rate ** (depth - own)), parameter


@pytest.mark.parametrize("name", CONFIGS)
def test_weight_decay_spares_flat_parameters_shortcuts_tokens_and_positions(name):
    shapes = {name: p.ndim for name, p in build(name).named_parameters() if p.requires_grad}
    spared = {name for name, (_, decay) in settings(name).items() if decay == 0}
    assert spared == {
        name
        for name, ndim in shapes.items()
        if ndim == 1
        or name.split(".")[1] in ("pos_embed", "cls_token", "dist_token", "register_tokens")
        or ".alpha" in name
        or name.endswith("relative_position_bias_table")
    }


# --------------------------------------------------------------------------------------------------------- short runs
@pytest.fixture(scope="module")
def ade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four noisy images with the first classes and the last one, in ADE20K's layout: masks count from 1."""
    root = tmp_path_factory.mktemp("ade")
    random = np.random.default_rng(0)
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for i in range(4):
            image = random.integers(0, 256, (96, 128, 3), dtype=np.uint8)
            mask = np.full((96, 128), 150, np.uint8)
            mask[:, 10:70] = 1 + i
            cv2.imwrite(str(root / "images" / split / f"{i}.jpg"), image)
            cv2.imwrite(str(root / "annotations" / split / f"{i}.png"), mask)
    return root


SMALL = {  # any of the configs with narrow heads, crops of 64 pixels and two iterations
    "model.data_preprocessor.size": "(64,64)",
    "model.decode_head.channels": 16,
    "model.auxiliary_head.channels": 16,
    "model.test_cfg.crop_size": "(64,64)",
    "model.test_cfg.stride": "(42,42)",
    "train_dataloader.dataset.pipeline.2.scale": "(256,64)",
    "train_dataloader.dataset.pipeline.2.ratio_range": "(1.0,2.0)",  # a crop is never padded
    "train_dataloader.dataset.pipeline.3.crop_size": "(64,64)",
    "val_dataloader.dataset.pipeline.1.scale": "(256,64)",
    **{f"{loop}_dataloader.num_workers": 0 for loop in ("train", "val")},
    **{f"{loop}_dataloader.persistent_workers": False for loop in ("train", "val")},
    "train_cfg.max_iters": 2,
    "train_cfg.val_interval": 2,
    "param_scheduler.0.end": 1,
    "default_hooks.logger.interval": 1,
    "default_hooks.checkpoint.interval": 2,
    "randomness.seed": 0,
}
SMALL_REVCOL = {
    "model.backbone.arch._delete_": True,
    "model.backbone.arch.channels": "8,16,32,64",
    "model.backbone.arch.depths": "1,1,1,1",
    "model.backbone.arch.num_columns": 2,
    "model.decode_head.in_channels": "8,16,32,64",
    "model.auxiliary_head.in_channels": 32,
}
SMALL_VIT = {
    "model.backbone.init_cfg": None,
    "model.backbone.arch._delete_": True,
    "model.backbone.arch.embed_dims": 32,
    "model.backbone.arch.depth": 4,
    "model.backbone.arch.num_heads": 2,
    "model.backbone.taps": "(0,1,2,3)",
    "model.decode_head.in_channels": "32,32,32,32",
    "model.auxiliary_head.in_channels": 32,
}
SIMPLE = {  # the families with another pyramid than BEiT's
    "model.backbone.taps": None,
    "model.decode_head.in_channels": "256,256,256,256",
    "model.auxiliary_head.in_channels": 256,
}
OF_CONFIG = {
    **dict.fromkeys(REVCOLS, SMALL_REVCOL),
    "revcol-vit": {
        "model.backbone.arch._delete_": True,
        "model.backbone.arch.embed_dims": 16,
        "model.backbone.arch.depths": "1,1,1,1",
        "model.backbone.arch.num_heads": 2,
        "model.backbone.arch.num_columns": 2,
    },
    **dict.fromkeys(("vit", "deit", "cait", "beit", "dinov2"), SMALL_VIT),
    "ceit": {**SMALL_VIT, **SIMPLE},
    "deepvit": {
        **SMALL_VIT,
        **SIMPLE,
        "model.backbone.arch.cnn_stem": True,
        "model.backbone.global_blocks": "(1,)",
    },
    "hybrid-vit": {
        **SMALL_VIT,
        "model.backbone.arch.stage_depths": "1,1,1",
        "model.backbone.arch.stage_channels": "128,128,128",
        "model.backbone.arch.stem_channels": 32,
        "model.backbone.taps": "(2,3)",
        "model.decode_head.in_channels": "128,128,32,32",
    },
}


@pytest.mark.parametrize("name", ["revcol", "revcol-huge", "revcol-vit", *VITS])
@pytest.mark.slow
def test_trains_and_evaluates(name, ade, tmp_path):
    names = {"experiment_name": tmp_path.name, "visualizer.name": tmp_path.name}  # mmengine keeps one of each name
    options = [f"{key}={value}" for key, value in {**SMALL, **OF_CONFIG[name], **names}.items()]
    if name == "revcol-huge":
        options.append(
            "train_dataloader.batch_size=2"
        )  # one image would do on several GPUs, where batch norm is theirs
    config = ROOT / "configs" / f"{name}_upernet_ade20k.py"
    verb("train", config, "--data-root", ade, "--work-dir", tmp_path, "--cfg-options", *options)
    (file,) = tmp_path.glob("*/vis_data/scalars.json")
    *training, evaluation = map(json.loads, file.read_text().splitlines())
    assert [record["step"] for record in training] == [1, 2]
    for record in training:
        assert record["decode.loss_ce"] == pytest.approx(math.log(150), rel=0.1)
        assert record["aux.loss_ce"] == pytest.approx(0.4 * math.log(150), rel=0.1)
    assert 0 <= evaluation["mIoU"] <= 100
