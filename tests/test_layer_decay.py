"""Layer-wise learning-rate decay: the official groups, other hosts' backbones, the errors."""

import json
import re
import subprocess
import sys

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from backbones import RevCol

TOY = dict(channels=(8, 12, 16, 20), depths=(1, 1, 1, 1), num_columns=2)


def groups(model, **paramwise_cfg):
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor="DenseLayerDecayOptimWrapperConstructor",
            optimizer=dict(type="AdamW", lr=1.0, weight_decay=0.05),
            paramwise_cfg=paramwise_cfg,
        ),
    )
    return {name: group for group in wrapper.optimizer.param_groups for name in group["param_names"]}


class Model(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 2)


def test_groups_equal_the_official_ones(fixtures):
    official = json.loads((fixtures / "layer_decay_revcol_tiny.json").read_text())
    with torch.device("meta"):
        model = Model(RevCol("tiny"))
    got = groups(model, layer_decay_rate=official["layer_decay"])
    names = {name.removeprefix("backbone."): [g["lr"], g["weight_decay"]] for name, g in got.items()}
    heads = {
        name: value for name, value in official["params"].items() if name.startswith(("cls_blocks", "decoder_blocks"))
    }
    assert names.keys() - {"head.weight", "head.bias"} == official["params"].keys() - heads.keys()
    for name, group in names.items():
        if name in official["params"]:
            assert group == pytest.approx(official["params"][name], rel=1e-8), name
    # The official heads: the full rate, decayed unless one-dimensional. So are ours.
    assert {tuple(value) for value in heads.values()} == {tuple(names["head.weight"]), tuple(names["head.bias"])}


def test_custom_keys_multiply_and_the_longest_match_counts():
    got = groups(
        Model(RevCol(TOY)),
        layer_decay_rate=0.5,
        custom_keys={"alpha": dict(decay_mult=0.0), "subnet1.alpha3": dict(lr_mult=2.0, decay_mult=3.0)},
    )
    assert got["backbone.subnet1.alpha0"]["weight_decay"] == 0
    assert got["backbone.subnet1.alpha3"]["weight_decay"] == pytest.approx(0.15)
    assert got["backbone.subnet1.alpha3"]["lr"] == pytest.approx(2 * got["backbone.subnet1.alpha0"]["lr"])


def test_frozen_parameters_are_left_out():
    got = groups(Model(RevCol(TOY, frozen_stages=0)), layer_decay_rate=0.9)
    assert not [name for name in got if "stem" in name]


@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore``", "ignore:``build_loss``")  # mmseg's own
@pytest.mark.parametrize("host", ["mmdet", "mmseg", "mmpretrain"])
def test_models_of_each_host(host):
    """RevCol inside a real model of the host: the stem trains slowest, neck and heads at the full rate."""
    init_default_scope(host)
    backbone = dict(type="backbones.RevCol", arch=TOY)
    if host == "mmdet":
        from mmdet.registry import MODELS

        model = dict(
            type="RetinaNet",
            backbone=backbone,
            neck=dict(type="FPN", in_channels=[8, 12, 16, 20], out_channels=8, num_outs=5),
            bbox_head=dict(
                type="RetinaHead",
                num_classes=2,
                in_channels=8,
                feat_channels=8,
                anchor_generator=dict(type="AnchorGenerator", scales=[8], ratios=[1.0], strides=[4, 8, 16, 32, 64]),
            ),
        )
    elif host == "mmseg":
        from mmseg.registry import MODELS

        head = dict(type="FCNHead", in_channels=20, channels=8, in_index=3, num_classes=3)
        model = dict(type="EncoderDecoder", backbone=backbone, decode_head=head)
    else:
        from mmpretrain.registry import MODELS

        model = dict(
            type="ImageClassifier",
            backbone=backbone,
            neck=dict(type="GlobalAveragePooling"),
            head=dict(type="LinearClsHead", num_classes=2, in_channels=20),
        )
    got = groups(MODELS.build(model), layer_decay_rate=0.5)
    assert got["backbone.stem.0.weight"]["lr"] == pytest.approx(0.5**6)
    assert {g["lr"] for name, g in got.items() if not name.startswith("backbone.")} == {1.0}


def test_another_librarys_backbone_with_the_method_is_served():
    from mmpretrain.models import VisionTransformer

    arch = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16)
    got = groups(Model(VisionTransformer(arch=arch, img_size=32)), layer_decay_rate=0.5)
    assert got["backbone.cls_token"]["lr"] == pytest.approx(0.5**3)
    assert got["backbone.layers.1.attn.qkv.weight"]["lr"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(), "layer_decay_rate is None"),
        (dict(layer_decay_rate=1.2), r"layer_decay_rate is 1.2; it must lie in \(0, 1\]"),
        (dict(layer_decay_rate=0.9, norm_decay=0), "unknown keys.*norm_decay"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        groups(Model(RevCol(TOY)), **options)


def test_a_model_without_depths_is_refused():
    with pytest.raises(ValueError, match="Linear has no backbone with get_layer_depth"):
        groups(nn.Linear(2, 2), layer_decay_rate=0.9)


def test_one_table_of_the_groups_is_logged(said):
    groups(Model(RevCol(TOY)), layer_decay_rate=0.5)
    log = "\n".join(said) + "\n"
    (table,) = re.findall(r"parameter groups of the optimizer:\n(.*\n)((?: +\d+ .*\n)+)", log)
    assert table[0].split() == ["depth", "lr", "weight", "decay", "tensors", "parameters", "first"]
    depths = [int(line.split()[0]) for line in table[1].splitlines()]
    assert sorted(set(depths)) == list(range(7))
    assert depths == sorted(depths)


FOREIGN = """
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
@OPTIM_WRAPPER_CONSTRUCTORS.register_module(force=True)  # as mmpose does
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    pass
"""


@pytest.mark.slow  # a process of its own
@pytest.mark.parametrize("ours_first", [True, False])
def test_another_projects_constructor_of_the_usual_name_changes_nothing(ours_first):
    steps = ["import backbones", FOREIGN]
    code = "\n".join(
        [
            *(steps if ours_first else steps[::-1]),
            "from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as registry",
            "ours = registry.get('DenseLayerDecayOptimWrapperConstructor')",
            "print(ours.__module__, registry.get('LayerDecayOptimWrapperConstructor').__module__)",
        ]
    )
    printed = subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], text=True).split()
    assert printed == ["backbones.engine.layer_decay", "__main__"]
