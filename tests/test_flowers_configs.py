"""The configs for photographs of flowers: every backbone, and from each the way into its detector."""

import math

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from tool_runs import ROOT

pytest.importorskip("mmpretrain")

from mmpretrain.structures import DataSample

import backbones.classification  # noqa: F401  (registers)
from backbones import RevColViT
from backbones.base import Backbone
from backbones.checkpoints import load_pretrained
from backbones.dense_transformer import DenseTransformer

pytestmark = pytest.mark.slow

PARAMETERS = {  # backbone, and parameters of the classifier in training
    "revcol": ("RevCol", 4_463_524),
    "revcol-vit": ("RevColViTTrunk", 2_736_565),
    "vit": ("ViTTrunk", 2_825_477),
    "deit": ("DeiTTrunk", 2_826_826),
    "cait": ("CaiTTrunk", 3_718_325),
    "deepvit": ("DeepViTTrunk", 3_067_569),
    "ceit": ("CeiTTrunk", 3_396_997),
    "hybrid-vit": ("HybridViTTrunk", 2_665_381),
}


def make(family: str, folder):
    cfg = Config.fromfile(ROOT / "configs" / f"{family}_flowers.py")
    init_default_scope(cfg.default_scope)
    settings = {**cfg.model.to_dict(), "data_preprocessor": cfg.data_preprocessor.to_dict()}
    if "teacher" in settings:
        teacher = MODELS.build({**settings["teacher"], "init_cfg": None})
        torch.save({"state_dict": teacher.state_dict()}, folder / "teacher.pth")
        settings["teacher"]["init_cfg"]["checkpoint"] = str(folder / "teacher.pth")
    return MODELS.build(settings)


FROM_WEIGHTS = {
    "DINOv2Trunk",
    "DINOv3Trunk",
    "SigLIP2Trunk",
    "EVA02Trunk",
    "BEiTTrunk",
}  # which nobody trains from scratch


def test_every_backbone_has_one():
    names = {path.name.removesuffix("_flowers.py") for path in (ROOT / "configs").glob("*_flowers.py")}
    assert names - {"vit_mae-pretrain"} == PARAMETERS.keys()
    assert {kind for kind, _ in PARAMETERS.values()} == {
        name
        for name, cls in MODELS.module_dict.items()
        if issubclass(cls, Backbone) and not issubclass(cls, (DenseTransformer, RevColViT))  # which have a pyramid
    } - FROM_WEIGHTS


@pytest.mark.parametrize("family", PARAMETERS)
def test_one_step_reaches_all_parameters(family, tmp_path):
    model = make(family, tmp_path).train()
    kind, number = PARAMETERS[family]
    assert type(model.backbone).__name__ == kind
    assert sum(p.numel() for p in model.parameters()) == number
    images = list(torch.randint(0, 256, (5, 3, 96, 96), dtype=torch.uint8))
    samples = [DataSample().set_gt_label(label) for label in range(5)]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
    loss, _ = model.parse_losses(model(data["inputs"], data["data_samples"], mode="loss"))
    loss.backward()
    assert math.isfinite(loss.detach())
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("family", PARAMETERS)
def test_weights_start_the_detector_of_the_sample_data_set(family, tmp_path):
    model = make(family, tmp_path)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "epoch_60.pth")
    cfg = Config.fromfile(ROOT / "configs" / f"{family}_maskrcnn_sample.py")
    init_default_scope(cfg.default_scope)
    settings = cfg.model.backbone.to_dict()
    if family == "revcol":
        settings["arch"] = "nano"
    backbone = MODELS.build(settings)
    report = load_pretrained(backbone, tmp_path / "epoch_60.pth")
    assert report.unexpected == []
    assert {name.split(".")[0] for name in report.missing} <= {"pyramid"}
    assert all(name.startswith("head.") for name in report.skipped)
    for name in report.loaded:
        if name != "pos_embed":  # resized
            torch.testing.assert_close(backbone.state_dict()[name], model.backbone.state_dict()[name], rtol=0, atol=0)
