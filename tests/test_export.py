"""Model files: onnxruntime and torch.export give PyTorch's numbers for any number and size of images."""

import logging
import re

import pytest
import torch
from archs import small_arch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from tool_runs import ROOT, verb
from torch import nn

import backbones
from backbones.cli import export
from backbones.config.lookup import import_host
from backbones.export import onnx_file
from backbones.export.metadata import describe
from backbones.export.outputs import AdaptiveMean, Network
from backbones.export.program import BOUND, largest_error, trace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="this PyTorch exports no free sizes"),
    pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False:UserWarning"),  # mmseg
    pytest.mark.filterwarnings("ignore:The arguments `dropout` in MultiheadAttention:DeprecationWarning"),  # mmdet
]

VIT = dict(embed_dims=48, depth=1, num_heads=2)
REVCOL = dict(channels=(8, 16, 32, 64), depths=(1, 1, 1, 1), num_columns=2)
IN_ONNX = {
    "RevCol": dict(arch=REVCOL),
    "RevColViT": dict(arch=small_arch("RevColViT"), img_size=64),
    "PlainViT": dict(arch=dict(VIT, depth=2), window_size=3, global_blocks=(1,), rel_pos=64, pyramid=None),
    "DINOv2": dict(arch=VIT, img_size=42, registers=4, pyramid=None),
    "DINOv3": dict(arch=VIT, window_size=3, pyramid=None),
    "EVA02": dict(arch=VIT, img_size=42, pyramid=None),
    "BEiT": dict(arch=VIT, img_size=48, pyramid=None),
    "HybridViT": dict(arch=dict(small_arch("HybridViT"), depth=2), taps=(0, 1)),
}
IN_CAMPAIGN = ("RevColViT", "DINOv3", "EVA02", "BEiT")
LEVELS = dict(_delete_=True, type="backbones.RevCol", arch=REVCOL, out_indices=(1, 2, 3))
DETECTORS = {  # kinds of outputs
    "retinanet/retinanet_r50_fpn_1x_coco.py": ("class_scores", "boxes"),
    "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py": ("class_scores", "boxes", "centerness"),
}


@pytest.fixture(autouse=True)
def _tracing_is_not_logged(monkeypatch):
    """Under pytest the tracer writes a record for every symbol, a third of its time."""
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)


def draw(model: nn.Module) -> nn.Module:
    """Weights for which every term counts: fresh ones are close to nothing behind layer scales."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            nn.init.uniform_(parameter, 0.5, 1.0)
    return model


def write(path, base: str, **model):
    path.write_text(f"_base_ = {base!r}\nmodel = {model!r}\n")
    return path


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in IN_CAMPAIGN else []) for name in IN_ONNX]
)
def test_backbone_has_the_same_maps_in_onnxruntime(name, tmp_path):
    network = Network(draw(getattr(backbones, name)(**IN_ONNX[name])))
    onnx_file.save(trace(network), tmp_path / "a.onnx", network.names, {})
    run = onnx_file.load(tmp_path / "a.onnx")
    assert largest_error(network, run) < 1e-5
    images = torch.randn(3, 3, 32, 47)  # the smallest side
    for got, wanted in zip(run(images), network(images), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def build(host: str, config) -> tuple[Network, dict]:
    """A host's model with drawn weights, and its metadata."""
    cfg = Config.fromfile(config)
    import_host(host)
    init_default_scope(host)
    network = Network(draw(MODELS.build(cfg.model)))
    return network, describe(network, cfg)


def test_segmentor_gives_logits_of_each_pixel(tmp_path):
    """UPerNet on DeepViT's block taps: adaptive pools, batch norms, re-attention."""
    model = dict(
        backbone=dict(_delete_=True, type="DeepViT", arch=dict(VIT, depth=4), pyramid="taps"),
        decode_head=dict(in_channels=[48] * 4, channels=16),
        auxiliary_head=None,
    )
    config = write(tmp_path / "upernet.py", f"{ROOT}/configs/deepvit_upernet_ade20k.py", **model)
    network, facts = build("mmseg", config)
    run = trace(network).module()
    assert largest_error(network, run) < 1e-6
    (logits,) = run(torch.zeros(2, 3, 75, 101))
    assert logits.shape == (2, 150, 75, 101)
    assert (facts["classes"][:2], facts["strides"], facts["channels"]) == (["wall", "building"], [1], [150])


def test_rtmdet_gives_its_raw_maps_and_carries_what_decoding_needs(tmp_path):
    model = dict(
        backbone=LEVELS,
        neck=dict(in_channels=[16, 32, 64], out_channels=16),
        bbox_head=dict(in_channels=16, feat_channels=16),
    )
    network, facts = build("mmdet", write(tmp_path / "a.py", f"{ROOT}/configs/revcol_rtmdet_coco.py", **model))
    run = trace(network).module()
    assert largest_error(network, run) < 1e-6
    sizes = [(12, 16), (6, 8), (3, 4)]  # of images padded to 96 x 128
    maps = run(torch.zeros(2, 3, 75, 101))
    assert [tuple(m.shape) for m in maps] == [(2, c, *size) for c in (80, 4) for size in sizes]
    assert facts["outputs"] == [f"{kind}{i}" for kind in ("class_scores", "boxes") for i in range(3)]
    assert (facts["strides"], facts["channels"]) == ([8, 16, 32] * 2, [80] * 3 + [4] * 3)
    assert (facts["classes"][0], facts["channel_order"], facts["mean"]) == ("person", "RGB", [123.675, 116.28, 103.53])


