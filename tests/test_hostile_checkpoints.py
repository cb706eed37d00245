"""Checkpoints that nobody should trust: a result, or a CheckpointError; the model is whole afterwards."""

import collections
import io
import json
import pickle
import resource
import struct
import time
import zipfile

import numpy as np
import pytest
import torch
from archs import small_arch
from hostile import CASES, check, result_or_named_error
from hypothesis import strategies as st

from backbones import CaiT, HybridViT, PlainViT, RevCol, RevColViT
from backbones.checkpoints import CheckpointError, find_weights, load_pretrained, read_checkpoint
from backbones.cli._checkpoints import load_trained, trained_weights
from backbones.cli._checkpoints import read_checkpoint as read_of_training
from backbones.usage import UsageError

CLASSES = {
    "RevCol": lambda: RevCol(dict(channels=(4, 4, 8, 8), depths=(1, 1, 1, 1), num_columns=1)),
    "RevColViT": lambda: RevColViT(dict(small_arch("RevColViT"), embed_dims=8), img_size=64, pyramid=None),
    "PlainViT": lambda: PlainViT(dict(embed_dims=8, depth=1, num_heads=2), img_size=64, pyramid=None),
    "ViTDet": lambda: PlainViT(
        dict(embed_dims=8, depth=1, num_heads=2), img_size=64, rel_pos=64, window_size=2, pyramid=None
    ),
    "CaiT": lambda: CaiT(dict(embed_dims=8, depth=1, num_heads=2), img_size=64, pyramid=None),
    "HybridViT": lambda: HybridViT(dict(small_arch("HybridViT"), embed_dims=8, depth=1), img_size=64, pyramid=None),
}
TWINS = {name: make() for name, make in CLASSES.items()}
SUFFIXES = [".pth", ".pth", ".pth", ".pt", ".npz", ".safetensors", ".pkl", ""]
PREFIXES = ["", "", "module.", "backbone.", "module.backbone.", "model.", "encoder.", "net.", "opt/target/", "params/"]
WRAPPERS = ["model", "state_dict", "state_dict_ema", None, "teacher", "ema"]


class Node(dict):
    """Of a class that the reader does not rebuild."""


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of a checkpoint ran')",)


