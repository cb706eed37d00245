"""The ImageNet configs: recipes, published sizes, optimiser groups, and short runs on small models."""

import copy
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from config_models import build, count, model_settings, names, optimizer_settings, read
from conftest import SHARED
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope
from tool_runs import ROOT, losses, run
from torch import nn

pytest.importorskip("mmpretrain")

from mmpretrain.structures import DataSample

CONFIGS = [name for name in names("*_imagenet*") if name != "vit_mae-pretrain_imagenet"]
IMAGENET, HALF = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]), ([127.5] * 3, [127.5] * 3)


# -------------------------------------------------------------------------------------------------------------- sizes
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # with four classifiers and three decoders
        ("revcol_imagenet", 33_063_984),
        ("revcol-small_imagenet", 63_176_240),
        ("revcol-base_imagenet", 141_694_960),
        ("revcol-base_pretrain_imagenet-22k", 193_772_980),
        ("revcol-large_pretrain_imagenet-22k", 371_077_188),
        ("revcol-xlarge_pretrain_imagenet-22k", 1_005_203_844),
        # with the plain head
        ("revcol-vit_imagenet", 20_874_344),  # as they come out; the paper's 16 and 67 M are others
        ("revcol-vit-base_imagenet", 89_058_568),
        ("revcol-base_finetune_imagenet", 138_616_408),
        ("revcol-base_finetune_imagenet-384", 138_616_408),
        ("revcol-large_finetune_imagenet", 273_095_400),
        ("revcol-large_finetune_imagenet-384", 273_095_400),
        ("revcol-xlarge_finetune_imagenet-384", 833_807_400),
        ("revcol-huge_finetune_imagenet-640", 2_154_713_400 + 2 * 2880 + 2881 * 1000),  # backbone, norm, linear layer
        ("vit_imagenet", 86_567_656),
        ("vit-small_imagenet", 22_050_664),
        ("vit-tiny_imagenet", 5_717_416),
        ("vit_mae-finetune_imagenet", 86_567_656),
        ("deit-distilled_imagenet", 87_338_192),
        ("deit-distilled-small_imagenet", 22_436_432),
        ("deit-distilled-tiny_imagenet", 5_910_800),
        ("cait_imagenet", 46_916_200),
        ("cait-xxs24_imagenet", 11_956_264),
        ("ceit_imagenet", 24_204_840),
        ("ceit-tiny_imagenet", 6_356_904),
        ("deepvit_imagenet", 27_312_632),
        ("deepvit-large_imagenet", 58_883_708),
        ("deepvit-32b_imagenet", 48_096_232),
        ("hybrid-vit_imagenet", 98_659_112),
        ("hybrid-vit-small_imagenet", 36_431_912),
    ],
)
def test_parameters_are_the_published_ones(name, parameters):
    assert count(build(name)) == parameters


def test_every_config_has_its_rows():
    def rows(*tests) -> list[str]:
        marks = [mark for test in tests for mark in test.pytestmark if mark.name == "parametrize"]
        return sorted(row[0] for mark in marks for row in mark.args[1])

    assert rows(test_parameters_are_the_published_ones) == CONFIGS
    assert rows(test_recipe_is_revcols, test_recipe_is_deits) == CONFIGS


# ------------------------------------------------------------------------------------------------------------ recipes
def rates(cfg: Config) -> tuple[float, float, float]:
    """The first learning rate, the largest and the last; ten iterations make an epoch here."""
    wrapper = build_optim_wrapper(nn.Linear(1, 1), dict(optimizer=dict(type="SGD", lr=cfg.optim_wrapper.optimizer.lr)))
    epochs = cfg.train_cfg.max_epochs
    schedulers = [
        PARAM_SCHEDULERS.build({"end": epochs, **s}, default_args=dict(optimizer=wrapper, epoch_length=10))
        for s in cfg.param_scheduler
    ]
    course = [wrapper.param_groups[0]["lr"]]
    for _ in range(epochs * 10):
        wrapper.step()
        for scheduler in schedulers:
            scheduler.step()
        course.append(wrapper.param_groups[0]["lr"])
    warm_up = cfg.param_scheduler[0].get("end", 0) * 10
    assert course[warm_up] == max(course)
    assert course[: warm_up + 1] == sorted(course[: warm_up + 1])
    return course[0], max(course), course[-1]


