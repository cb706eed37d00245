"""Information about a model: counted memory is the allocator's, parts add up, wrong input is refused."""

import re
import shlex

import pytest
import torch
from archs import small_arch
from tool_runs import ROOT, verb
from torch import nn

from backbones import RevCol, cli, zoo
from backbones.config.swap import BACKBONES
from backbones.info import memory
from backbones.info.counting import Allocations, mac_counter, macs
from backbones.info.model import backbone_parts, build, levels, other_parts
from backbones.info.subject import read_model

# of the hosts' own code
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

CPU = torch.device("cpu")
CONFIG = "revcol_maskrcnn_coco.py"
SMALL = ("--size", 64, 64, "--batch", 1)


# ------------------------------------------------------------------------------------------------------------ counters
def test_allocations_follow_what_is_made_and_freed():
    x = torch.zeros(256)  # 1 KiB, there before
    with Allocations() as allocations:
        y = x + 1
        x.add_(y)
        y.view(16, 16).mul_(2)
        assert (allocations.level, allocations.peak) == (1024, 1024)
        z = torch.cat([y, y])
        assert allocations.level == 3 * 1024
        del y
        assert (allocations.level, allocations.peak) == (2 * 1024, 3 * 1024)
        del z
    assert (allocations.level, allocations.peak) == (0, 3 * 1024)


def test_attention_mixed_over_the_heads_is_counted():
    q, weight, shift = torch.zeros(2, 3, 10, 4), torch.eye(3), torch.zeros(3)
    products = 2 * 3 * 10 * 10 * (4 + 4)
    mix = 2 * 3 * 3 * 10 * 10
    for pre, mixes in ((None, 1), (weight, 2)):
        with mac_counter() as counter:
            torch.ops.backbones.mixed_attention(q, q, q, 1.0, pre, weight, shift)
        assert macs(counter) == products + mixes * mix


# -------------------------------------------------------------------------------------------------------------- memory
@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_counted_memory_is_what_the_allocator_gives_in_every_mode(name):
    settings = dict(type=f"backbones.{name}", arch=small_arch(name), drop_path_rate=0.1)
    counted = memory.count_step(settings, (2, 3, 192, 256), CPU)
    measured = memory.measure_step(settings, (2, 3, 192, 256), CPU)
    assert counted.keys() == measured.keys()
    assert len(counted) >= 2
    for mode, size in counted.items():
        assert size == pytest.approx(measured[mode], rel=0.1), mode


@pytest.mark.slow
def test_counted_memory_of_windows_and_of_other_packages_backbones():
    windows = dict(type="PlainViT", arch=small_arch("PlainViT"), window_size=7, global_blocks=(3,), rel_pos=True)
    read_model("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py")  # enters mmdet's scope
    resnet = dict(type="ResNet", depth=18, frozen_stages=1)
    # Large enough that the copies of weights inside CPU convolutions, which are not counted, make little of it.
    for settings, shape in ((windows, (2, 3, 320, 384)), (resnet, (2, 3, 512, 640))):
        counted = memory.count_step(settings, shape, CPU)
        assert counted == pytest.approx(memory.measure_step(settings, shape, CPU), rel=0.1)


def test_modes_of_columns_have_the_present_and_the_automatic_distance():
    names = list(RevCol(dict(small_arch("RevCol"), num_columns=16), keep_every=3).memory_modes())
    assert names == ["plain", "reversible", "keep_every=3", "keep_every=4", "keep_every=5 ('auto')"]


def test_state_of_frozen_parameters_is_their_value_alone():
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 1, bias=False))
    model[0].requires_grad_(False)
    assert memory.state_bytes(model) == 4 * 100 + 16 * 10


