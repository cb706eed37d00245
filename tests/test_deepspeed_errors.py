"""What a config that trains by DeepSpeed is refused for; DeepSpeed need not be installed."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from backbones import config_path
from backbones.cli._checkpoints import check_optimizer
from backbones.cli.train import set_zero
from backbones.engine.zero import ZeroStrategy, divides, split_options
from backbones.errors import SetupError
from backbones.usage import UsageError

OPTIM = dict(optimizer=dict(type="AdamW"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(type="AmpOptimWrapper"), "float32 by DeepSpeed, with --cfg-options optim_wrapper.type=OptimWrapper"),
        (dict(accumulative_counts=2), "accumulative_counts is 2, and DeepSpeed's checkpoints lack gradients that wait"),
        (dict(clip_grad=dict(max_norm=1, norm_type=1)), "DeepSpeed takes max_norm, of the norm_type 2"),
        (dict(other=1), r"optim_wrapper has \['other'\]; with DeepSpeed it has"),
    ],
)
def test_settings_that_deepspeed_does_not_take_are_refused(settings, message):
    with pytest.raises(SetupError, match=message):
        split_options({**OPTIM, **settings})


def test_deepspeed_takes_the_norm():
    options, norm = split_options(
        dict(OPTIM, type="OptimWrapper", accumulative_counts=1, clip_grad=dict(max_norm=0.5), _scope_="mmdet")
    )
    assert options == dict(OPTIM, type="ZeroOptimWrapper", _scope_="mmdet")
    assert norm == 0.5


@pytest.mark.parametrize("stage", [2, 3])
def test_run_without_a_launcher_or_that_skips_is_refused(stage):
    cfg = Config.fromfile(config_path(f"_base_/zero{stage}.py"))
    assert divides(cfg)
    with pytest.raises(UsageError, match="--on-nan skip: DeepSpeed cannot leave a batch out"):
        set_zero(cfg, "skip")
    with pytest.raises(UsageError, match="no launcher starts them: tools/dist_train.sh CONFIG GPUS"):
        set_zero(cfg, "stop")


def test_checkpoint_of_deepspeed_is_not_resumed_without_it():
    with pytest.raises(UsageError, match="is of a training with DeepSpeed by 2 processes, this one is without it by 1"):
        check_optimizer(SimpleNamespace(), dict(optimizer=dict(processes=2)), "epoch_1.pth")


@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="it is about an environment without DeepSpeed")
def test_absent_deepspeed_is_named():
    with pytest.raises(SetupError, match='which is not installed: pip install "deepspeed<0.19"'):
        ZeroStrategy(zero_optimization=dict(stage=2))
