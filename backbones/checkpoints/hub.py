"""Weights of the Hugging Face hub, kept in its own cache."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from mmengine.logging import print_log

from ..errors import CheckpointError

SCHEME = "hf://"
INDEX = ".safetensors.index.json"
_FILES = ("model.safetensors", f"model{INDEX}", "open_clip_model.safetensors", "pytorch_model.bin")


def from_hub(address: str) -> Path:
    """The file of an address, downloaded once.

    Args:
        address: ``hf://ORG/NAME/FILE``, or ``hf://ORG/NAME`` for the repository's ``model.safetensors``, its shards, or
            another usual name.

    Returns:
        The file; of weights in shards their index, beside which the shards lie.

    Raises:
        CheckpointError: without the package ``huggingface_hub``, for an address that is none, and for one that does not
            answer, has no weights, or asks for consent to a licence.
    """
    try:
        from huggingface_hub.errors import EntryNotFoundError, GatedRepoError
    except ModuleNotFoundError as error:
        raise CheckpointError(f"{address} needs the package huggingface_hub: pip install huggingface_hub") from error
    organisation, _, rest = address.removeprefix(SCHEME).partition("/")
    name, _, file = rest.partition("/")
    if not organisation or not name:
        raise CheckpointError(f"{address} is no address; give hf://ORG/NAME or hf://ORG/NAME/FILE")
    repository = f"{organisation}/{name}"
    try:
        for wanted in (file,) if file else _FILES:
            try:
                path = _download(repository, wanted)
            except EntryNotFoundError:
                continue
            _say_licence(repository)
            return path
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repository} is given to those who accept its licence: do so on https://huggingface.co/{repository}, and "
            f"log in with `hf auth login` ({error})"
        ) from error
    except (OSError, ValueError) as error:  # the hub's errors, all of the network, names that it refuses
        raise CheckpointError(
            f"{repository} cannot be downloaded ({error}). Check the name and the network, or give the path of a file"
        ) from error
    raise CheckpointError(f"{repository} has none of the files {', '.join((file,) if file else _FILES)}")


def _download(repository: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    path = Path(hf_hub_download(repository, file))
    if path.name.endswith(INDEX):
        for shard in shards(path):
            hf_hub_download(repository, str((Path(file).parent / shard).as_posix()))
    return path


def shards(index: Path) -> list[str]:
    """Names of the files that an index lists, which lie beside it.

    Raises:
        ValueError: for an index without them, or with paths.
    """
    content = json.loads(index.read_text())
    listed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise ValueError(f"{index.name} has no weight_map")
    names = sorted({str(name) for name in listed.values()})
    if paths := [name for name in names if Path(name).name != name]:
        raise ValueError(f"{index.name} lists {paths[0]}; shards must lie beside it")
    return names


@functools.cache
def _say_licence(repository: str) -> None:
    """Logs the licence that the repository's card states, once in a process."""
    from huggingface_hub import ModelCard

    try:
        licence = ModelCard.load(repository).data.to_dict().get("license")
    except Exception:  # no card, or one that cannot be read; the weights are there all the same
        licence = None
    print_log(f"weights of {repository}: licence {licence or 'not stated, see its page'}", logger="current")
