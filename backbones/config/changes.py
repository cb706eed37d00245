"""The parts of an exchange of backbones: a change to a config, the levels of a backbone, and the refusal."""

from dataclasses import dataclass
from typing import Any

from backbones.usage import UsageError

BY_HAND = (
    "replace the backbone by dict(_delete_=True, type='backbones.RevCol', arch='tiny'), and its channels everywhere "
    "by the out_channels (64, 128, 256, 512 at strides 4, 8, 16, 32)"
)


class Unsupported(UsageError):
    """A config whose backbone no rule can exchange; names the part and the change to make by hand."""

    def __init__(self, part: str, reason: str, by_hand: str) -> None:
        super().__init__(f"{part}: {reason}.\nBy hand: {by_hand}.")


@dataclass(frozen=True)
class Change:
    """One setting of a config.

    Attributes:
        key: Dotted, as in ``--cfg-options``.
        old: Its value in the stock config, or None.
        new: Its new value.
        why: The reason, in a few words.
    """

    key: str
    old: Any
    new: Any
    why: str


@dataclass(frozen=True)
class Levels:
    """Channels and stride (input pixels) of each map that a backbone returns."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def equal_strides(self) -> bool:
        """Whether there are several maps, all of one stride."""
        return len(self.strides) > 1 and len(set(self.strides)) == 1
