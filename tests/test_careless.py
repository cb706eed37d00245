"""Commands of a careless user: each ends with status 2 and a message that names the fault."""

from pathlib import Path

import pytest
import torch
from tool_runs import ROOT

CONFIG = str(ROOT / "configs" / "revcol_maskrcnn_sample.py")
FILES = {
    "number.yaml": "model: 3\n",
    "scope.py": "default_scope = 3\n",
    "hooks.py": "custom_hooks = [dict(interval=1)]\n",
    "empty.py": "",
    "binary.py": b"\xff\xfe\x00",
    "no_type.py": "model = dict(a=1)\ntrain_dataloader = test_dataloader = optim_wrapper = train_cfg = dict()\n",
    "no_data.py": "model = dict(type='A')\ntrain_dataloader = dict(dataset=None)\n",
    "text.txt": "a",
    "damaged/1/vis_data/scalars.json": '{"loss": 1, "step": "a"}\n',
    "other/1/vis_data/scalars.json": "[1]}\n",
    "run/1/vis_data/scalars.json": '{"loss": 1, "step": 1, "time": 1}\n',
}
COMMANDS = {
    # configs
    "check-data number.yaml": "number.yaml cannot be read: model is 3; it must be a dict of settings",
    "info number.yaml": "model is 3",
    "export scope.py -o a.onnx": "default_scope is 3; it must be a text",
    "train hooks.py": "custom_hooks has {'interval': 1}; it must be a dict with the type of a hook",
    "check-data empty.py": "empty.py has no train_dataloader, val_dataloader or test_dataloader",
    "drop-in binary.py --backbone RevCol -o a.py": "binary.py cannot be read: ",
    "train no_type.py": "no_type.py has no model.type",
    "test no_type.py weights.pth": "no_type.py has no model.type",
    "check-data no_data.py": "a data set is None; it must be a dict of settings",
    f"train {CONFIG} --cfg-options model.backbone.init_cfg.type=Pretrained": (
        "model.backbone.init_cfg.checkpoint is None; it must be a path or a URL"
    ),
    f"train {CONFIG} --cfg-options load_from=3": "load_from is 3; it must be a text",
    # files and folders for the results
    "export-weights weights.pth -o text.txt/a.pth": "the folder text.txt cannot be made: ",
    "export-weights weights.pth -o /sys/a.pth": ": '/sys/a.pth'",
    "export-weights weights.pth -o /sys/a.safetensors --format safetensors": ": '/sys/a.safetensors'",
    "plot run -o text.txt/a.png": "the folder text.txt cannot be made: ",
    "benchmark revcol --out text.txt": "the folder text.txt cannot be made: ",
    "plot run -o a.xyz": "-o a.xyz: the name of a picture ends in .png",
    # logs
    "plot damaged": """scalars.json is no log of a training: '{"loss": 1, "step": "a"}' is no record""",
    "plot other": "scalars.json is no log of a training: '[1]}' is no record",
    # numbers and devices
    "predict empty.py weights.pth text.txt -o out --tile 0": "--tile is 0; it must be 1 or more",
    "predict empty.py weights.pth text.txt -o out --score-thr nan": "--score-thr is nan; it must be from 0 to 1",
    "benchmark revcol --size 0": "--size is 0; it must be 1 or more",
    "benchmark vit --repeats -1": "--repeats is -1; it must be 1 or more",
    "benchmark revcol --device abacus": "--device abacus: ",
    "benchmark revcol --device meta": "--device is meta; it must be cpu or cuda",
    "benchmark revcol --size 1 --batch 1": "with H and W at least 32; got shape (1, 3, 1, 1)",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("careless")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    settings = "model = dict(backbone=dict(type='RevCol'))"
    torch.save(dict(meta=dict(cfg=settings), state_dict={"backbone.weight": torch.zeros(2)}), folder / "weights.pth")
    return folder


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: line.replace(CONFIG, "CONFIG"))
def test_fault_is_named(line, folder, monkeypatch, fail):
    monkeypatch.chdir(folder)
    assert COMMANDS[line] in fail(*line.split())
