"""A loss that is not a number, or infinite, is found before it spoils the weights."""

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.distributed.fsdp import FullyShardedDataParallel

from backbones.errors import BadLossError

MAX_IN_A_ROW = 10  # skipped batches


@HOOKS.register_module()
class BadLossHook(Hook):
    """Stops at a loss that is NaN or infinite, or leaves its batch out; either way the weights are not updated.

    Infinite gradients of a finite loss, at which the loss scaler of mixed precision makes its step smaller, are none
    of its business.

    Args:
        on_nan: ``'stop'``, or ``'skip'``, which still stops at the tenth batch in a row.
    """

    priority = "HIGHEST"  # before the log takes the losses

    def __init__(self, on_nan: str = "stop") -> None:
        self.on_nan = on_nan
        self.bad = False
        self.in_a_row = 0

    def before_train(self, runner: Any) -> None:
        """Stand between the loss and the update of the weights."""
        wrapper, update = runner.optim_wrapper, runner.optim_wrapper.update_params

        def update_unless_bad(loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
            flag = (~loss.detach().isfinite().all()).long()
            all_reduce(flag, "max")  # several processes leave the batch out together
            self.bad = bool(flag)
            if not self.bad:
                update(loss, *args, **kwargs)
            elif self.on_nan == "skip":
                leave_out(wrapper, loss, summed=isinstance(runner.model, FullyShardedDataParallel))

        wrapper.update_params = update_unless_bad

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Name the iteration, the terms of the loss and the images."""
        if not self.bad:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        terms = {key: torch.as_tensor(value).item() for key, value in (outputs or {}).items()}
        wrong = {key: value for key, value in terms.items() if not torch.tensor(value).isfinite()}
        for key in wrong:
            del outputs[key]  # the log averages over iterations
        named = ", ".join(f"{key} {value}" for key, value in wrong.items() if key != "loss" or len(wrong) == 1)
        images = ", ".join(image_names(data_batch)) or "without names"
        what = (
            f"the loss of iteration {runner.iter + 1} is not finite ({named or 'on another process'}); images: {images}"
        )
        if self.on_nan == "stop" or self.in_a_row == MAX_IN_A_ROW:
            raise BadLossError(what + (f"; {self.in_a_row} batches in a row" if self.on_nan == "skip" else ""))
        skipped = runner.message_hub.get_info("skipped_batches", 0) + 1
        runner.message_hub.update_info("skipped_batches", skipped)
        runner.logger.warning(f"batch left out: {what} ({skipped} in all, {self.in_a_row} in a row)")


def leave_out(wrapper: Any, loss: torch.Tensor, summed: bool) -> None:
    """Count an iteration of an ``OptimWrapper`` without its gradients.

    Backward runs, as other processes wait for its sums. The gradients that accumulated before are put back, and
    applied if their update is due.

    Args:
        wrapper: The wrapper.
        loss: Of this iteration.
        summed: Whether accumulated gradients are already those of all processes; DistributedDataParallel would have
            averaged them in the backward that is left out.
    """
    parameters = [parameter for group in wrapper.optimizer.param_groups for parameter in group["params"]]
    before = [None if parameter.grad is None else parameter.grad.clone() for parameter in parameters]
    wrapper.backward(wrapper.scale_loss(loss))
    for parameter, gradient in zip(parameters, before, strict=True):
        parameter.grad = gradient
    if wrapper.should_update() and any(gradient is not None for gradient in before):
        for gradient in filter(torch.is_tensor, before) if not summed else ():
            all_reduce(gradient, "mean")
        wrapper.step()
        wrapper.zero_grad()


def image_names(batch: Any) -> Iterator[str]:
    """Paths of the images of a batch, from its data samples."""
    if isinstance(batch, dict):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        for entry in batch:
            yield from image_names(entry)
    elif isinstance(path := getattr(batch, "img_path", None), str):
        yield path