def last(lr: float, least: float, epochs: int) -> float:
    """A cosine's last rate, one iteration before it is at its least."""
    return least + (lr - least) * math.sin(math.pi / 2 / (epochs * 10)) ** 2


def averaging(cfg: Config) -> float | None:
    """The decay of the moving average in a step."""
    hooks = [hook for hook in cfg.custom_hooks if hook.type == "EMAHook"]
    assert all(hook.evaluate_on_origin for hook in hooks)
    return 1 - hooks[0].momentum if hooks else None


def mixing(cfg: Config) -> dict[str, float]:
    return {augment.type: augment.alpha for augment in (cfg.model.train_cfg or {}).get("augments", [])}


BOTH = dict(Mixup=0.8, CutMix=1.0)


@pytest.mark.parametrize(
    ("name", "epochs", "lr", "least", "warm_up", "decay", "drop_path", "clip", "average", "layer_decay", "size"),
    [
        ("revcol_imagenet", 300, 1e-3, 1e-6, 20, 0.05, 0.1, None, 0.9999, 1.0, 224),
        ("revcol-small_imagenet", 300, 1e-3, 1e-6, 20, 0.05, 0.3, None, 0.9999, 1.0, 224),
        ("revcol-vit_imagenet", 300, 1e-3, 1e-6, 20, 0.05, 0.1, None, 0.9999, 1.0, 224),  # taken over from it
        ("revcol-vit-base_imagenet", 300, 1e-3, 1e-6, 20, 0.05, 0.2, None, 0.9999, 1.0, 224),
        ("revcol-base_imagenet", 300, 1e-3, 1e-8, 20, 0.05, 0.4, 5, 0.9999, 1.0, 224),
        ("revcol-base_pretrain_imagenet-22k", 90, 1.25e-4, 1e-7, 5, 0.1, 0.3, 10, None, 1.0, 224),
        ("revcol-large_pretrain_imagenet-22k", 90, 1.25e-4, 1e-7, 5, 0.1, 0.3, 10, None, 1.0, 224),
        ("revcol-xlarge_pretrain_imagenet-22k", 90, 1.25e-4, 1e-7, 5, 0.1, 0.4, 10, None, 1.0, 224),
        ("revcol-base_finetune_imagenet", 30, 1e-4, 2e-7, 0, 1e-8, 0.2, 10, None, 0.9, 224),
        ("revcol-base_finetune_imagenet-384", 30, 1e-4, 2e-7, 0, 1e-8, 0.2, 10, None, 0.9, 384),
        ("revcol-large_finetune_imagenet", 30, 5e-5, 2e-7, 0, 1e-8, 0.3, 10, None, 0.8, 224),
        ("revcol-large_finetune_imagenet-384", 30, 5e-5, 2e-7, 0, 1e-8, 0.3, 10, None, 0.8, 384),
        ("revcol-xlarge_finetune_imagenet-384", 30, 2e-5, 2e-7, 0, 1e-8, 0.4, 10, 0.9999, 0.8, 384),
        ("revcol-huge_finetune_imagenet-640", 20, 4e-5, 2e-8, 0, 1e-8, 0.4, 100, 0.9999, 0.8, 640),
    ],
)
def test_recipe_is_revcols(name, epochs, lr, least, warm_up, decay, drop_path, clip, average, layer_decay, size):
    cfg = read(name)
    tuned, vit = epochs < 90, name.startswith("revcol-vit")
    arch = name.split("_")[0].removeprefix("revcol").removeprefix("-vit").strip("-") or ("small" if vit else "tiny")
    backbone, head, wrapper = cfg.model.backbone, cfg.model.head, cfg.optim_wrapper
    kind = "RevColViTTrunk" if vit else "RevCol"
    assert (backbone.type, backbone.arch, backbone.drop_path_rate) == (kind, arch, drop_path)
    assert backbone.reversible
    supervised = not (tuned or vit)
    assert head.type == ("SupervisedRevColHead" if supervised else "RevColHead")
    assert head.loss == dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original")
    assert mixing(cfg) == ({} if tuned else BOTH)
    if supervised:
        assert (build(name).head.reconstruction_weight, build(name).head.label_weight) == (3.0, 0.7)

    assert (wrapper.type, wrapper.optimizer.type) == ("AmpOptimWrapper", "AdamW")
    assert (wrapper.optimizer.weight_decay, tuple(wrapper.optimizer.betas)) == (decay, (0.9, 0.999))
    assert wrapper.get("clip_grad") == (clip and dict(max_norm=clip))
    assert wrapper.paramwise_cfg.layer_decay_rate == layer_decay
    assert (cfg.train_cfg.max_epochs, cfg.auto_scale_lr.base_batch_size, averaging(cfg)) == (epochs, 1024, average)
    assert rates(cfg) == pytest.approx((1e-5 if warm_up else lr, lr, last(lr, least, epochs - warm_up)))
    assert [s.get("end") for s in cfg.param_scheduler if s.type == "LinearLR"] == ([warm_up] if warm_up else [])

    assert cfg.train_dataloader.dataset.pipeline[1].scale == size
    assert cfg.train_dataloader.sampler.type == "DefaultSampler"
    assert head.num_classes == (21841 if name.endswith("-22k") else 1000)
    assert "num_classes" not in cfg.data_preprocessor  # mixup takes the head's


