"""Configs of DINOv2, DINOv3, SigLIP 2, EVA-02 and BEiT: a step of training on noise; recipes of frozen backbones."""

import copy

import pytest
import torch
from config_models import NARROW_HEADS, build, count, optimizer_settings, read
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope

from backbones.config.trial import try_model

# of the hosts' own code
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

FAMILIES = ("beit", "dinov2", "dinov3", "eva02", "siglip2")
DINO, LINEAR = "dinov2-large_frozen-dino_coco", "dinov2_linear_ade20k"
FROZEN = ["dinov2_frozen-maskrcnn_coco", DINO, LINEAR]
C = 48
NARROW = {  # by method
    "maskrcnn": {
        "model.backbone.pyramid.out_channels": 16,
        "model.data_preprocessor.pad_size_divisor": 32,
        **NARROW_HEADS,
    },
    "dino": {
        "model.neck.in_channels": [C] * 4,
        "model.encoder.num_layers": 1,
        "model.decoder.num_layers": 2,
        "model.num_queries": 30,
        "model.test_cfg.max_per_img": 10,
    },
    "linear": {"model.decode_head.in_channels": C},
}


def small(name: str):
    """The config with narrow blocks, as many as it has, and without weights."""
    cfg = copy.deepcopy(read(name))
    init_default_scope(cfg.default_scope)
    backbone = cfg.model.backbone
    backbone.pop("init_cfg", None)
    backbone.arch = dict(embed_dims=C, depth=build(name).backbone.depth, num_heads=3)
    cfg.merge_from_dict(NARROW[name.split("_")[1].rpartition("-")[2]])
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(f"{family}_maskrcnn_coco" for family in FAMILIES), *FROZEN])
def test_trains_a_step_and_predicts(name):
    assert "every trainable parameter of the backbone has a gradient" in try_model(small(name), 64)


# -- frozen


@pytest.mark.parametrize("name", FROZEN)
def test_all_of_the_trunk_is_frozen_and_all_else_is_trained(name):
    model = build(name)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    trunk = {name for name in trained if name.startswith("backbone.") and not name.startswith("backbone.pyramid.")}
    assert trunk == set()
    assert {name for name, _ in model.named_parameters() if not name.startswith("backbone.")} <= trained
    assert optimizer_settings(name).keys() == trained or name == LINEAR


@pytest.mark.parametrize("name", FROZEN)
def test_frozen_features_are_the_same_in_every_forward_of_training(name):
    settings: ConfigDict = small(name).model.backbone
    settings.update(pyramid=None, taps=None)
    net = MODELS.build(settings).train()
    x = torch.randn(1, 3, 64, 96)
    assert torch.equal(net(x)[0], net(x)[0])
    assert not net(x)[0].requires_grad


def test_linear_recipe_is_the_authors():
    cfg = read(LINEAR)
    assert cfg.optim_wrapper == dict(
        type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-4)
    )
    assert (cfg.train_cfg.max_iters, cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size) == (
        40_000,
        2,
        16,
    )
    warm_up, decay = cfg.param_scheduler
    assert warm_up == dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500)
    assert decay == dict(type="PolyLR", power=1.0, begin=1500, end=40_000, eta_min=0.0, by_epoch=False)
    _, _, resize, crop, *_ = cfg.train_dataloader.dataset.pipeline
    assert (resize.scale, resize.ratio_range) == ((2048, 512), (0.5, 2.0))
    assert (crop.crop_size, crop.cat_max_ratio) == ((512, 512), 0.75)
    assert cfg.model.test_cfg == dict(mode="slide", crop_size=(512, 512), stride=(341, 341))


def test_linear_head_is_a_batch_norm_and_a_convolution_under_the_published_names():
    head = build(LINEAR).decode_head
    shapes = {name: tuple(value.shape) for name, value in head.state_dict().items() if name != "bn.num_batches_tracked"}
    assert shapes == {
        "conv_seg.weight": (150, 768, 1, 1),
        "conv_seg.bias": (150,),
        **{f"bn.{name}": (768,) for name in ("weight", "bias", "running_mean", "running_var")},
    }
    small_head = MODELS.build(small(LINEAR).model.decode_head)
    features = torch.randn(2, C, 3, 4) * 5 + 2
    normed = (features - features.mean((0, 2, 3), keepdim=True)) / features.std((0, 2, 3), keepdim=True, correction=0)
    expected = torch.einsum("bchw,kc->bkhw", normed, small_head.conv_seg.weight[:, :, 0, 0])
    expected += small_head.conv_seg.bias[:, None, None]
    torch.testing.assert_close(small_head.train()([features]), expected, rtol=1e-4, atol=1e-4)


def test_dino_recipe():
    cfg = read(DINO)
    backbone, wrapper = cfg.model.backbone, cfg.optim_wrapper
    assert (backbone.pyramid, backbone.taps) == ("taps", (4, 11, 17, 23))
    assert wrapper.optimizer == dict(type="AdamW", lr=1e-4, weight_decay=1e-4)
    assert set(optimizer_settings(DINO).values()) == {(1e-4, 1e-4)}
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size) == (12, 2, 16)
    with torch.no_grad():
        feats = build(DINO).extract_feat(torch.zeros(1, 3, 640, 1024, device="meta"))
    assert [(f.shape[1], 640 / f.shape[2], 1024 / f.shape[3]) for f in feats] == [
        (256, stride, stride) for stride in (4, 8, 16, 32, 64)
    ]


def test_frozen_mask_rcnn_attends_as_in_pre_training():
    cfg = read("dinov2_frozen-maskrcnn_coco")
    backbone = build("dinov2_frozen-maskrcnn_coco").backbone
    assert set(backbone.windows) == {None}
    assert backbone.tokens == dict(cls_token=1, register_tokens=4)
    assert count(backbone.pyramid) == count(build("dinov2_maskrcnn_coco").backbone.pyramid)
    assert cfg.train_cfg == read("dinov2_maskrcnn_coco").train_cfg
