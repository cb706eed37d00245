"""DeepSpeed's ZeRO-2: gradients and the optimizer's state are divided over the processes.

Name it beside the config that is trained, in a file of your own:

    _base_ = [__import__("backbones").config_path(name) for name in ("CONFIG.py", "_base_/zero2.py")]

    bash tools/dist_train.sh MY_CONFIG.py GPUS
"""

runner_type = "FlexibleRunner"
strategy = dict(type="ZeroStrategy", zero_optimization=dict(stage=2))
