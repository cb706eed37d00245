"""``drop-in``: the written config, the printed changes, and refused configs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from tool_runs import TOOLS, run, verb

from backbones import RevCol
from backbones.config.hosts import find_config
from backbones.config.swap import BACKBONES
from backbones.config.write import render

# of the hosts' own code
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

RETINANET = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
UPERNET = "mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py"


@pytest.fixture
def write(tmp_path, capsys):
    """Runs the tool in this process; gives the written config's path and the output."""

    def write_(config: str, backbone: str, *arguments: object) -> tuple[Path, str]:
        out = tmp_path / "new" / "config.py"
        verb("drop-in", config, "--backbone", backbone, *arguments, "-o", out)
        return out, capsys.readouterr().out

    return write_


def model_of(cfg: Config) -> torch.nn.Module:
    init_default_scope(cfg.default_scope)
    with torch.device("meta"):
        return MODELS.build(cfg.model)


# ------------------------------------------------------------------------------------------------------------- written
def test_written_config_is_the_difference_and_the_diff_has_reasons(write):
    path, printed = write(RETINANET, "RevCol", "--arch", "tiny")
    assert path.read_text() == (
        '"""retinanet_r50_fpn_1x_coco with RevCol; written by densebackbones drop-in."""\n\n'
        '_base_ = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"\n'
        "model = dict(\n"
        '    backbone=dict(_delete_=True, type="backbones.RevCol", arch="tiny", out_indices=(1, 2, 3)),\n'
        "    neck=dict(in_channels=[128, 256, 512], start_level=0),\n"
        ")\n"
        "optim_wrapper = dict(\n"
        '    constructor="backbones.DenseLayerDecayOptimWrapperConstructor",\n'
        "    paramwise_cfg=dict(layer_decay_rate=1.0, custom_keys=dict(alpha=dict(decay_mult=0.0))),\n"
        '    optimizer=dict(_delete_=True, type="AdamW", lr=0.0001, weight_decay=0.05),\n'
        ")\n"
    )
    diff, _, last = printed.rstrip().rpartition("\n\n")
    assert f"```\n{diff}\n```" in (ROOT / "README.md").read_text()
    assert last == f"wrote {path}; to train it: densebackbones train {path}"
    cfg = Config.fromfile(path)
    assert cfg.model.backbone == dict(type="backbones.RevCol", arch="tiny", out_indices=(1, 2, 3))
    assert cfg.model.bbox_head == Config.fromfile(find_config(RETINANET)).model.bbox_head
    assert cfg.optim_wrapper.optimizer == dict(type="AdamW", lr=1e-4, weight_decay=0.05)


@pytest.mark.slow  # a process of its own
@pytest.mark.parametrize(("config", "style"), [(RETINANET, "scope"), (UPERNET, "custom_imports")])
def test_written_config_needs_mmengine_only(config, style, write):
    path, _ = write(config, "RevCol", "--style", style)
    code = (
        "import torch; from mmengine.config import Config; from mmengine.registry import MODELS, init_default_scope;"
        f"cfg = Config.fromfile({str(path)!r}); init_default_scope(cfg.default_scope);"
        "torch.set_default_device('meta'); model = MODELS.build(cfg.model);"
        "print(type(model.backbone).__module__, cfg.model.backbone.type)"
    )
    printed = subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], text=True, timeout=120)
    name = "RevCol" if style == "custom_imports" else "backbones.RevCol"
    assert printed.splitlines()[-1] == f"backbones.revcol {name}"


def test_ones_own_config_stays_the_base(tmp_path, write):
    own = tmp_path / "own.py"
    own.write_text(f"_base_ = {RETINANET!r}\nmodel = dict(bbox_head=dict(num_classes=3))\n")
    path, _ = write(str(own), "CeiT", "--arch", "tiny")
    assert '_base_ = "../own.py"' in path.read_text()
    assert Config.fromfile(path).model.bbox_head.num_classes == 3


def test_lists_are_written_whole(write):
    path, _ = write("mmdet::dyhead/atss_r50_fpn_dyhead_1x_coco.py", "RevCol")
    stock = Config.fromfile(find_config("mmdet::dyhead/atss_r50_fpn_dyhead_1x_coco.py")).model.neck
    fpn, dyhead = Config.fromfile(path).model.neck
    assert fpn == {**stock[0], "in_channels": [128, 256, 512], "start_level": 0}
    assert dyhead == stock[1]


def test_long_values_are_broken_into_lines_that_say_the_same():
    value = {"a.b": [dict(type="X", betas=(0.9,), text="it's", deep=dict(n=None, xs=list(range(40))))] * 2, "c": -1e-5}
    text = render(value)
    assert eval(text) == value
    assert max(map(len, text.splitlines())) <= 120
    assert text.count("\n") > 40


