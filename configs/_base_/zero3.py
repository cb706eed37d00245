"""DeepSpeed's ZeRO-3: parameters, gradients and the optimizer's state are divided over the processes.

Name it beside the config that is trained, in a file of your own:

    _base_ = [__import__("backbones").config_path(name) for name in ("CONFIG.py", "_base_/zero3.py")]

    bash tools/dist_train.sh MY_CONFIG.py GPUS

Every process has to run the same modules in the same order; those of Mask R-CNN do not, see docs/learn/sharding.md.
"""

runner_type = "FlexibleRunner"
strategy = dict(type="ZeroStrategy", zero_optimization=dict(stage=3))