CHANGES = {  # of one tensor of the file
    "flat": lambda x: x.flatten(),
    "scalar": lambda x: x.flatten()[0],
    "one more": lambda x: x[None],
    "cut": lambda x: x[: len(x) // 2] if x.ndim else x,
    "none": lambda x: x[:0] if x.ndim else x,
    "half": lambda x: x.half(),
    "double": lambda x: x.double(),
    "whole": lambda x: x.to(torch.int32),
    "bool": lambda x: x > 0,
    "complex": lambda x: x.to(torch.complex64),
    "brain": lambda x: x.bfloat16(),
    "sparse": lambda x: x.to_sparse(),
    "quantised": lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
    "without data": lambda x: x.to("meta"),
    "expanded": lambda x: x.flatten()[:1].expand(x.shape if x.ndim else 1) if x.numel() else x,
    "huge": lambda x: torch.zeros(1).expand(*([10**5] * max(x.ndim, 1))[:3]),
    "square": lambda x: torch.zeros(1, 100, x.shape[-1]) if x.ndim == 3 else x,
    "array": lambda x: x.numpy(),
    "other bytes": lambda x: x.numpy().astype(">f4"),
    "long": lambda x: x.numpy().astype(np.longdouble),
    "text": lambda x: "weights",
    "number": lambda x: 1.5,
    "node": lambda x: Node(a=1),
    "evil": lambda x: Evil(),
    "list": lambda x: x.flatten()[:3].tolist(),
    "nan": lambda x: x.float() * float("nan"),
}
RENAMES = {
    "twice": lambda weights, key: {f"net.{key}": weights[key], **weights},
    "number": lambda weights, key: {**weights, 7: weights[key]},
    "bytes": lambda weights, key: {**weights, key.encode(): weights[key]},
    "left out": lambda weights, key: {k: v for k, v in weights.items() if k != key},
    "added": lambda weights, key: {**weights, "blocks.9.attn.qkv.weight": weights[key]},
    "jax": lambda weights, key: {**weights, "embedding/kernel": torch.rand(2, 2, 3, 8)},
    "jax attention": lambda weights, key: {
        **weights,
        "embedding/kernel": torch.rand(2, 2, 3, 8),
        "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel": torch.rand(8, 2, 4),
    },
    "tables": lambda weights, key: {**weights, "blocks.0.attn.rel_pos_h": torch.rand(7, 4)},
    "more tables": lambda weights, key: {
        **weights,
        "blocks.0.attn.rel_pos_h": torch.rand(7),
        "blocks.0.attn.rel_pos_w": torch.rand(7, 4),
    },
    "distilled": lambda weights, key: {**weights, "dist_token": torch.rand(1, 1, 8)},
    "layer scale": lambda weights, key: {**weights, "blocks.0.ls1.gamma": torch.rand(8)},
}
DAMAGES = {  # of the written bytes; position in [0, 1)
    "cut": lambda data, at: data[: int(at * len(data))],
    "flipped": lambda data, at: (
        data[: int(at * len(data))] + bytes([data[int(at * len(data))] ^ 255]) + data[int(at * len(data)) + 1 :]
        if data
        else data
    ),
    "zeroed": lambda data, at: data[: int(at * len(data))] + bytes(len(data) - int(at * len(data))),
    "doubled": lambda data, at: data + data,
    "preceded": lambda data, at: b"\x80\x02" + data,
    "page": lambda data, at: b"<html>404 Not Found</html>",
    "empty": lambda data, at: b"",
}


@st.composite
def files(draw):
    maybe = lambda options, chance: draw(st.sampled_from(list(options))) if draw(st.integers(0, 9)) < chance else None  # noqa: E731
    return dict(
        model=draw(st.sampled_from(list(CLASSES))),
        source=draw(st.sampled_from(list(CLASSES))) if draw(st.integers(0, 3)) == 0 else None,
        suffix=draw(st.sampled_from(SUFFIXES)),
        written=draw(st.sampled_from(["zip", "zip", "zip", "old", "pickle", "npz", "safetensors"])),
        wrapper=draw(st.sampled_from(WRAPPERS)),
        prefix=draw(st.sampled_from(PREFIXES)),
        change=maybe(CHANGES, 6),
        key=draw(st.floats(0, 0.999)),
        rename=maybe(RENAMES, 3),
        damage=maybe(DAMAGES, 2),
        at=draw(st.floats(0, 0.999)),
        beside=draw(st.sampled_from([{}, {}, {"epoch": 3}, {"config": Node(a=1)}, {"evil": Evil()}, {3: 4}])),
        strict=draw(st.sampled_from([True, True, True, False])),
    )


def write(path, case) -> None:
    weights = dict(TWINS[case["source"] or case["model"]].state_dict())
    key = list(weights)[int(case["key"] * len(weights))]
    if case["rename"]:
        weights = RENAMES[case["rename"]](weights, key)
    if case["change"] and key in weights:
        weights[key] = CHANGES[case["change"]](weights[key])
    weights = {case["prefix"] + k if isinstance(k, str) else k: v for k, v in weights.items()}
    content = {case["wrapper"]: weights, **case["beside"]} if case["wrapper"] else {**weights, **case["beside"]}
    written = case["written"]
    if case["change"] == "huge" and written not in ("zip", "old"):  # others would write every value
        written = "zip"
    buffer = io.BytesIO()
    plain = lambda v: v.numpy() if isinstance(v, torch.Tensor) and v.layout is torch.strided and not v.is_meta else v  # noqa: E731
    try:
        if written == "npz":
            np.savez(buffer, **{str(k): plain(v) for k, v in weights.items()})
        elif written == "safetensors":
            from safetensors.torch import save

            buffer.write(save({k: v.contiguous() for k, v in weights.items()}))
        elif written == "pickle":
            buffer.write(pickle.dumps({k: plain(v) for k, v in weights.items()}))
        else:
            torch.save(content, buffer, _use_new_zipfile_serialization=written == "zip")
    except Exception:  # this content has no such file
        torch.save(content, buffer)
    data = buffer.getvalue()
    path.write_bytes(DAMAGES[case["damage"]](data, case["at"]) if case["damage"] else data)


@CASES
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_files(cases, tmp_path):
    """A refused file leaves the model as it was; from an accepted one every name of the trunk got its value."""

    def load(case):
        path = tmp_path / f"file{case['suffix']}"
        write(path, case)
        net = CLASSES[case["model"]]()
        before = {key: value.clone() for key, value in net.state_dict().items()}
        report = result_or_named_error(lambda: load_pretrained(net, path, strict=case["strict"]), CheckpointError)
        after = net.state_dict()
        if isinstance(report, Exception):
            assert all(torch.equal(after[key], value) for key, value in before.items())
            return
        if case["strict"]:
            assert not [name for name in report.missing if net.is_trunk_name(name) and "num_batches" not in name]
        content = read_checkpoint(path)[0]
        weights = find_weights(content)[1]
        told = {*report.skipped, *report.unexpected}  # of what is in the file; the rest was loaded
        if "JAX" not in str(report.adapted):
            left = [net.published_name(key.removeprefix(report.prefix)) for key in weights if key not in told]
            assert sorted(left) == sorted(report.loaded)
        if report.wrapper:
            assert {str(key) for key in content[report.wrapper] if key not in weights} <= told

    check(cases, load, files())


@CASES
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_checkpoints_of_trainings(cases, tmp_path):
    """The reader of ``test``, ``predict`` and ``train --resume``; no code of the file runs there either."""

    def load(case):
        path = tmp_path / f"file{case['suffix']}"
        write(path, case)
        net = CLASSES[case["model"]]()

        def load():
            content = read_of_training(str(path))
            trained_weights(content, str(path))
            load_trained(net, content, str(path))

        result_or_named_error(load, UsageError)

    check(cases, load, files())


# --------------------------------------------------------------------------------------------------- crafted files
def text(value: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(value.encode())) + value.encode()


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """A pickle's call of a global."""
    return (
        text(module)
        + text(name)
        + pickle.STACK_GLOBAL
        + pickle.MARK
        + b"".join(arguments)
        + pickle.TUPLE
        + pickle.REDUCE
    )


def number(value: int) -> bytes:
    data = value.to_bytes(8, "little")
    return pickle.LONG1 + bytes([len(data)]) + data


MANY = number(10**11)
ENCODED = text("x" * 99)
for _ in range(40):
    ENCODED = call("_codecs", "encode", ENCODED, text("hex_codec"))
NESTED = pickle.EMPTY_TUPLE
for _ in range(200):
    NESTED = NESTED + pickle.DUP + pickle.TUPLE2
BOMBS = {
    "a set of a range": call("builtins", "set", call("builtins", "range", MANY)),
    "a list of a range": call("builtins", "list", call("builtins", "range", MANY)),
    "an ordered dict of a range": call("collections", "OrderedDict", call("builtins", "range", MANY)),
    "a byte array": call("builtins", "bytearray", MANY),
    "an array": call("numpy", "ndarray", pickle.MARK + number(10**5) + number(10**6) + pickle.TUPLE),
    "a tensor": call("torch", "FloatTensor", number(10**5), number(10**6)),
    "an encoding": ENCODED,
    "nested tuples": NESTED,
    "zeros": call("numpy", "zeros", MANY),
    "a file": call("builtins", "open", text("/dev/zero")),
    "a reduction of nothing": pickle.EMPTY_LIST + pickle.EMPTY_TUPLE + pickle.REDUCE,
    "an empty stack": pickle.POP * 3,
    "a memo that is not there": pickle.BINGET + b"\x07",
    "a persistent id": text("x") + pickle.BINPERSID,
    "an extension": pickle.EXT1 + b"\x01",
    "deep lists": pickle.EMPTY_LIST * 10**5,
    "more bytes than there are": pickle.BINBYTES8 + struct.pack("<Q", 10**13),
}


@pytest.mark.parametrize("container", ["pickle", "zip", "old"])
@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_small_files_stay_small(bomb, container, tmp_path):
    """Crafted pickles that would fill the memory, or take for ever."""
    content = pickle.PROTO + b"\x04" + pickle.EMPTY_DICT + text("model") + BOMBS[bomb] + pickle.SETITEM + pickle.STOP
    path = tmp_path / "c.pth"
    if container == "pickle":
        path.write_bytes(content)
    elif container == "zip":
        repack(path, {"data.pkl": content})
    else:
        buffer = io.BytesIO()
        torch.save({}, buffer, _use_new_zipfile_serialization=False)
        heads, file = [], io.BytesIO(buffer.getvalue())
        for _ in range(3):  # magic number, protocol, system
            start = file.tell()
            pickle.load(file)
            heads.append(buffer.getvalue()[start : file.tell()])
        path.write_bytes(b"".join(heads) + content + pickle.dumps([]))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    result_or_named_error(lambda: read_checkpoint(path), CheckpointError)
    result_or_named_error(lambda: load_pretrained(CLASSES["RevCol"](), path), CheckpointError)
    assert time.perf_counter() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


def repack(path, replaced: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Writes a file of ``torch.save`` of which some members are replaced."""
    torch.save(dict(TWINS["RevCol"].state_dict()), path)
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as old, zipfile.ZipFile(path, "w", compression) as new:
        for member in old.namelist():
            inside = member.partition("/")[2]
            new.writestr(member, replaced.get(inside, old.read(member)))
        root = member.partition("/")[0]
        for name in set(replaced) - {member.partition("/")[2] for member in old.namelist()}:
            new.writestr(f"{root}/{name}", replaced[name])


def test_zip_bombs_are_refused_before_they_are_unpacked(tmp_path):
    for name in ("c.npz", "c.pth"):
        with (
            zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("archive/data.pkl" if name == "c.pth" else "a.npy", "w", force_zip64=True) as member,
        ):
            zeros = bytes(2**24)
            for _ in range(80):
                member.write(zeros)
        start = time.perf_counter()
        with pytest.raises(CheckpointError, match="would unpack to 1.34 GB"):
            read_checkpoint(tmp_path / name)
        assert time.perf_counter() - start < 2


def test_storages_hold_what_they_declare(tmp_path):
    """A record shorter than the tensor that is read from it."""
    repack(tmp_path / "c.pth", {f"data/{i}": b"\0" * 4 for i in range(30)})
    error = result_or_named_error(lambda: read_checkpoint(tmp_path / "c.pth"), CheckpointError)
    assert isinstance(error, CheckpointError)


def test_declared_shapes_are_held_against_the_bytes(tmp_path):
    header = json.dumps({"stem.0.weight": dict(dtype="F32", shape=[10**6, 10**6], data_offsets=[0, 8])}).encode()
    (tmp_path / "c.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(tmp_path / "c.safetensors")
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, dict(descr="<f4", fortran_order=False, shape=(10**6, 10**6)))
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("a.npy", array.getvalue() + bytes(8))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(tmp_path / "c.npz")


def test_programs_are_no_weights(tmp_path):
    repack(tmp_path / "c.pth", {"constants.pkl": b"", "code/__torch__.py": b""})
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize("protocol", [2, 4])
def test_the_runner_reads_no_objects_but_those_of_trainings(tmp_path, protocol):
    """The runner itself would run their code."""
    from mmengine.logging import HistoryBuffer

    content = {"state_dict": TWINS["RevCol"].state_dict(), "message_hub": {"loss": HistoryBuffer([1.0], [1])}}
    torch.save(content, tmp_path / "c.pth", pickle_protocol=protocol)
    assert "state_dict" in read_of_training(str(tmp_path / "c.pth"), for_runner=True)
    attribute = call(
        "builtins", "getattr", text("mmengine.logging") + text("HistoryBuffer") + pickle.STACK_GLOBAL, text("__init__")
    )
    for evil in (pickle.dumps(Evil(), 2)[2:-1], attribute, call("builtins", "getattr", text("x"), text("format"))):
        repack(
            tmp_path / "c.pth",
            {"data.pkl": pickle.PROTO + b"\x04" + pickle.EMPTY_DICT + text("a") + evil + pickle.SETITEM + b"."},
        )
        with pytest.raises(
            UsageError, match=r"code would run when it is loaded: (__builtin__\.exec|builtins\.getattr|mmengine)"
        ):
            read_of_training(str(tmp_path / "c.pth"), for_runner=True)
        read_of_training(str(tmp_path / "c.pth"))


def test_counters_and_ordered_dicts_are_plain_containers(tmp_path):
    content = {"model": TWINS["RevCol"].state_dict(), "milestones": collections.Counter([1, 2])}
    torch.save(content, tmp_path / "c.pth")
    restored, inert = read_checkpoint(tmp_path / "c.pth")
    assert restored["milestones"] == collections.Counter([1, 2])
    assert inert == []