# ---------------------------------------------------------------------------------------------- necks and heads
@pytest.mark.parametrize(
    ("config", "backbone", "expected"),
    [
        (  # reads the coarsest map first
            "mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py",
            "RevCol",
            {"neck.in_channels": [512, 256, 128], "backbone.out_indices": (1, 2, 3)},
        ),
        (
            "mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py",
            "RevCol",
            {"neck.in_channels": 512, "backbone.out_indices": (3,), "data_preprocessor.bgr_to_rgb": True},
        ),
        (
            "mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py",
            "HybridViT",
            {
                "decode_head.in_channels": 768,
                "decode_head.in_index": 2,
                "decode_head.c1_in_channels": 256,
                "auxiliary_head.in_channels": 768,
                "auxiliary_head.in_index": 1,
                "backbone.out_indices": (0, 2, 3),
                "pretrained": None,
                "data_preprocessor.mean": [127.5] * 3,
            },
        ),
        (
            "mmseg::knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py",
            "RevCol",
            {"decode_head.kernel_generate_head.in_channels": 512, "decode_head.kernel_generate_head.in_index": 1},
        ),
        pytest.param(
            "mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py",
            "RevCol",
            {"neck": None, "decode_head.in_channels": [64, 128, 256, 512], "auxiliary_head.in_channels": 256},
            marks=pytest.mark.long,
        ),
        pytest.param(
            "mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py",
            "CaiT",
            {"neck.embed_dim": 384, "decode_head.in_channels": [384] * 4, "backbone.taps": (5, 11, 17, 23)},
            marks=pytest.mark.slow,
        ),
        ("mmpretrain::resnet/resnet50_8xb32_in1k.py", "DeiT", {"head.in_channels": 768, "backbone.pyramid": None}),
    ],
)
def test_readers_get_the_channels_of_their_levels(config, backbone, expected, write):
    path, _ = write(config, backbone)
    cfg = Config.fromfile(path)
    for key, value in expected.items():
        node = cfg.model
        for part in key.split("."):
            node = node[part]
        assert node == value, key
    model_of(cfg)


def test_backbone_options_and_weights(tmp_path, write):
    weights = tmp_path / "ceit_tiny.pth"
    net = BACKBONES["CeiT"]("tiny")
    torch.save({"model": net.state_dict()}, weights)
    path, printed = write(
        RETINANET,
        *("CeiT", "--arch", "tiny", "--options", "window_size=14", "global_blocks=2,5,8,11", "--pretrained", weights),
        "--check",
    )
    assert Config.fromfile(path).model.backbone == dict(
        type="backbones.CeiT",
        arch="tiny",
        window_size=14,
        global_blocks=[2, 5, 8, 11],
        norm_eval=True,  # it has batch norms
        out_indices=(1, 2, 3),
        init_cfg=dict(type="Pretrained", checkpoint=str(weights)),
    )
    assert Config.fromfile(path).optim_wrapper.paramwise_cfg.layer_decay_rate == 0.85
    assert "every trainable parameter of the backbone has a gradient, prediction is a DetDataSample" in printed


