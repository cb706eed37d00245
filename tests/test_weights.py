"""Checkpoints: every wrapper and prefix, the report, and the errors."""

import contextlib
import hashlib
import http.server
import pickle
import threading
import zipfile
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from backbones import RevCol
from backbones.checkpoints import CheckpointError, LoadReport, load_pretrained, read_checkpoint

TOY = dict(channels=(8, 12, 16, 20), depths=(1, 1, 1, 1), num_columns=2)


@pytest.fixture
def source():
    return RevCol(TOY)


def same_weights(a, b):
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


def prefixed(net, prefix, **extra):
    return {**{prefix + key: value for key, value in net.state_dict().items()}, **extra}


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
@pytest.mark.parametrize("wrapper", ["model", "state_dict", "state_dict_ema", None])
def test_every_wrapper_and_prefix(source, tmp_path, wrapper, prefix):
    weights = prefixed(source, prefix)
    torch.save({wrapper: weights, "epoch": 300} if wrapper else weights, tmp_path / "c.pth")
    net = RevCol(TOY, init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "c.pth")))
    assert not same_weights(net, source)
    net.init_weights()
    assert same_weights(net, source)


def test_report_of_a_detector_file(source, tmp_path):
    weights = prefixed(source, "backbone.", **{"neck.conv.weight": torch.zeros(1), "backbone.extra": torch.zeros(1)})
    del weights["backbone.stem.0.bias"]
    torch.save({"state_dict": weights, "state_dict_ema": weights}, tmp_path / "c.pth")
    report = load_pretrained(RevCol(TOY), tmp_path / "c.pth", strict=False)
    assert report == LoadReport(
        source=str(tmp_path / "c.pth"),
        wrapper="state_dict",
        prefix="backbone.",
        loaded=[key for key in source.state_dict() if key != "stem.0.bias"],
        skipped=["neck.conv.weight", "state_dict_ema.*"],
        missing=["stem.0.bias"],
        unexpected=["backbone.extra"],
    )
    assert not report.complete
    assert "missing        1: stem.0.bias" in str(report)


def test_report_of_a_classification_file(source, tmp_path):
    heads = {"cls.classifier.1.weight": torch.zeros(1), "decoder_blocks.0.projback.0.weight": torch.zeros(1)}
    torch.save(
        {"model": prefixed(source, "module.", **{f"module.{k}": v for k, v in heads.items()})}, tmp_path / "c.pth"
    )
    report = load_pretrained(RevCol(TOY), tmp_path / "c.pth")
    assert report.complete
    assert report.skipped == [f"module.{key}" for key in heads]


def test_an_explicit_prefix_is_used(source, tmp_path):
    torch.save({"state_dict": prefixed(source, "teacher.backbone.")}, tmp_path / "c.pth")
    init_cfg = dict(type="Pretrained", checkpoint=str(tmp_path / "c.pth"), prefix="teacher.backbone.")
    net = RevCol(TOY, init_cfg=init_cfg)
    net.init_weights()
    assert same_weights(net, source)
    assert net.init_cfg == init_cfg