@pytest.mark.parametrize("size", ["xlarge", "large", "huge"])
def test_new_heads_of_large_models_start_small(size):
    (name,) = [n for n in CONFIGS if n.startswith(f"revcol-{size}_finetune_imagenet-")]
    torch.manual_seed(0)
    model = MODELS.build(small(name))
    model.init_weights()
    head = model.head.cls.classifier[1]
    assert float(head.weight.detach().std()) == pytest.approx(0.02 * 0.001, rel=0.02)
    assert not head.bias.any()


@pytest.mark.parametrize(
    ("name", "backbone", "arch", "drop_path", "head", "epochs"),
    [
        ("vit_imagenet", "ViTTrunk", "base", 0.1, "ClassTokenHead", 300),
        ("vit-small_imagenet", "ViTTrunk", "small", 0.1, "ClassTokenHead", 300),
        ("vit-tiny_imagenet", "ViTTrunk", "tiny", 0.1, "ClassTokenHead", 300),
        ("deit-distilled_imagenet", "DeiTTrunk", "base", 0.1, "DistilledHead", 300),
        ("deit-distilled-small_imagenet", "DeiTTrunk", "small", 0.1, "DistilledHead", 300),
        ("deit-distilled-tiny_imagenet", "DeiTTrunk", "tiny", 0.1, "DistilledHead", 300),
        ("cait_imagenet", "CaiTTrunk", "s24", 0.1, "CaiTHead", 400),
        ("cait-xxs24_imagenet", "CaiTTrunk", "xxs24", 0.05, "CaiTHead", 400),
        ("ceit_imagenet", "CeiTTrunk", "small", 0.1, "CeiTHead", 300),
        ("ceit-tiny_imagenet", "CeiTTrunk", "tiny", 0.1, "CeiTHead", 300),
        ("deepvit_imagenet", "DeepViTTrunk", "s", 0.2, "ClassTokenHead", 300),
        ("deepvit-large_imagenet", "DeepViTTrunk", "l", 0.2, "ClassTokenHead", 300),
        ("deepvit-32b_imagenet", "DeepViTTrunk", "32b", 0.2, "ClassTokenHead", 300),
        ("vit_mae-finetune_imagenet", "ViTTrunk", "base", 0.1, "MeanPoolHead", 100),
        ("hybrid-vit_imagenet", "HybridViTTrunk", "r50-base", 0.0, "ClassTokenHead", 300),
        ("hybrid-vit-small_imagenet", "HybridViTTrunk", "r26-small-32", 0.0, "ClassTokenHead", 300),
    ],
)
def test_recipe_is_deits(name, backbone, arch, drop_path, head, epochs):
    cfg = read(name)
    wrapper, augreg, tuned = cfg.optim_wrapper, name.startswith("hybrid-vit"), "finetune" in name
    got = cfg.model.backbone
    assert (got.type, got.arch, got.drop_path_rate) == (backbone, arch, drop_path)
    assert (cfg.model.head.type, cfg.train_cfg.max_epochs) == (head, epochs)
    assert (wrapper.type, wrapper.optimizer.type) == ("AmpOptimWrapper", "AdamW")
    assert wrapper.paramwise_cfg.layer_decay_rate == (0.65 if tuned else 1.0)
    _, _, _, augment, *rest = cfg.train_dataloader.dataset.pipeline
    loss = dict(type="CrossEntropyLoss", use_soft=True)
    if augreg:
        assert mixing(cfg) == dict(Mixup=0.2 if "small" in name else 0.5)
        assert (augment.magnitude_level, augment.total_level, augment.magnitude_std) == (10, 10, 0)
        assert [step.type for step in rest] == ["PackInputs"]
        assert (wrapper.optimizer.weight_decay, wrapper.clip_grad) == (0.1, dict(max_norm=1))
        assert rates(cfg) == pytest.approx((1e-6, 1e-3, last(1e-3, 0, 268)))
        assert (cfg.param_scheduler[0].end, cfg.auto_scale_lr.base_batch_size) == (32, 4096)
    else:
        loss = dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original")
        assert mixing(cfg) == (dict(Mixup=0.1) if "32b" in name else BOTH)
        assert (augment.policies, augment.num_policies) == ("timm_increasing", 2)
        assert (augment.magnitude_level, augment.total_level, augment.magnitude_std) == (9, 10, 0.5)
        assert (rest[0].type, rest[0].erase_prob, rest[0].mode) == ("RandomErasing", 0.25, "rand")
        assert (wrapper.optimizer.weight_decay, wrapper.get("clip_grad")) == (0.05, None)
        first, lr, least = (2e-7, 2e-3, 1e-6) if tuned else (1e-6, 1e-3, 1e-5)
        assert rates(cfg) == pytest.approx((first, lr, last(lr, least, epochs - 5)))
        assert (cfg.param_scheduler[0].end, cfg.auto_scale_lr.base_batch_size) == (5, 1024)
    assert cfg.model.head.loss == loss
    plain = augreg or tuned
    assert averaging(cfg) == (None if plain else 0.99996)
    assert cfg.train_dataloader.sampler.type == ("DefaultSampler" if plain else "RepeatAugSampler")


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("deit-distilled")])
def test_teacher_is_the_papers(name):
    import timm

    cfg = read(name)
    assert (cfg.model.type, cfg.model.head.kind, cfg.model.head.weight) == ("DistilledClassifier", "hard", 0.5)
    teacher = cfg.model.teacher
    assert (teacher.type, teacher.pretrained) == ("TimmClassifier", True)
    published = timm.get_pretrained_cfg(teacher.model_name)
    assert published.url.endswith("/deit/regnety_160-a5fe301d.pth")
    for name, mean in (("mean", published.mean), ("std", published.std)):
        assert [round(x * 255, 3) for x in mean] == cfg.data_preprocessor[name]


