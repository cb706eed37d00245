"""tools/export_weights.py: a trained model's backbone goes into another model, bit for bit."""

import pytest
import torch
from archs import VIT, small_arch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from tool_runs import run, verb

pytest.importorskip("mmpretrain")

import backbones.classification  # noqa: F401  (registers)
from backbones.checkpoints import load_pretrained

HEADS = {  # dense backbone: backbone and head of its classifier
    "RevCol": ("RevCol", "RevColHead"),
    "RevColViT": ("RevColViTTrunk", "RevColHead"),
    "PlainViT": ("ViTTrunk", "ClassTokenHead"),
    "DeiT": ("DeiTTrunk", "DistilledHead"),
    "CaiT": ("CaiTTrunk", "CaiTHead"),
    "DeepViT": ("DeepViTTrunk", "ClassTokenHead"),
    "CeiT": ("CeiTTrunk", "CeiTHead"),
    "HybridViT": ("HybridViTTrunk", "ClassTokenHead"),
}


@pytest.fixture(params=HEADS)
def trained(request, tmp_path):
    """(class, its arguments, checkpoint of a classifier as a training writes it, maps of its backbone)."""
    init_default_scope("mmpretrain")
    name = request.param
    trunk, head = HEADS[name]
    arguments = dict(arch=small_arch(name)) | ({} if name == "RevCol" else dict(img_size=64))
    cfg = dict(type="DenseClassifier", backbone=dict(type=trunk, **arguments), head=dict(type=head, num_classes=3))
    model = MODELS.build(cfg).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path / "epoch_1.pth"
    meta = dict(cfg=Config(dict(model=cfg)).pretty_text, epoch=1, iter=1)
    torch.save(dict(meta=meta, state_dict=model.state_dict(), optimizer={}), path)
    if name != "RevCol":
        arguments["pyramid"] = None
    net = MODELS.build(dict(type=name, **arguments)).eval()
    net.load_state_dict(model.backbone.state_dict())
    with torch.no_grad():
        return name, arguments, path, net(torch.ones(1, 3, 64, 64))


@pytest.mark.parametrize("format_", ["pth", "safetensors"])
@pytest.mark.parametrize("layout", ["ours", "official"])
def test_round_trip_is_exact(trained, layout, format_, tmp_path):
    name, arguments, checkpoint, expected = trained
    out = tmp_path / f"backbone.{format_}"
    verb("export-weights", checkpoint, "-o", out, "--layout", layout, "--format", format_)
    net = MODELS.build(dict(type=name, **arguments)).eval()
    report = load_pretrained(net, out)
    assert report.complete
    assert report.skipped == []
    with torch.no_grad():
        for got, want in zip(net(torch.ones(1, 3, 64, 64)), expected, strict=True):
            assert torch.equal(got, want)
    if format_ == "pth":
        official = {"CaiT": ("model", "module."), "DeepViT": ("state_dict", ""), "HybridViT": (None, "")}
        wrapper, prefix = official.get(name, ("model", "")) if layout == "official" else ("state_dict", "")
        content = torch.load(out, weights_only=True)
        weights = content[wrapper] if wrapper else content
        assert set(weights) == {f"{prefix}{key}" for key in net.state_dict()}


def test_a_classifiers_checkpoint_starts_a_detectors_backbone(trained):
    name, arguments, checkpoint, expected = trained
    net = MODELS.build(
        dict(type=name, **arguments, init_cfg=dict(type="Pretrained", checkpoint=str(checkpoint)))
    ).eval()
    net.init_weights()
    with torch.no_grad():
        assert torch.equal(net(torch.ones(1, 3, 64, 64))[-1], expected[-1])


def test_unsupported_models_are_refused(tmp_path, fail):
    bare = tmp_path / "bare.pth"
    torch.save({"state_dict": {"backbone.x": torch.zeros(1)}}, bare)
    assert "has no config of its training" in fail("export-weights", bare, "-o", tmp_path / "out.pth")
    stock = "model = dict(backbone=dict(type='ResNet'))"
    torch.save({"state_dict": {"backbone.x": torch.zeros(1)}, "meta": dict(cfg=stock)}, bare)
    assert "is a ResNet, which is not a backbone of this package" in fail(
        "export-weights", bare, "-o", tmp_path / "out.pth"
    )
    (tmp_path / "out.pth").touch()
    assert "exists and is left alone" in fail("export-weights", bare, "-o", tmp_path / "out.pth")


def test_pyramid_stays_behind_in_the_official_layout(tmp_path):
    init_default_scope("mmdet")
    net = MODELS.build(dict(type="PlainViT", arch=VIT))
    cfg = "model = dict(backbone=dict(type='backbones.PlainViT'))"
    state = {f"backbone.{key}": value for key, value in net.state_dict().items()} | {"head.x": torch.zeros(1)}
    torch.save({"state_dict": state, "meta": dict(cfg=cfg)}, tmp_path / "detector.pth")
    result = run("export-weights", tmp_path / "detector.pth", "-o", tmp_path / "out.pth", "--layout", "official")
    assert result.returncode == 0, result.stderr
    assert "weights of the pyramid are left out" in result.stderr
    assert "without head" in result.stdout
    assert not [key for key in torch.load(tmp_path / "out.pth", weights_only=True)["model"] if "pyramid" in key]
