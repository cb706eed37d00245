"""One rank of the data-parallel test: ``ddp_worker.py FOLDER KWARGS RANK``.

Rank 0 writes the gradients of each mode.
"""

import ast
import sys

import torch
import torch.distributed as dist
from test_reversible import backward, build, image
from torch.nn.parallel import DistributedDataParallel

folder, kwargs, rank = sys.argv[1], ast.literal_eval(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
x = image(size=(4, 3, 48, 64))[2 * rank : 2 * rank + 2]
for mode in (None, 1, 3):
    for find_unused in (False, True):
        net = build(mode, **kwargs)
        grads = backward(DistributedDataParallel(net, find_unused_parameters=find_unused), x)
        if rank == 0:
            torch.save({k.removeprefix("module."): g for k, g in grads.items()}, f"{folder}/{mode}_{find_unused}.pt")
dist.destroy_process_group()