# ---------------------------------------------------------------------------------------------------------- pictures
@pytest.mark.parametrize("name", [name for name in CONFIGS if not name.endswith("-22k")])
def test_images_are_normalised_and_cropped_as_the_weights_expect(name):
    cfg = read(name)
    half = name.startswith(("deepvit", "hybrid-vit"))
    mean, std = HALF if half else IMAGENET
    assert (cfg.data_preprocessor.mean, cfg.data_preprocessor.std, cfg.data_preprocessor.to_rgb) == (mean, std, True)
    for step in cfg.train_dataloader.dataset.pipeline:
        if step.type == "RandAugment":
            assert step.hparams.pad_val == [round(x) for x in mean[::-1]]
        if step.type == "RandomErasing":  # before the channels are put into order
            assert (step.fill_color, step.fill_std) == (mean[::-1], std[::-1])

    assert cfg.test_dataloader == cfg.val_dataloader
    _, resize, *crop, _ = cfg.val_dataloader.dataset.pipeline
    assert (resize.backend, resize.interpolation) == ("pillow", "bicubic")
    large = {"384": 384, "640": 640}.get(name[-3:])
    if large:  # warped, nothing cut off
        assert (resize.type, resize.scale, crop) == ("Resize", (large, large), [])
        return
    short = 248 if half else 224 if name.startswith("cait") else 256
    assert (resize.type, resize.scale, resize.edge) == ("ResizeEdge", short, "short")
    assert [(step.type, step.crop_size) for step in crop] == [("CenterCrop", 224)]


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.endswith("-22k")])
def test_imagenet_22k_is_only_trained_on(name):
    cfg = read(name)
    assert cfg.train_dataloader.dataset.data_root == "data/imagenet-22k"
    assert {cfg[f"{loop}_{part}"] for loop in ("val", "test") for part in ("dataloader", "evaluator", "cfg")} == {None}