def test_nothing_matching_is_an_error_and_changes_nothing(source, tmp_path):
    torch.save({"layer1.0.conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    before = {key: value.clone() for key, value in source.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"no key of .*resnet.pth matches RevCol.*layer1.0.conv1.weight.*prefix"):
        load_pretrained(source, tmp_path / "resnet.pth")
    assert all(torch.equal(value, before[key]) for key, value in source.state_dict().items())


def test_another_size_is_an_error_and_changes_nothing(source, tmp_path):
    torch.save({"model": source.state_dict()}, tmp_path / "c.pth")
    other = RevCol({**TOY, "channels": (8, 12, 16, 24)})
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"alpha3: file \(1, 20, 1, 1\), model \(1, 24, 1, 1\).*Choose the arch"):
        load_pretrained(other, tmp_path / "c.pth")
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


def test_missing_and_broken_files_are_errors(source, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.pth does not exist"):
        load_pretrained(source, tmp_path / "none.pth")
    (tmp_path / "page.pth").write_text("<html>404</html>")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_pretrained(source, tmp_path / "page.pth")
    torch.save({"model": source.state_dict()}, tmp_path / "whole.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_pretrained(source, tmp_path / "half.pth")
    for name in ("page.npz", "page.safetensors", "page.pkl"):
        (tmp_path / name).write_bytes(b"\x80\x04 nothing")
        with pytest.raises(CheckpointError, match="torch.save, pickles of numpy arrays, .npz and .safetensors"):
            load_pretrained(source, tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="no weights found"):
        load_pretrained(source, tmp_path / "list.pth")


class _Node(dict):
    """A stand-in for the config node in official checkpoints, whose class is missing where the file is read."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.frozen = True


class _Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('code from a checkpoint ran')",)


def test_foreign_objects_are_not_rebuilt_and_their_code_does_not_run(source, tmp_path):
    content = {"model": source.state_dict(), "config": _Node(lr=1), "reader": input, "evil": _Evil()}
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "c.pth", weights_only=True)
    net = RevCol(TOY)
    report = load_pretrained(net, tmp_path / "c.pth")
    assert same_weights(net, source)
    assert report.inert == ["__builtin__.exec", "__builtin__.input", f"{__name__}._Node"]


def test_plain_pickles_do_not_run_code_either(source, tmp_path):
    arrays = {key: value.numpy() for key, value in source.state_dict().items()}
    content = {"model": arrays, "evil": _Evil(), "inside": np.array([_Evil()], dtype=object)}
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(content))
    net = RevCol(TOY)
    report = load_pretrained(net, tmp_path / "c.pkl")
    assert same_weights(net, source)
    assert report.inert == ["builtins.exec"]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("file", ["c.pkl", "c.pth"])
@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("torch", "PyTorchFileWriter", ["{written}"]),
        ("torch._utils", "_rebuild_tensor.__builtins__.get", ["exec", "open('{written}', 'w')"]),
    ],
)
def test_only_listed_globals_are_rebuilt(tmp_path, file, module, name, arguments):
    """Neither other classes of torch, nor attributes of a listed function: its builtins hold exec."""

    def text(value):
        return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()

    content = pickle.PROTO + b"\x04" + text(module) + text(name) + pickle.STACK_GLOBAL
    for argument in arguments:
        content += text(argument.format(written=tmp_path / "written")) + pickle.TUPLE1 + pickle.REDUCE
    content += pickle.STOP
    if file == "c.pth":
        torch.save({}, tmp_path / "empty.pth")
        with zipfile.ZipFile(tmp_path / "empty.pth") as empty, zipfile.ZipFile(tmp_path / file, "w") as archive:
            for member in empty.namelist():
                archive.writestr(member, content if member.endswith("data.pkl") else empty.read(member))
    else:
        (tmp_path / file).write_bytes(content)
    with contextlib.suppress(CheckpointError):
        assert read_checkpoint(tmp_path / file)[1] == [f"{module}.{name}"]
    assert not (tmp_path / "written").exists()


def test_arrays_are_read_like_tensors(source, tmp_path):
    arrays = {key: value.numpy() for key, value in source.state_dict().items()}
    np.savez(tmp_path / "c.npz", names=np.array(["stem"]), **arrays)
    net = RevCol(TOY)
    report = load_pretrained(net, tmp_path / "c.npz")
    assert same_weights(net, source)
    assert report.complete
    np.savez(tmp_path / "c.npz", **arrays, node=np.array([_Node()], dtype=object))
    with pytest.raises(CheckpointError, match="allow_pickle"):
        load_pretrained(net, tmp_path / "c.npz")


def test_old_style_files_can_be_read(source, tmp_path):
    """The format before torch 1.6, with an object beside the weights."""
    content = {"model": source.state_dict(), "config": _Node(lr=1)}
    torch.save(content, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    restored, inert = read_checkpoint(tmp_path / "c.pth")
    assert inert == [f"{__name__}._Node"]
    assert torch.equal(restored["model"]["stem.0.weight"], source.state_dict()["stem.0.weight"])


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder, its URL, and the requests; torch hub's folder is empty."""
    (tmp_path / "served").mkdir()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            requests.append(args)

    with http.server.HTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path / "served")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path / "served", f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()


def test_a_url_is_downloaded_once(source, served):
    folder, url, requests = served
    torch.save({"model": source.state_dict()}, folder / "c.pth")
    for _ in range(2):
        net = RevCol(TOY)
        load_pretrained(net, f"{url}/c.pth")
        assert same_weights(net, source)
    assert len(requests) == 1


@pytest.mark.parametrize("name", ["c-{sha256}.pth", "c-12345678.pth", "c-base.pth"])
def test_a_download_with_the_checksum_of_its_name_loads(source, served, name):
    """Digits alone may be a date, and other words are no checksum."""
    folder, url, _ = served
    torch.save({"model": source.state_dict()}, folder / "c.pth")
    name = name.format(sha256=hashlib.sha256((folder / "c.pth").read_bytes()).hexdigest()[:10])
    (folder / "c.pth").rename(folder / name)
    net = RevCol(TOY)
    load_pretrained(net, f"{url}/{name}")
    assert same_weights(net, source)


@pytest.mark.parametrize("name", ["deit_tiny-a1b2c3d4.pth", "mae_pretrain_vit_base.pth"])
def test_a_download_with_another_checksum_is_refused_and_removed(source, served, tmp_path, name):
    folder, url, _ = served
    torch.save({"model": source.state_dict()}, folder / name)
    with pytest.raises(CheckpointError, match=r"begins with \w+, that of the authors' file with (a1b2c3d4|8cad7c)"):
        load_pretrained(source, f"{url}/{name}")
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


def test_a_failed_download_is_named(source, served, tmp_path):
    _, url, _ = served
    for address in (f"{url}/none.pth", "http://127.0.0.1:1/c.pth", f"{url}/"):
        with pytest.raises(CheckpointError, match=address):
            load_pretrained(source, address)
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


def test_a_detector_initialises_its_backbone(source, tmp_path):
    """Through mmengine's own recursion, and other init_cfg entries keep working."""
    torch.save({"model": source.state_dict()}, tmp_path / "c.pth")

    from mmengine.model import BaseModule

    class Detector(BaseModule):
        def __init__(self):
            super().__init__()
            cfg = [
                dict(type="Constant", layer="Conv2d", val=3.0),
                dict(type="Pretrained", checkpoint=str(tmp_path / "c.pth")),
            ]
            self.backbone = MODELS.build(dict(type="RevCol", arch=TOY, init_cfg=cfg))

    detector = Detector()
    detector.init_weights()
    assert same_weights(detector.backbone, source)


def test_tensors_survive_the_restricted_reader(tmp_path):
    """Every kind of tensor in a checkpoint is read back equal."""
    tensors = {
        "half": torch.rand(3).half(),
        "brain": torch.rand(3).bfloat16(),
        "count": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.rand(2)),
        "transposed": torch.rand(2, 3).t(),
    }
    torch.save({"model": tensors, "config": _Node()}, tmp_path / "c.pth")
    restored, _ = read_checkpoint(tmp_path / "c.pth")
    for key, value in tensors.items():
        assert torch.equal(restored["model"][key], value)
        assert restored["model"][key].dtype == value.dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("subnet1.level3.blocks.0.norm.bias"), r"Missing in the file, 1: subnet1\.level3"),
        (lambda weights: weights.update({"subnet2.alpha0": torch.zeros(1)}), r"Without a place .*, 1: subnet2\.alpha0"),
    ],
    ids=["missing", "left over"],
)
def test_weights_of_another_network_are_an_error_that_names_both_lists(source, tmp_path, change, message):
    weights = source.state_dict()
    change(weights)
    torch.save({"model": weights}, tmp_path / "c.pth")
    net = RevCol(TOY)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(net, tmp_path / "c.pth")
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    init_cfg = dict(type="Pretrained", checkpoint=str(tmp_path / "c.pth"), strict=False)
    net = RevCol(TOY, init_cfg=init_cfg)
    net.init_weights()
    assert torch.equal(net.stem[0].weight, source.stem[0].weight)