@pytest.mark.parametrize("base", DETECTORS)
def test_detector_of_mmdet_has_a_program_for_all_sizes(base, tmp_path):
    neck = dict(type="FPN", in_channels=[16, 32, 64], out_channels=32, num_outs=5, add_extra_convs="on_output")
    head = dict(in_channels=32, feat_channels=32, stacked_convs=1)
    model = dict(backbone=LEVELS, neck=dict(neck, _delete_=True), bbox_head=head)
    network, facts = build("mmdet", write(tmp_path / "detector.py", f"mmdet::{base}", **model))
    kinds = DETECTORS[base]
    assert facts["outputs"] == [f"{kind}{i}" for kind in kinds for i in range(5)]
    assert facts["strides"] == [8, 16, 32, 64, 128] * len(kinds)
    assert largest_error(network, trace(network).module()) < 1e-6


def test_backbone_of_other_patches_has_a_program_for_all_sizes():
    pyramid = dict(type="SimpleFeaturePyramid", num_outs=5)
    network = Network(draw(backbones.CeiT(dict(VIT, patch_size=12), pyramid=pyramid)))
    assert largest_error(network, trace(network).module()) < 1e-6


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (6, 4)])
def test_adaptive_mean_is_the_adaptive_pool_also_in_onnxruntime(size, tmp_path):
    free = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(AdaptiveMean(size), (torch.zeros(2, 3, 9, 13),), dynamic_shapes=(free,))
    onnx_file.save(program, tmp_path / "a.onnx", ["means"], {})
    x = torch.randn(1, 3, 7, 11)
    for means in (AdaptiveMean(size)(x), *onnx_file.load(tmp_path / "a.onnx")(x)):
        torch.testing.assert_close(means, nn.AdaptiveAvgPool2d(size)(x))


def test_commands_and_example_of_the_page_run(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "learn" / "export.md").read_text()
    trained, _, alone = re.findall(r"^python tools/export\.py (.*)$", page, flags=re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    config = classifier(tmp_path)
    verb("export", *trained.replace("configs/revcol_flowers.py", str(config)).replace(*weights(config)).split())
    assert float(re.findall(r"three sizes: (\S+)", capsys.readouterr().out)[0]) < 1e-5
    verb("export", *alone.split())
    assert "note: no CHECKPOINT is given, so the weights are random" in capsys.readouterr().err
    assert (tmp_path / "deit.pt2").is_file()

    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 20
    Image.effect_mandelbrot((120, 80), (-2, -1, 1, 1), 50).save(tmp_path / "photo.jpg")
    exec(example, {})
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert sorted(name for name, _ in printed) == ["daisy", "rose", "tulip"]
    assert sum(float(score) for _, score in printed) == pytest.approx(1, abs=2e-3)


def classifier(folder):
    """A small classifier's config."""
    trunk = dict(_delete_=True, type="CaiTTrunk", arch=VIT, img_size=64)
    return write(folder / "cait.py", f"{ROOT}/configs/cait_flowers.py", backbone=trunk, head=dict(num_classes=3))


def weights(config) -> tuple[str, str]:
    """The page's checkpoint, and one as a training of the config writes it."""
    cfg = Config.fromfile(config)
    import_host("mmpretrain")
    init_default_scope("mmpretrain")
    model = draw(MODELS.build(cfg.model))
    file = config.with_suffix(".pth")
    torch.save(
        dict(meta=dict(dataset_meta=dict(classes=("daisy", "rose", "tulip"))), state_dict=model.state_dict()), file
    )
    return "work_dirs/revcol_flowers/epoch_170.pth", str(file)


def test_file_that_differs_is_removed(tmp_path, monkeypatch, fail):
    assert BOUND == 1e-4
    monkeypatch.setattr(export, "BOUND", -1.0)
    file = tmp_path / "model.pt2"
    message = fail("export", classifier(tmp_path), "-o", file, "--format", "torch")
    assert re.match(r".*model.pt2 is removed: its outputs differ from PyTorch's by .* of the largest value", message)
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"], "MaskRCNN has two stages: .* no fixed graph of tensors"),
        (["mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py"], "DINO decodes queries with deformable attention"),
        (["RevColl"], r"RevColl is neither a config \(FILE.py\) nor a backbone: .*RevCol"),
        (["RevCol", "--arch", "tinny"], "RevCol: unknown arch 'tinny'"),
        (["RevCol", "none.pth"], "RevCol: .*none.pth"),
        (["densebackbones::revcol_flowers.py", "none.pth"], "checkpoint none.pth does not exist"),
        (["densebackbones::revcol_flowers.py", "--arch", "tiny"], "--arch and --options belong to a backbone"),
        (["RevCol", "--format", "torch"], r"the name of a file of --format torch must end in \.pt2"),
    ],
)
def test_wrong_input_is_named(arguments, message, tmp_path, fail):
    assert re.search(message, fail("export", *arguments, "-o", tmp_path / "model.onnx"))
    assert list(tmp_path.iterdir()) == []


def test_existing_file_and_missing_packages_are_named(tmp_path, monkeypatch, fail):
    file = tmp_path / "model.onnx"
    monkeypatch.setattr(onnx_file, "PACKAGES", ("onnx", "no_such_runtime"))
    message = fail("export", "RevCol", "-o", file)
    assert "needs no_such_runtime; install them: pip install 'densebackbones[export]'" in message
    file.write_text("mine")
    assert "exists and is left alone" in fail("export", "RevCol", "-o", file)
    assert file.read_text() == "mine"