# ---------------------------------------------------------------------------------------------------------- optimizers
def test_optimizer_decays_by_depth(write):
    path, _ = write(RETINANET, "RevCol", "--layer-decay", "0.9")
    cfg = Config.fromfile(path)
    model = model_of(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    by_parameter = {
        id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }
    settings = {name: by_parameter[id(p)] for name, p in model.named_parameters()}
    assert settings["backbone.stem.0.weight"] == pytest.approx((1e-4 * 0.9**14, 0.05))
    assert settings["bbox_head.retina_cls.weight"] == pytest.approx((1e-4, 0.05))
    assert settings["backbone.subnet0.alpha0"][1] == 0.0


@pytest.mark.parametrize(
    ("config", "optimizer", "custom_keys", "eta_min"),
    [
        # AdamW stays; the backbone's smaller rate is replaced by layer decay
        (
            "mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
            dict(type="AdamW", lr=2e-4, weight_decay=1e-4),
            dict(alpha=dict(decay_mult=0.0), sampling_offsets=dict(lr_mult=0.1), reference_points=dict(lr_mult=0.1)),
            None,
        ),
        # 64 images a step, and a schedule that ends at a twentieth of the rate
        (
            "mmdet::yolox/yolox_s_8xb8-300e_coco.py",
            dict(type="AdamW", lr=4e-4, weight_decay=0.05),
            dict(alpha=dict(decay_mult=0.0)),
            2e-5,
        ),
        (UPERNET, dict(type="AdamW", lr=6e-5, weight_decay=0.01), dict(alpha=dict(decay_mult=0.0)), 6e-7),
        (
            "mmpretrain::resnet/resnet50_8xb32_in1k.py",
            dict(type="AdamW", lr=2.5e-4, weight_decay=0.05),
            dict(alpha=dict(decay_mult=0.0)),
            None,
        ),
    ],
)
def test_optimizer_is_adamw_at_the_configs_batch_size(config, optimizer, custom_keys, eta_min, write):
    path, _ = write(config, "RevCol")
    cfg = Config.fromfile(path)
    assert cfg.optim_wrapper.optimizer == optimizer
    assert cfg.optim_wrapper.paramwise_cfg == dict(layer_decay_rate=1.0, custom_keys=custom_keys)
    schedules = cfg.param_scheduler if isinstance(cfg.param_scheduler, list) else [cfg.param_scheduler]
    assert [s["eta_min"] for s in schedules if s.get("eta_min")] == ([eta_min] if eta_min else [])


# -------------------------------------------------------------------------------------------------------------- refused
@pytest.mark.parametrize(
    ("config", "answer"),
    [
        ("mmdet3d::x/y.py", "names the host 'mmdet3d'; allowed are mmdet, mmseg, mmpretrain, densebackbones"),
        ("nothing.py", "; stock configs have names like mmdet::"),
        ("mmdet::retinanet/retinanet_r50_fpn_1x.py", f"retinanet_r50_fpn_1x.py; similar: {RETINANET}"),
        ("mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py", "roi_head: it reads the backbone without a neck"),
        ("mmdet::detectors/htc_r50-rfp_1x_coco.py", "neck: RFP holds a second backbone.\nBy hand: start from"),
        ("mmdet::rtmdet/rtmdet_tta.py", "model: it has no backbone"),
        ("mmseg::dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512.py", "VisionTransformer does not return feature maps only"),
        ("mmseg::unet/unet-s5-d16_fcn_4xb4-40k_hrf-256x256.py", "UNet returns strides (16, 8, 4, 2, 1), of which"),
        pytest.param(
            *("mmseg::setr/setr_vit-l_mla_8xb2-160k_ade20k-512x512.py", "MLANeck joins maps of equal stride"),
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_config_it_cannot_handle_is_refused_with_the_part(config, answer, tmp_path, fail):
    assert answer in fail("drop-in", config, "--backbone", "RevCol", "-o", tmp_path / "new.py")
    assert not (tmp_path / "new.py").exists()


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["--arch", "tinny"], "RevCol: unknown arch 'tinny' of RevCol; choose from ['tiny',"),
        (["--options", "colums=3"], "RevCol: RevCol.__init__() got an unexpected keyword argument 'colums'"),
        (["--layer-decay", "1.5"], "--layer-decay is 1.5; it must be in (0, 1]"),
        (["--pretrained", "no.pth"], "--pretrained: there is no file no.pth"),
        (["-o", "new.yaml"], "a config with a _base_ is a Python file"),
    ],
)
def test_wrong_argument_is_refused(arguments, answer, tmp_path, fail):
    message = fail("drop-in", RETINANET, "--backbone", "RevCol", "-o", tmp_path / "new.py", *arguments)
    assert answer in message


def test_nothing_is_overwritten(tmp_path, fail):
    (tmp_path / "mine.py").write_text("precious = 1\n")
    message = fail("drop-in", RETINANET, "--backbone", "RevCol", "-o", tmp_path / "mine.py")
    assert "exists and is left alone" in message
    assert (tmp_path / "mine.py").read_text() == "precious = 1\n"


def test_pure_python_configs_are_refused(tmp_path, fail):
    lazy = tmp_path / "lazy.py"
    lazy.write_text("from mmengine.config import read_base\nwith read_base():\n    from .other import *\n")
    assert "pure-Python style" in fail("drop-in", lazy, "--backbone", "RevCol", "-o", tmp_path / "new.py")


def test_weights_that_do_not_fit_are_refused_by_the_check(tmp_path, fail):
    torch.save(
        {"model": RevCol(dict(channels=(8, 16, 32, 64), depths=(1, 1, 1, 1), num_columns=2)).state_dict()},
        tmp_path / "w.pth",
    )
    arguments = ("--arch", "tiny", "--pretrained", tmp_path / "w.pth", "--check", "-o", tmp_path / "new.py")
    assert "and RevCol differ in the shapes of" in fail("drop-in", RETINANET, "--backbone", "RevCol", *arguments)


@pytest.mark.long  # the page of own data has it, too
def test_as_a_command(tmp_path):
    result = run("drop-in", UPERNET, "--backbone", "RevCol", "--arch", "tiny", "--check", "-o", tmp_path / "upernet.py")
    assert result.returncode == 0, result.stderr
    assert f"wrote {tmp_path}/upernet.py; to train it: python {TOOLS}/train.py {tmp_path}/upernet.py" in result.stdout
    assert "EncoderDecoder with" in result.stdout.splitlines()[-1]
    assert (tmp_path / "upernet.py").is_file() and ROOT not in (tmp_path / "upernet.py").parents
