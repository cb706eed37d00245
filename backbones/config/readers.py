"""The necks and heads that read a backbone's levels, and their settings for another backbone.

They are found by the channels that the config states, so any part with ``in_channels`` is understood, in every host.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backbones.config.changes import BY_HAND, Change, Levels, Unsupported

# Necks that spread equal maps (of a ViT) over four strides; a backbone with four strides does not need them.
SPREADING_NECKS = ("Feature2Pyramid", "MultiLevelNeck")


@dataclass(frozen=True)
class Reader:
    """A neck or head.

    Attributes:
        key: Its key in the model, such as ``neck`` or ``auxiliary_head.1``.
        part: Its config.
        reads: Indices of the old levels whose channels it states.
    """

    key: str
    part: dict
    reads: tuple[int, ...]

    @property
    def needs(self) -> set[int]:
        """All old levels that it reads; DeepLabV3+ also reads the first."""
        return {*self.reads, *([0] if self.part.get("c1_in_channels") else [])}

    def rewired(
        self, path: str, old: Levels, new: Levels, place: Mapping[int, int], kept: Sequence[int]
    ) -> Iterator[Change]:
        """Its changes for the new levels ``kept``; ``place`` maps old levels to new ones."""
        where = f"{path}.{self.key}"
        if self.part.get("type") in SPREADING_NECKS and not new.equal_strides:
            yield Change(where, self.part, None, "it spreads equal maps over four strides; the backbone has four")
            return
        levels = [place[i] for i in self.reads]
        before, after = [old.strides[i] for i in self.reads], [new.strides[i] for i in levels]
        why = f"channels of stride {listed(after)}"
        if before != after:
            why += f"; the stock maps there have stride {listed(before)}"
        for key in ("in_channels", "embed_dim"):
            if given := self.part.get(key):
                channels = [new.channels[i] for i in levels]
                if isinstance(given, int):
                    yield Change(f"{where}.{key}", given, channels[-1], why)
                else:
                    flipped = [*given] == [*old.channels[::-1]] != [*old.channels]  # YOLOv3
                    yield Change(f"{where}.{key}", given, channels[::-1] if flipped else channels, why)
        if given := self.part.get("c1_in_channels"):
            first = place[0]
            yield Change(
                f"{where}.c1_in_channels", given, new.channels[first], f"channels of stride {new.strides[first]}"
            )
        if (start := self.part.get("start_level", 0)) and len(self.reads) < len(old.channels):
            yield Change(f"{where}.start_level", start, 0, "finer levels are not computed")
        if (given := self.part.get("in_index")) is not None:
            index = [kept.index(i) for i in levels]
            stated = [given] if isinstance(given, int) else given
            if [i % len(kept) for i in stated] != index or len(kept) < len(old.channels):
                yield Change(f"{where}.in_index", given, index[0] if isinstance(given, int) else index, why)
        if (given := self.part.get("strides")) and list(given) != after:
            yield Change(f"{where}.strides", given, after, "of the maps it is given")


def find_readers(holder: dict, old: Levels, new: Levels) -> Iterator[Reader]:
    """The neck; also the heads if there is no neck or it passes the maps on."""
    everything = tuple(range(len(old.channels)))
    for key, neck in itertools.islice(_walk("neck", holder.get("neck")), 1):  # the others read the first
        if "rfp_backbone" in neck:
            raise Unsupported(key, f"{neck['type']} holds a second backbone", "start from the stock FPN config")
        if given := neck.get("in_channels"):
            reads = everything[-1:] if isinstance(given, int) else everything
            _check_channels(key, given, reads, old)
            if start := neck.get("start_level", 0):
                reads = everything[start:] if neck.get("end_level", -1) == -1 else reads
            yield Reader(key, neck, reads)
            if neck["type"] not in SPREADING_NECKS or new.equal_strides:
                if old.equal_strides and not new.equal_strides:
                    reason = f"{neck['type']} joins maps of equal stride, and the new ones have {new.strides}"
                    raise Unsupported(key, reason, "use a transformer of this package, or an FPN")
                return
        elif "embed_dim" in neck:
            yield Reader(key, neck, everything)
        elif "out_channels" in neck:
            reason = f"it is not known where {neck['type']} takes its channels from"
            raise Unsupported(key, reason, f"the channels are {new.channels}")
    if holder.get("roi_head") is not None:
        reason = "it reads the backbone without a neck, through a stage of the stock ResNet"
        raise Unsupported("roi_head", reason, "start from the stock FPN config")
    heads = [
        (key, head)
        for name, value in holder.items()
        if name not in ("backbone", "neck", "data_preprocessor", "train_cfg", "test_cfg")
        for key, head in _walk(name, value)
        if "in_channels" in head and (key.count(".") == 0 or "in_index" in head)
    ]
    if not heads:
        reason = f"no layer has the stock backbone's channels {old.channels} as in_channels"
        raise Unsupported("model", reason, BY_HAND)
    for key, head in heads:
        given, index = head["in_channels"], head.get("in_index")
        if index is None:
            reads = everything[-1:] if isinstance(given, int) else everything
        else:
            reads = tuple(everything[i] for i in ([index] if isinstance(index, int) else index))
        _check_channels(key, given, reads, old)
        yield Reader(key, head, reads)


def listed(numbers: Sequence[int]) -> str:
    """``4, 8, 16``."""
    return ", ".join(map(str, numbers))


def _walk(key: str, node: Any) -> Iterator[tuple[str, dict]]:
    """A part and the parts inside it, with their keys."""
    if isinstance(node, dict):
        yield key, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, child in children:
        yield from _walk(f"{key}.{name}", child)


def _check_channels(key: str, given: int | Sequence[int], reads: Sequence[int], old: Levels) -> None:
    channels = [old.channels[i] for i in reads]
    stated = [given] if isinstance(given, int) else list(given)
    if stated not in (channels, channels[::-1]):
        raise Unsupported(
            f"model.{key}.in_channels",
            f"it is {given}, but the stock backbone's maps there have {channels} channels",
            "correct the stock config first",
        )