# ---------------------------------------------------------------------------------------------------------- optimiser
@pytest.mark.parametrize("name", CONFIGS)
def test_weight_decay_exclusions_are_the_official_ones(name):
    got = optimizer_settings(name)
    spared = {key for key, (_, decay) in got.items() if decay == 0}
    expected = {key for key, parameter in build(name).named_parameters() if parameter.ndim == 1}
    tables = {"backbone.pos_embed", "backbone.cls_token", "backbone.dist_token", "head.cls_token"}
    assert spared == expected | tables & got.keys()
    if name.startswith("revcol"):
        assert got["backbone.subnet1.alpha0"][1] == read(name).optim_wrapper.optimizer.weight_decay > 0
    if name.startswith("ceit"):
        assert got["head.layer_attention.pos_layer_embed"][1] == 0.05


@pytest.mark.parametrize(
    ("name", "parameter", "steps"),  # how many times the rate is decayed
    [
        ("revcol-base_finetune_imagenet", "head.cls.classifier.1.weight", 0),
        ("revcol-base_finetune_imagenet", "backbone.subnet15.level3.blocks.1.pwconv1.weight", 1),
        ("revcol-base_finetune_imagenet", "backbone.subnet3.alpha2", 19),
        ("revcol-base_finetune_imagenet", "backbone.stem.0.weight", 23),
        ("revcol-large_finetune_imagenet-384", "backbone.stem.0.weight", 19),
        ("revcol-huge_finetune_imagenet-640", "backbone.subnet2.level0.fusion.up2.channel_reschedule.0.weight", 16),
        ("vit_mae-finetune_imagenet", "head.head.weight", 0),
        ("vit_mae-finetune_imagenet", "head.fc_norm.weight", 0),
        ("vit_mae-finetune_imagenet", "backbone.blocks.11.mlp.fc2.weight", 1),
        ("vit_mae-finetune_imagenet", "backbone.blocks.0.attn.qkv.weight", 12),
        ("vit_mae-finetune_imagenet", "backbone.pos_embed", 13),
    ],
)
def test_layers_decay_as_published(name, parameter, steps):
    wrapper = read(name).optim_wrapper
    rate = wrapper.optimizer.lr * wrapper.paramwise_cfg.layer_decay_rate**steps
    assert optimizer_settings(name)[parameter][0] == pytest.approx(rate)


# --------------------------------------------------------------------------------------------------------- short runs
SMALL = {
    "RevCol": dict(channels=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_columns=4, top_link=False),
    "RevColViTTrunk": dict(embed_dims=24, depths=(1, 1, 1, 1), num_heads=2, num_columns=2),
    "ViTTrunk": dict(embed_dims=24, depth=2, num_heads=2),
    "DeiTTrunk": dict(embed_dims=24, depth=2, num_heads=2),
    "CaiTTrunk": dict(embed_dims=24, depth=2, num_heads=2),
    "CeiTTrunk": dict(embed_dims=24, depth=2, num_heads=2),
    "DeepViTTrunk": dict(embed_dims=24, depth=2, num_heads=2, cnn_stem=True),
    "HybridViTTrunk": dict(
        embed_dims=24, depth=2, num_heads=2, stage_depths=(1, 1, 1), stage_channels=(128, 128, 128), stem_channels=32
    ),
}
TEACHER = dict(model_name="resnet10t", pretrained=False)


