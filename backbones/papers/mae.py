"""MAE (arXiv:2111.06377): after pre-training without labels, a probe or fine-tuning, against from scratch."""

from __future__ import annotations

from typing import Any

from backbones.papers._figures import accuracy_curves
from backbones.papers._runner import final
from backbones.papers._runs import Comparison, Options, Run, schedule, vit

SIDE, PATCH = 64, 8
DEPTH = 6
ARCH: dict[str, Any] = dict(embed_dims=96, depth=DEPTH, num_heads=3)
EPOCHS, PRETRAINING_EPOCHS, WARM_UP = 40, 200, 10
PRETRAINING = "pre-training"
INIT = "model.backbone.init_cfg"


def runs() -> list[Run]:
    """The pre-training; then the same network with and without its weights, whole or with all blocks frozen."""
    pretraining: Options = {
        "train_dataloader.dataset.pipeline.1.scale": SIDE,
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
        "model.backbone.img_size": SIDE,
        **{f"+model.backbone.arch.{key}": value for key, value in {"patch_size": PATCH, **ARCH}.items()},
        "model.decoder_embed_dims": 48,
        "train_cfg.max_epochs": PRETRAINING_EPOCHS,
        "default_hooks.checkpoint.interval": PRETRAINING_EPOCHS // 10,
        "param_scheduler.0.end": WARM_UP,
        "param_scheduler.1.begin": WARM_UP,
        "param_scheduler.1.end": PRETRAINING_EPOCHS,
        "param_scheduler.1.T_max": PRETRAINING_EPOCHS - WARM_UP,
    }

    def run(series: str, pretrained: bool, frozen: bool) -> Run:
        options: Options = {"model.head.type": "MeanPoolHead", "model.backbone.pos_embed": "sincos"}
        options |= {**vit(SIDE, PATCH, **ARCH), **schedule(EPOCHS, 20)}
        if frozen:
            options |= {"model.backbone.frozen_stages": DEPTH, "model.backbone.drop_path_rate": 0.0}
            options["optim_wrapper.optimizer.lr"] = 0.01  # of a linear layer
        if pretrained:
            options[f"{INIT}.type"] = "Pretrained"
        return Run(series, None, "vit_flowers.py", options, {f"{INIT}.checkpoint": PRETRAINING} if pretrained else {})

    return [
        Run(PRETRAINING, None, "vit_mae-pretrain_flowers.py", pretraining),
        run("fine-tuned", pretrained=True, frozen=False),
        run("from scratch", pretrained=False, frozen=False),
        run("linear probe", pretrained=True, frozen=True),
        run("linear probe of random weights", pretrained=False, frozen=True),
    ]


COMPARISON = Comparison(runs, {"last loss": lambda result: result["loss"], "top-1": final}, accuracy_curves)
