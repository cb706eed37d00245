"""Functions in several processes that talk by gloo, forked from this one, which saves the time of the imports."""

import multiprocessing
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

LIMIT = 240  # seconds


def _child(function: Callable[..., Any], folder: str, rank: int, count: int, args: tuple) -> None:
    warnings.simplefilter("ignore")  # pytest's filters are for this process
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo", f"file://{folder}/rendezvous", timedelta(seconds=60), rank=rank, world_size=count
        )
        torch.save(function(rank, *args), f"{folder}/{rank}.pt")
        dist.barrier()
    except BaseException:
        Path(folder, f"{rank}.error").write_text(traceback.format_exc())
        sys.exit(1)


def in_processes(count: int, folder: Path, function: Callable[..., Any], *args: Any) -> list[Any]:
    """``function(rank, *args)`` of each rank, all in one process group."""
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_child, args=(function, str(folder), rank, count, args)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT)
        process.kill()  # one that waits for another that has died
    errors = [path.read_text() for path in sorted(folder.glob("*.error"))]
    assert [process.exitcode for process in processes] == [0] * count, "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]