def small(name: str) -> dict:
    model = copy.deepcopy(model_settings(name))
    backbone = model["backbone"]
    backbone["arch"] = SMALL[backbone["type"]]
    backbone.pop("init_cfg", None)
    if "teacher" in model:
        model["teacher"].update(TEACHER)
    return model


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.slow
def test_one_step_reaches_all_parameters(name):
    init_default_scope("mmpretrain")
    model = MODELS.build(small(name)).train()
    classes = model.head.num_classes
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(label) for label in (0, 1, classes // 2, classes - 1)]
    data = model.data_preprocessor(dict(inputs=list(images), data_samples=samples), training=True)
    loss, _ = model.parse_losses(model(data["inputs"], data["data_samples"], mode="loss"))
    loss.backward()
    assert math.isfinite(loss.detach())
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_22k_weights_start_a_fine_tuning(tmp_path):
    init_default_scope("mmpretrain")
    source = MODELS.build(small("revcol-large_pretrain_imagenet-22k"))
    file = tmp_path / "epoch_90.pth"
    torch.save(dict(state_dict=source.state_dict()), file)
    tuned = small("revcol-large_finetune_imagenet-384")
    tuned["backbone"]["init_cfg"] = {
        **read("revcol-large_finetune_imagenet-384").model.backbone.init_cfg,
        "checkpoint": str(file),
    }
    model = MODELS.build(tuned)
    model.init_weights()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, source.backbone.state_dict()[name]), name


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of five flowers where they lie beside the checkout, images of noise otherwise."""
    photographs = SHARED / "data" / "flowers_small"
    if photographs.is_dir():
        return photographs
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for path in (folder / split / str(label) for split in ("train", "val") for label in range(5)):
        path.mkdir(parents=True)
        for i in range(4):
            cv2.imwrite(str(path / f"{i}.jpg"), rng.integers(0, 256, (80, 96, 3), np.uint8))
    return folder


@pytest.mark.parametrize("name", ["revcol_imagenet", "deit-distilled_imagenet", "vit_imagenet"])
@pytest.mark.slow
def test_trains_and_evaluates(name, flowers, tmp_path):
    options = {
        "model.head.num_classes": 5,
        "model.backbone.arch._delete_": True,
        **{f"model.backbone.arch.{key}": value for key, value in small(name)["backbone"]["arch"].items()},
        "train_dataloader.batch_size": 4,
        "train_dataloader.dataset.indices": 8,
        "train_dataloader.dataset.pipeline.1.scale": 64,
        "val_dataloader.dataset.indices": 8,
        "val_dataloader.dataset.pipeline.1.scale": 64,
        "val_dataloader.dataset.pipeline.2.crop_size": 64,
        **{f"{loop}_dataloader.num_workers": 0 for loop in ("train", "val")},
        **{f"{loop}_dataloader.persistent_workers": False for loop in ("train", "val")},
        "train_cfg.max_epochs": 1,
        "param_scheduler.0.end": 1,
        "param_scheduler.1.begin": 0,
        "default_hooks.logger.interval": 1,
        "randomness.seed": 0,
    }
    if "distilled" in name:
        options |= {f"model.teacher.{key}": value for key, value in TEACHER.items()}
        options["+model.teacher.num_classes"] = 5
    given = [f"{key}={str(value).replace(' ', '')}" for key, value in options.items()]
    config = ROOT / "configs" / f"{name}.py"
    result = run("train", config, "--data-root", flowers, "--work-dir", tmp_path, "--cfg-options", *given)
    assert result.returncode == 0, result.stderr
    (course,) = losses(tmp_path)
    assert list(course) == [1, 2]
    assert all(0 < loss < 20 for loss in course.values())
    (file,) = tmp_path.glob("*/vis_data/scalars.json")
    metrics = json.loads(file.read_text().splitlines()[-1])
    assert 0 <= metrics["accuracy/top1"] <= 100  # of the averaged weights
    assert 0 <= metrics["accuracy/top1_origin"] <= 100
    checkpoint = torch.load(tmp_path / "epoch_1.pth", weights_only=False)
    assert sum(name.startswith("module.") for name in checkpoint["ema_state_dict"]) == len(checkpoint["state_dict"])
