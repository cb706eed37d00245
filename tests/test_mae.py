"""MAE: numbers of the official code, the recipe, and weights that start a detector."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import SHARED
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from official import assert_equal
from tool_runs import ROOT, losses, run
from torch import nn

pytest.importorskip("mmpretrain")

from backbones.checkpoints import load_pretrained
from backbones.classification.mae import MaskedAutoencoder

CONFIG = ROOT / "configs" / "vit_mae-pretrain_imagenet.py"
BACKBONE = dict(type="ViTTrunk", arch=dict(embed_dims=48, depth=3, num_heads=4), img_size=64, pos_embed="sincos")
DECODER = dict(decoder_embed_dims=32, decoder_depth=2, decoder_num_heads=4)


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope("mmpretrain")


def build(**changes) -> MaskedAutoencoder:
    return MaskedAutoencoder(BACKBONE | changes, **DECODER).eval()


# ------------------------------------------------------------------------------------------------------------ numbers
def test_numbers_are_the_official_ones(fixtures):
    file = torch.load(fixtures / "mae.pt", weights_only=True)
    model = build()
    own = model.state_dict()
    for name in ("pos_embed", "decoder_pos_embed"):  # computed, not learnt
        assert_equal(own.get(name, own.get(f"backbone.{name}")), file["state_dict"][name])
    weights = {key if key in own else f"backbone.{key}": value for key, value in file["state_dict"].items()}
    model.load_state_dict(weights)
    with torch.no_grad():
        latent, kept = model.encode(file["input"], file["noise"])
        assert_equal(latent, file["latent"])
        assert_equal(model.decode(latent, kept), file["pred"])
        loss = model.loss(file["input"], noise=file["noise"])["loss"]
    assert torch.equal(model.mask(kept), file["mask"])
    torch.testing.assert_close(loss, file["loss"], rtol=0, atol=1e-6)


def test_backbone_sees_visible_and_loss_masked_patches():
    model = build()
    images, noise = torch.randn(2, 3, 64, 64), torch.rand(2, 16)
    latent, kept = model.encode(images, noise)
    assert latent.shape == (2, 5, 48)
    masked = model.mask(kept)
    assert masked.sum(1).tolist() == [12, 12]
    # other pixels behind the mask: only the targets change
    pixels = masked.view(2, 1, 4, 4).repeat_interleave(16, 2).repeat_interleave(16, 3)
    others = images + pixels * torch.randn_like(images)
    assert torch.equal(model.encode(others, noise)[0], latent)
    assert model.loss(others, noise=noise)["loss"] != model.loss(images, noise=noise)["loss"]

    pred, target = model.decode(latent, kept), model.head.construct_target(images)
    errors = (pred - target).square().mean(2)
    torch.testing.assert_close(model.loss(images, noise=noise)["loss"], errors[masked == 1].mean())


def test_every_trainable_parameter_gets_a_gradient():
    model = build().train()
    model.loss(torch.randn(2, 3, 64, 64))["loss"].backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {"backbone.pos_embed", "decoder_pos_embed"}
    assert not any(dict(model.named_parameters())[name].requires_grad for name in without)


def test_mixed_precision_changes_little():
    model = build()
    images, noise = torch.randn(2, 3, 64, 64), torch.rand(2, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model.loss(images, noise=noise)["loss"]
    torch.testing.assert_close(rounded, model.loss(images, noise=noise)["loss"], rtol=1e-2, atol=0)


def test_weights_start_as_published():
    model = MaskedAutoencoder(BACKBONE)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) or name == "backbone.patch_embed.proj":
            rows, columns = module.weight.flatten(1).shape
            bound = math.sqrt(6 / (rows + columns))  # Xavier's uniform distribution
            assert 0.99 * bound < module.weight.abs().max() <= bound, name
    assert (len(model.decoder_blocks), model.decoder_embed.out_features) == (8, 512)
    assert model.decoder_blocks[0].attn.num_heads == 16
    for token, width in ((model.backbone.cls_token, 48), (model.mask_token, 512)):
        assert token.shape == (1, 1, width)
        assert 0.014 < token.std() < 0.026


# -------------------------------------------------------------------------------------------------------- refused input
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(type="DeiTTrunk"), "takes a ViTTrunk with square img_size.*; got a DeiTTrunk"),
        (dict(type="PlainViT"), "takes a ViTTrunk.*; got a PlainViT"),
        (dict(rel_pos=64), "got one with windows or relative positions"),
        (dict(img_size=(64, 96)), r"got img_size=\(64, 96\)"),
    ],
)
def test_other_backbones_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


@pytest.mark.parametrize(("ratio", "kept"), [(0.0, 16), (0.95, 0)])
def test_masks_that_leave_all_or_nothing_are_refused(ratio, kept):
    with pytest.raises(ValueError, match=f"mask_ratio is {ratio}, which leaves {kept} of 16 patches"):
        MaskedAutoencoder(BACKBONE, mask_ratio=ratio)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"images are \(96, 96\), but the backbone's img_size is \(64, 64\)"):
        build().loss(torch.zeros(1, 3, 96, 96))


# ------------------------------------------------------------------------------------------------------------- recipe
def test_recipe_is_the_official_one():
    cfg = Config.fromfile(CONFIG)
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    assert (model.num_patches, model.num_kept, model.head.norm_pix) == (196, 49, True)
    assert (model.backbone.depth, model.backbone.embed_dims, model.decoder_pred.out_features) == (12, 768, 768)
    # images of 0 to 255 become those that the published weights saw
    assert cfg.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert cfg.train_dataloader.batch_size == 512
    assert cfg.auto_scale_lr.base_batch_size == 8 * 512

    assert (cfg.optim_wrapper.pop("type"), cfg.optim_wrapper.pop("loss_scale")) == ("AmpOptimWrapper", "dynamic")
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)  # AMP needs a GPU
    groups = wrapper.optimizer.param_groups
    assert {(group["lr"], group["betas"]) for group in groups} == {(1.5e-4 * 16, (0.9, 0.95))}
    decays = {id(group["params"][0]): group["weight_decay"] for group in groups}
    got = {name: decays[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert got == {name: 0.0 if p.ndim == 1 else 0.05 for name, p in model.named_parameters() if p.requires_grad}

    warm_up, cosine = cfg.param_scheduler
    assert (cfg.train_cfg.max_epochs, warm_up.end, cosine.begin, cosine.end) == (1600, 40, 40, 1600)
    assert (cosine.type, cosine.T_max, cosine.get("eta_min", 0)) == ("CosineAnnealingLR", 1560, 0)


# ----------------------------------------------------------------------------------------- from training to a detector
@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs where they lie beside the checkout, noise otherwise."""
    photographs = SHARED / "data" / "flowers_small"
    if photographs.is_dir():
        return photographs
    folder = tmp_path_factory.mktemp("images")
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"):
        file = folder / "train" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8))
    return folder


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work dir of two epochs of two iterations."""
    work_dir = tmp_path_factory.mktemp("trained")
    options = {
        "model.backbone.arch._delete_": True,
        **{f"model.backbone.arch.{key}": value for key, value in BACKBONE["arch"].items()},
        "model.backbone.img_size": 64,
        **{f"model.{key}": value for key, value in DECODER.items()},
        "train_dataloader.dataset.pipeline.1.scale": 64,
        "train_dataloader.dataset.indices": 4,
        "train_dataloader.batch_size": 2,
        "train_dataloader.num_workers": 1,
        "train_cfg.max_epochs": 2,
        "default_hooks.logger.interval": 1,
    }
    changes = [f"{key}={value}" for key, value in options.items()]
    result = run("train", CONFIG, "--data-root", images, "--work-dir", work_dir, "--cfg-options", *changes)
    assert result.returncode == 0, result.stderr
    return work_dir


@pytest.mark.slow
def test_training_gives_losses_of_normalised_pixels(trained):
    (curve,) = losses(trained)
    assert list(curve) == [1, 2, 3, 4]
    assert all(0.5 < loss < 3 for loss in curve.values())  # 1 is that of a prediction of 0


@pytest.mark.slow
def test_a_checkpoint_starts_the_detector_s_backbone(trained):
    cfg = Config.fromfile(ROOT / "configs" / "vit_maskrcnn_coco.py").model.backbone
    cfg.update(arch=BACKBONE["arch"], global_blocks=(1,), img_size=64)
    file = trained / "epoch_2.pth"
    init_default_scope("mmdet")
    net = MODELS.build(cfg)
    net.init_cfg["checkpoint"] = str(file)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.init_weights()

    saved = torch.load(file, weights_only=False)["state_dict"]
    own = net.state_dict()
    theirs = {name.removeprefix("backbone."): value for name, value in saved.items() if name.startswith("backbone.")}
    del theirs["cls_token"]  # ViTDet has none
    theirs["pos_embed"] = theirs["pos_embed"][:, 1:]
    assert len(theirs) == 3 + 3 * 12  # positions and patches; three blocks
    for name, value in theirs.items():
        assert torch.equal(own[name], value), name
    assert not torch.equal(own["blocks.2.mlp.fc1.weight"], before["blocks.2.mlp.fc1.weight"])

    report = load_pretrained(net, file)
    assert (report.prefix, report.unexpected) == ("backbone.", [])
    assert sorted(report.loaded) == sorted(theirs)
    assert {name.split(".")[0] for name in report.missing if "rel_pos" not in name} == {"pyramid"}
    assert [key for key in report.skipped if not key.startswith(("decoder_", "norm.", "mask_token"))] == [
        "backbone.cls_token"
    ]