# --------------------------------------------------------------------------------------------------------------- parts
def test_parts_of_a_detector_add_up_and_a_head_of_proposals_has_a_reason():
    (row,) = zoo.rows("revcol_maskrcnn_coco")
    subject = read_model(CONFIG)
    size = tuple(row["Metadata"]["Input size"])
    parts, output = backbone_parts(subject.backbone, size)
    stem, backbone = parts
    neck, rpn, roi = other_parts(subject.model, output, size)
    assert (stem.name, stem.parameters) == ("stem", 64 * (3 * 16 + 1) + 2 * 64)
    assert stem.macs == 64 * 3 * 16 * (size[0] // 4) * (size[1] // 4)
    assert backbone.macs == row["Metadata"]["FLOPs"]
    assert sum(part.parameters for part in (backbone, neck, rpn, roi)) == zoo.count_parameters(subject.model)
    assert (neck.name, rpn.name) == ("neck (FPN)", "rpn_head (RPNHead)")
    assert None not in (neck.macs, rpn.macs)
    assert (roi.macs, roi.reason) == (None, "it also reads rpn_results_list")


def test_parts_of_segmentors_and_classifiers_are_counted():
    subject = read_model("revcol_upernet_ade20k.py")
    _, output = backbone_parts(subject.backbone, (64, 64))
    assert subject.size == (512, 512)
    assert [part.macs is None for part in other_parts(subject.model, output, (64, 64))] == [False, False]
    subject = read_model("ceit-tiny_imagenet.py")
    _, output = backbone_parts(subject.backbone, subject.size)
    assert levels(subject.backbone, output, subject.size) == [(None, (197, 192))]
    (head,) = other_parts(subject.model, output, subject.size)
    assert head.macs


def test_the_largest_model_is_counted_without_its_memory():
    backbone = build(dict(type="RevCol", arch="huge"))
    parts, output = backbone_parts(backbone, (800, 1333))
    assert parts[-1].parameters == 2_154_713_400
    assert levels(backbone, output, (800, 1333)) == [
        (4, (360, 200, 333)),
        (8, (720, 100, 166)),
        (16, (1440, 50, 83)),
        (32, (2880, 25, 41)),
    ]


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ("revcol_rtmdet_coco.py", (640, 640)),
        (CONFIG, (800, 1333)),
        ("revcol-base_finetune_imagenet-384.py", (384, 384)),
    ],
)
def test_size_is_that_of_the_config(config, size):
    assert read_model(config).size == size


# ---------------------------------------------------------------------------------------------------------------- verb
@pytest.mark.slow
def test_backbone_alone_takes_its_first_preset_and_is_measured(capsys):
    verb("info", "RevCol", *SMALL)
    out = capsys.readouterr().out
    assert re.search(r"^backbone \(RevCol\) +29\.94 +0\.37$", out, re.M)
    assert re.search(r"^32 +512 +2 x 2$", out, re.M)
    line = r"^RevCol tiny, 64 x 64, batch 1: plain (\S+) GiB, reversible (\S+) GiB, keep_every=4 \('auto'\) (\S+) GiB$"
    totals = re.search(line, out, re.M).groups()
    rows = re.findall(r"^(?:plain|reversible|keep_every=4 \('auto'\)) +(\S+) +(\S+) +(\S+) +fits$", out, re.M)
    assert tuple(total for _, _, total in rows) == totals
    assert all(counted == measured for counted, measured, _ in rows)
    assert "AdamW's state take 0.45 GiB" in out  # 16 bytes for each of 29.94 M


@pytest.mark.slow
def test_a_step_that_is_too_large_does_not_fit(capsys):
    verb("info", "PlainViT", "--arch", "tiny", "--size", 224, 224, "--batch", 10**6)
    out = capsys.readouterr().out
    assert re.search(r"^plain +\d+\.\d\d +- +\d+\.\d\d +does not fit$", out, re.M)
    assert re.search(r"^with_cp .*does not fit$", out, re.M)


@pytest.mark.slow
def test_images_are_padded_as_a_batch_of_the_config(capsys):
    verb("info", "revcol_maskrcnn_sample.py", "--size", 65, 90, "--batch", 1)
    out = capsys.readouterr().out
    assert "revcol_maskrcnn_sample, 96 x 96, batch 1: plain" in out
    assert re.search(
        r"^roi_head \(StandardRoIHead\) +\d+\.\d\d +MACs: not counted, it also reads rpn_results_list$", out, re.M
    )


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("RevKol",), "RevKol is neither a backbone (BEiT, "),
        (("RevCol", "--arch", "tinny"), "unknown arch 'tinny' of RevCol; choose from ['tiny', "),
        ((CONFIG, "--arch", "base"), "--arch is for a backbone alone"),
        (("RevCol", "--size", 0, 64), "--size is 0 64; give height and width"),
        (("RevCol", "--size", 16, 64), "does not take images of 64 x 16 pixels: RevCol takes a float tensor"),
        (("RevCol", "--batch", 0), "--batch is 0; give a number of images"),
    ],
)
def test_wrong_arguments_are_refused(arguments, answer, fail):
    assert answer in fail("info", *arguments)


def test_config_without_a_model_is_refused(tmp_path, fail):
    config = tmp_path / "part.py"
    config.write_text("optim_wrapper = dict()\n")
    assert f"{config} has no model.backbone" in fail("info", config)
    config.write_text("model = dict(type='Nothing', backbone=dict(type='RevCol'))\n")
    assert f"the model of {config} cannot be built" in fail("info", config)


@pytest.mark.slow
def test_commands_of_the_page_work(capsys):
    commands = re.findall(r"^densebackbones (.+)$", (ROOT / "docs/learn/info.md").read_text(), re.M)
    assert len(commands) == 2
    for command in commands:
        name, *arguments = shlex.split(command)
        arguments = ["nano" if argument == "base" else argument for argument in arguments]
        assert cli.run(name, [*arguments, *map(str, SMALL)]) == 0  # the last --size and --batch count
        assert "64 x 64, batch 1: plain" in capsys.readouterr().out
