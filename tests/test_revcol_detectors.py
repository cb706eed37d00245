"""DINO with RevCol-H and RTMDet with the narrow preset: sizes, recipes, and short runs of the tools."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from config_models import build, build_on_meta, count, gmacs, optimizer_settings, path, read
from mmdet.datasets import Objects365V2Dataset
from mmengine.config import Config
from tool_runs import MULTISCALE, losses, run
from torch import nn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`torch.cuda.amp.autocast:FutureWarning"),  # mmdet 3.3 on PyTorch 2.4
    pytest.mark.filterwarnings("ignore:The arguments `dropout` in MultiheadAttention:DeprecationWarning"),
]

OBJECTS365, COCO, RTMDET = "revcol-huge_dino_objects365", "revcol-huge_dino_coco", "revcol_rtmdet_coco"
RTMDET_S = "mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py"


def read_stock(name: str, tmp: Path) -> Config:
    (tmp / "stock.py").write_text(f'_base_ = "{name}"')
    return Config.fromfile(tmp / "stock.py")


# --------------------------------------------------------------------------------------------------------------- DINO
def test_dino_has_the_backbone_of_the_classifier_and_differs_between_the_stages_in_the_classes_only():
    first, second = build(OBJECTS365), build(COCO)
    assert count(first.backbone) == count(second.backbone) == 2_154_713_400  # as published
    # OneDL's decoder embeds reference boxes in 1024 channels, upstream's in 512: 256 * 512 weights of ref_point_head
    counts = {1024: (2_182_303_183, 2_181_717_508), 512: (2_182_172_111, 2_181_586_436)}
    embedded = first.decoder.ref_point_head.layers[0].in_features
    assert (count(first), count(second)) == counts[embedded]
    # six decoder layers and the encoder's output have a classifier with bias; the labels' embedding has none
    assert count(first) - count(second) == (365 - 80) * (7 * (256 + 1) + 256)


@pytest.mark.parametrize("name", [OBJECTS365, COCO])
def test_dino_sees_five_levels_of_exactly_halved_size(name):
    model = build(name)
    assert [conv.conv.in_channels for conv in model.neck.convs] == list(model.backbone.out_channels)
    assert model.backbone.out_channels == (360, 720, 1440, 2880)
    with torch.no_grad():
        feats = model.extract_feat(torch.zeros(1, 3, 640, 1024, device="meta"))
    assert [(f.shape[1], 640 / f.shape[2], 1024 / f.shape[3]) for f in feats] == [
        (256, stride, stride) for stride in (4, 8, 16, 32, 64)
    ]
    assert read(name).model.data_preprocessor.pad_size_divisor == 32
    layers = [*(l.self_attn for l in model.encoder.layers), *(l.cross_attn for l in model.decoder.layers)]
    assert [layer.num_levels for layer in layers] == [5] * 12


@pytest.mark.parametrize(("name", "epochs", "decay_at", "batch"), [(OBJECTS365, 26, 22, 64), (COCO, 18, 15, 16)])
def test_dino_recipe(name, epochs, decay_at, batch):
    cfg = read(name)
    backbone, wrapper = cfg.model.backbone, cfg.optim_wrapper
    assert (backbone.type, backbone.arch, backbone.drop_path_rate, backbone.reversible) == ("RevCol", "huge", 0.3, True)
    assert (wrapper.type, wrapper.optimizer) == ("AmpOptimWrapper", dict(type="AdamW", lr=1e-4, weight_decay=1e-4))
    assert wrapper.clip_grad == dict(max_norm=0.1, norm_type=2)
    assert cfg.train_cfg.max_epochs == epochs
    (steps,) = cfg.param_scheduler
    assert (steps.end, steps.milestones) == (epochs, [decay_at])
    assert (cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size) == (1, batch)
    assert (cfg.model.num_queries, cfg.model.bbox_head.loss_cls.type) == (900, "FocalLoss")


def test_dino_learning_rates_fall_with_depth_in_the_backbone():
    got = optimizer_settings(OBJECTS365)
    for name, depth, decay in [
        ("backbone.stem.0.weight", 0, 1e-4),
        ("backbone.subnet7.level3.blocks.1.pwconv1.weight", 18, 1e-4),
        ("backbone.subnet0.alpha0", 1, 0.0),
        ("neck.convs.0.conv.weight", 19, 1e-4),
        ("bbox_head.cls_branches.0.weight", 19, 1e-4),
    ]:
        assert got[name] == pytest.approx((1e-4 * 0.9 ** (19 - depth), decay)), name


def test_dino_starts_from_the_authors_weights_and_goes_on_from_the_first_stages_last_epoch():
    first, second = read(OBJECTS365), read(COCO)
    assert first.model.backbone.init_cfg.checkpoint.endswith("/classification/revcol_huge_megdata.pth")
    assert first.load_from is None
    assert second.model.backbone.init_cfg is None
    assert second.load_from == f"work_dirs/{OBJECTS365}/epoch_{first.train_cfg.max_epochs}.pth"


def test_dino_data_sets():
    first, second = read(OBJECTS365), read(COCO)
    classes = Objects365V2Dataset.METAINFO["classes"]
    for cfg, kind, number in [(first, "Objects365V2Dataset", len(classes)), (second, "CocoDataset", 80)]:
        assert cfg.model.bbox_head.num_classes == number
        for loop in ("train", "val", "test"):
            assert cfg[f"{loop}_dataloader"].dataset.type == kind
        for loop in ("val", "test"):
            dataset = cfg[f"{loop}_dataloader"].dataset
            assert cfg[f"{loop}_evaluator"].ann_file == dataset.data_root + dataset.ann_file
    assert len(classes) == 365
    assert first.train_dataloader.dataset.ann_file == "annotations/zhiyuan_objv2_train.json"
    assert second.train_dataloader.dataset.data_prefix.img == "train2017/"


def test_dino_images_of_the_second_stage_are_one_and_a_half_times_as_large():
    def sizes(name: str) -> list:
        cfg = read(name)
        (resize,), (enlarge, crop, resize_crop) = cfg.train_dataloader.dataset.pipeline[3].transforms
        test_scale = cfg.test_dataloader.dataset.pipeline[1].scale
        return [resize.scales, enlarge.scales, [crop.crop_size], resize_crop.scales, [test_scale]]

    for small, large in zip(sizes(OBJECTS365), sizes(COCO), strict=True):
        assert np.array(large) == pytest.approx(1.5 * np.array(small), abs=0.5)  # 2000 for 1.5 * 1333


# ------------------------------------------------------------------------------------------------------------- RTMDet
def test_rtmdet_sizes_are_those_its_config_states(tmp_path):
    ours, stock = build(RTMDET), build_on_meta(read_stock(RTMDET_S, tmp_path).model, "mmdet")
    assert count(ours.backbone) == 4_181_440
    table = path(RTMDET).read_text()
    for model, backbone, detector in [
        (ours, r"RevCol, nano +{} M +{} +{} ", r"the whole detector +{} M +{} "),
        (stock, r"CSPNeXt-s it replaces: {} M, {}, {}\)", r"RTMDet-s: {} M, {}\)"),
    ]:
        small, large = (gmacs(model.backbone, size, size) for size in (224, 640))
        counts = count(model.backbone) / 1e6, small, large
        assert re.search(backbone.format(*(f"{n:.2f}" for n in counts)), table), counts
        counts = count(model) / 1e6, gmacs(model._forward, 640, 640)
        assert re.search(detector.format(*(f"{n:.2f}" for n in counts)), table), counts


def test_rtmdet_levels_lie_where_the_points_are():
    model = build(RTMDET)
    assert (model.backbone.out_channels, model.backbone.strides) == ((64, 128, 256), (8, 16, 32))
    with torch.no_grad():
        feats = model.extract_feat(torch.zeros(1, 3, 640, 640, device="meta"))
    assert [(f.shape[1], 640 / f.shape[2], 640 / f.shape[3]) for f in feats] == [
        (128, *stride) for stride in model.bbox_head.prior_generator.strides
    ]


def test_rtmdet_recipe_is_the_stock_one(tmp_path):
    ours, stock = read(RTMDET).to_dict(), read_stock(RTMDET_S, tmp_path).to_dict()
    preprocessor = ours["model"].pop("data_preprocessor")
    assert preprocessor["mean"] == stock["model"].pop("data_preprocessor")["mean"][::-1] == [123.675, 116.28, 103.53]
    assert (preprocessor["std"], preprocessor["bgr_to_rgb"]) == ([58.395, 57.12, 57.375], True)
    assert ours["optim_wrapper"]["paramwise_cfg"].pop("custom_keys")
    for cfg in (ours, stock):
        cfg.pop("custom_imports", None)
        del cfg["checkpoint"], cfg["model"]["backbone"], cfg["model"]["neck"]["in_channels"]
    assert ours == stock


def test_rtmdet_weight_decay_spares_scales_norms_and_biases():
    got = optimizer_settings(RTMDET)
    assert {rate for rate, _ in got.values()} == {0.004}
    spared = {name for name, (_, decay) in got.items() if decay == 0}
    model = build(RTMDET)
    modules = dict(model.named_modules())
    norms = (nn.LayerNorm, nn.modules.batchnorm._BatchNorm)
    assert spared == {
        name
        for name in got
        if name.endswith(".bias")
        or name.rpartition(".")[2].startswith(("alpha", "gamma"))
        or isinstance(modules[name.rpartition(".")[0]], norms)
    }
    assert {decay for _, decay in got.values()} == {0, 0.05}


# --------------------------------------------------------------------------------------------------------- short runs
LOADERS = {
    "train_dataloader.batch_size": 2,
    "train_dataloader.dataset.indices": 8,
    "val_dataloader.dataset.indices": 2,
    "test_dataloader.dataset.indices": 2,
    **{f"{loop}_dataloader.num_workers": 0 for loop in ("train", "val", "test")},
    **{f"{loop}_dataloader.persistent_workers": False for loop in ("train", "val", "test")},
    "train_cfg.val_interval": 1,
    "default_hooks.logger.interval": 1,
    "randomness.seed": 0,
}
SMALL_DINO = {  # either stage with two narrow columns, few queries, tiny images and one epoch of four iterations
    **LOADERS,
    "model.backbone.init_cfg": None,
    "model.backbone.arch._delete_": True,
    "model.backbone.arch.channels": "8,16,32,64",
    "model.backbone.arch.depths": "1,1,1,1",
    "model.backbone.arch.num_columns": 2,
    "model.backbone.arch.top_link": True,
    "model.neck.in_channels": "8,16,32,64",
    "model.encoder.num_layers": 1,
    "model.decoder.num_layers": 2,
    "model.num_queries": 30,
    "model.dn_cfg.group_cfg.num_dn_queries": 10,
    "model.test_cfg.max_per_img": 10,
    **MULTISCALE,
    "val_dataloader.dataset.pipeline.1.scale": "(96,96)",
    "test_dataloader.dataset.pipeline.1.scale": "(96,96)",
    "train_cfg.max_epochs": 1,
}
SMALL_RTMDET = {  # the preset as it is, at a fifth of the size; the second epoch uses the pipeline without mosaic
    **LOADERS,
    "train_dataloader.dataset.pipeline.2.img_scale": "(128,128)",
    "train_dataloader.dataset.pipeline.3.scale": "(256,256)",
    "train_dataloader.dataset.pipeline.4.crop_size": "(128,128)",
    "train_dataloader.dataset.pipeline.7.size": "(128,128)",
    "train_dataloader.dataset.pipeline.8.img_scale": "(128,128)",
    **{f"{loop}_dataloader.dataset.pipeline.1.scale": "(128,128)" for loop in ("val", "test")},
    **{f"{loop}_dataloader.dataset.pipeline.2.size": "(128,128)" for loop in ("val", "test")},
    "custom_hooks.1.switch_epoch": 1,
    "custom_hooks.1.switch_pipeline.2.scale": "(128,128)",
    "custom_hooks.1.switch_pipeline.3.crop_size": "(128,128)",
    "custom_hooks.1.switch_pipeline.6.size": "(128,128)",
    "train_cfg.max_epochs": 2,
    "train_cfg.val_interval": 2,
    "param_scheduler.0.end": 4,
    "default_hooks.checkpoint.interval": 1,
}


def train(name: str, data_root: Path, work_dir: Path, options: dict) -> str:
    """Runs tools/train.py, four iterations an epoch; returns its output."""
    arguments = [f"{key}={value}" for key, value in options.items()]
    result = run("train", path(name), "--data-root", data_root, "--work-dir", work_dir, "--cfg-options", *arguments)
    assert result.returncode == 0, result.stderr
    (curve,) = losses(work_dir)
    assert list(curve) == list(range(1, 4 * options["train_cfg.max_epochs"] + 1))
    assert all(map(math.isfinite, curve.values()))
    return result.stdout + result.stderr


def evaluate(name: str, checkpoint: Path) -> None:
    """Runs tools/test.py with the config that the work dir holds; the metrics must be finite."""
    folder = checkpoint.parent
    arguments = ("--work-dir", folder / "test", "--out", folder / "predictions.pkl")
    result = run("test", folder / f"{name}.py", checkpoint, *arguments)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((folder / "predictions.json").read_text())
    assert 0 <= metrics["coco/bbox_mAP"] <= metrics["coco/bbox_mAP_50"] <= 1


@pytest.fixture(scope="module")
def objects365(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images in the layout of Objects365, their objects under its class names."""
    folder = tmp_path_factory.mktemp("data") / "objects365"
    (folder / "annotations").mkdir(parents=True)
    categories = [dict(id=i, name=name) for i, name in enumerate(Objects365V2Dataset.METAINFO["classes"], 1)]
    for split in ("train", "val"):
        (folder / split).symlink_to(data / f"{split}2017")
        content = json.loads((data / "annotations" / f"instances_{split}2017.json").read_text())
        file = folder / "annotations" / f"zhiyuan_objv2_{split}.json"
        file.write_text(json.dumps({**content, "categories": categories}))
    return folder


def test_dino_trains_through_both_stages_and_reports_new_layers(objects365, data, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    train(OBJECTS365, objects365, first, SMALL_DINO)
    printed = train(COCO, data, second, {**SMALL_DINO, "load_from": first / "epoch_1.pth"})
    (initialised,) = re.findall(r"not loaded from .*, but initialised: (.*)", printed)
    assert set(re.findall(r"(\S+) \(file", initialised)) == {
        "dn_query_generator.label_embedding.weight",
        *(f"bbox_head.cls_branches.{layer}.{kind}" for layer in range(3) for kind in ("weight", "bias")),
    }
    assert "unexpected key" not in printed
    evaluate(COCO, second / "epoch_1.pth")


def test_rtmdet_trains_with_both_pipelines(data, tmp_path):
    assert "Switch pipeline now!" in train(RTMDET, data, tmp_path, SMALL_RTMDET)
    evaluate(RTMDET, tmp_path / "epoch_2.pth")
