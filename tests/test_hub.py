"""Weights in shards, and those of a hub: a server in this process, the hub's own client in another."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save, save_file

from backbones.checkpoints import CheckpointError, read_checkpoint

SHARDS = {"model-1.safetensors": {"a": torch.arange(3.0)}, "model-2.safetensors": {"b": torch.ones(2, 2)}}
INDEX = {"weight_map": {name: file for file, weights in SHARDS.items() for name in weights}}


def test_shards_are_read_through_their_index(tmp_path):
    for file, weights in SHARDS.items():
        save_file(weights, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps(INDEX))
    content, _ = read_checkpoint(index)
    assert content.keys() == {"a", "b"}
    assert torch.equal(content["b"], torch.ones(2, 2))
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors"):
        read_checkpoint(index)


@pytest.mark.parametrize(
    ("content", "message"),
    [({}, "has no weight_map"), ([], "has no weight_map"), (dict(weight_map=dict(a="../b")), "lists ../b")],
)
def test_an_index_that_lists_no_shards_is_refused(content, message, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(index)


FILES = {
    "/maker/whole/resolve/main/model.safetensors": save({"a": torch.arange(3.0)}),
    "/maker/whole/resolve/main/README.md": b"---\nlicense: apache-2.0\n---\n# whole\n",
    "/maker/parts/resolve/main/model.safetensors.index.json": json.dumps(INDEX).encode(),
    **{f"/maker/parts/resolve/main/{file}": save(weights) for file, weights in SHARDS.items()},
}


class Hub(BaseHTTPRequestHandler):
    """Answers like the hub for public, gated and unknown repositories."""

    def do_HEAD(self, body=False):
        content = FILES.get(self.path)
        error = "GatedRepo" if "/gated/" in self.path else "EntryNotFound" if "/maker/" in self.path else "RepoNotFound"
        self.send_response(200 if content is not None else 403 if error == "GatedRepo" else 404)
        self.send_header("X-Repo-Commit", "0" * 40)
        if content is None:
            self.send_header("X-Error-Code", error)
        self.send_header("ETag", f'"{abs(hash(content)):x}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if body and content:
            self.wfile.write(content)

    def do_GET(self):
        self.do_HEAD(body=True)

    def log_message(self, *_):
        pass


SCRIPT = """
import sys
from backbones.checkpoints import CheckpointError, read_checkpoint
for address in sys.argv[1:]:
    try:
        print("GOT", sorted(read_checkpoint(address)[0]))
    except CheckpointError as error:
        print("ERROR", str(error).replace("\\n", " "))
"""


@pytest.mark.slow
def test_addresses_of_the_hub(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    repositories = ("maker/whole", "maker/whole/model.safetensors", "maker/parts", "maker/empty", "gated/net", "no/net")
    addresses = [*(f"hf://{name}" for name in repositories), "hf://nobody"]
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, *addresses]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    server.shutdown()
    server.server_close()
    lines = [line for line in out.stdout.splitlines() if line.startswith(("GOT", "ERROR"))]
    assert lines[:3] == ["GOT ['a']", "GOT ['a']", "GOT ['a', 'b']"], out.stderr
    assert "maker/empty has none of the files model.safetensors, " in lines[3]
    assert "accept its licence: do so on https://huggingface.co/gated/net" in lines[4]
    assert "no/net cannot be downloaded" in lines[5]
    assert "hf://nobody is no address; give hf://ORG/NAME" in lines[6]
    said = out.stdout + out.stderr
    assert said.count("weights of maker/whole: licence apache-2.0") == 1
    assert said.count("weights of maker/parts: licence not stated, see its page") == 1
