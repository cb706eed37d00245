"""Long trainings with changing image sizes and evaluations between: memory, file descriptors and threads stay level.

python tests/soak.py SUBJECT --steps 3000 --out FILE.json      one subject of SUBJECTS
python tests/soak.py --plot docs/soak.png FILE.json ...        a plot of several
"""

import argparse
import gc
import json
import os
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
SUBJECTS = ("revcol-1", "revcol-3", "cait-maskrcnn")  # RevCol with keep_every 1 and 3
SAMPLES = 24  # of a run; each takes half a second
WARM_UP = 0.3  # share of a run; the allocator of the system settles
ROOM = 0.02  # growth of the resident memory that is taken for noise
CONFIG = """
_base_ = "{base}"

model = dict(
    backbone=dict(arch=dict(embed_dims=48, depth=2, num_heads=2), pyramid=dict(out_channels=16)),
    neck=dict(in_channels=[16] * 4, out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, conv_out_channels=16, fc_out_channels=32),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(num_convs=1, in_channels=16, conv_out_channels=16),
    ),
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="InfiniteSampler"),
    batch_sampler=None,
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="RandomResize", scale=[(48, 48), (160, 160)], keep_ratio=True),
            dict(type="PackDetInputs"),
        ]
    ),
)
val_dataloader = dict(num_workers=0, persistent_workers=False)
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters={steps}, val_interval=max({steps} // 10, 1))
param_scheduler = []
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=max({steps} // 3, 1), max_keep_ckpts=1))
log_processor = dict(by_epoch=False)
custom_hooks = [dict(type="Sampled")]
"""


def measure() -> dict[str, int]:
    """Resident bytes, file descriptors, threads, and tensors that Python knows."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return dict(
        bytes=pages * os.sysconf("SC_PAGE_SIZE"),
        descriptors=len(os.listdir("/proc/self/fd")),
        threads=len(os.listdir("/proc/self/task")),
        tensors=sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()),
    )


def growth(samples: list[dict[str, int]], key: str) -> float:
    """Growth after the warm-up: largest value of the last third of what is left, relative to that of the first."""
    first, last = thirds(samples, key)
    return last / first - 1


def thirds(samples: list[dict[str, int]], key: str) -> tuple[int, int]:
    """Largest values of the first and of the last third of what follows the warm-up."""
    values = [sample[key] for sample in samples][int(WARM_UP * len(samples)) :]
    third = max(len(values) // 3, 1)
    return max(values[:third]), max(values[-third:])


def train_backbone(steps: int, keep_every: int) -> list[dict[str, int]]:
    """A RevCol with AdamW; a new size in each step, an evaluation every 50."""
    from backbones import RevCol

    net = RevCol(
        dict(channels=(16, 32, 64, 128), depths=(1, 1, 1, 1), num_columns=4), reversible=True, keep_every=keep_every
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    sizes = torch.Generator().manual_seed(0)
    samples = []
    for step in range(steps):
        height, width = (int(n) for n in torch.randint(32, 97, (2,), generator=sizes))
        loss = sum(f.square().mean() for f in net.train()(torch.rand(2, 3, height, width)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            with torch.no_grad():
                net.eval()(torch.rand(1, 3, width, height))
        if step % max(steps // SAMPLES, 1) == 0:
            samples.append(dict(step=step, **measure()))
    return samples


def train_detector(steps: int, folder: str) -> list[dict[str, int]]:
    """A CaiT Mask R-CNN on the sample data set, by the runner of ``train``, with its hooks and evaluations."""
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    from backbones import cli

    samples = []

    @HOOKS.register_module()
    class Sampled(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter % max(steps // SAMPLES, 1) == 0:
                samples.append(dict(step=runner.iter, **measure()))

    assert cli.run("sample-data", [f"{folder}/data", "--train", "24", "--val", "4"]) == 0
    config = Path(folder, "config.py")
    config.write_text(CONFIG.format(base=ROOT / "configs" / "cait_maskrcnn_sample.py", steps=steps))
    assert cli.run("train", [str(config), "--data-root", f"{folder}/data", "--work-dir", f"{folder}/run"]) == 0
    return samples


def plot(files: list[Path], out: Path) -> None:
    """Resident memory over the steps, one line for each run, relative to the first third after the warm-up."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    for file in files:
        samples = json.loads(file.read_text())
        start, _ = thirds(samples, "bytes")
        axis.plot([s["step"] for s in samples], [s["bytes"] / start for s in samples], label=file.stem)
    axis.axhline(1 + ROOM, color="grey", linestyle=":")
    axis.set(xlabel="training step", ylabel="resident memory, relative")
    axis.legend()
    figure.savefig(out, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="+", metavar="SUBJECT|FILE")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    if args.plot:
        plot([Path(file) for file in args.subjects], args.plot)
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    (subject,) = args.subjects
    if subject == "cait-maskrcnn":
        with tempfile.TemporaryDirectory() as folder:
            samples = train_detector(args.steps, folder)
    else:
        samples = train_backbone(args.steps, int(subject.rpartition("-")[2]))
    args.out.write_text(json.dumps(samples))
    size = f"{thirds(samples, 'bytes')[0] / 2**20:.0f} MiB after the warm-up"
    print(f"{subject}: {args.steps} steps, {size}, {growth(samples, 'bytes'):+.2%}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
