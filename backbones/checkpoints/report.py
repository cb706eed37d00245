"""The report of a checkpoint's loading."""

from __future__ import annotations

from dataclasses import dataclass, field

from .read import shorten


@dataclass(frozen=True)
class LoadReport:
    """Every key of a checkpoint and every name of the model, sorted by outcome.

    Attributes:
        source: The file or URL.
        wrapper: Key of the file that held the weights; empty for bare weights.
        prefix: Prefix that was stripped from the checkpoint keys.
        loaded: Names of the model that got a value.
        skipped: Checkpoint keys of other parts: other modules of a detector, a classifier's head, a second set of
            weights (an exponential moving average), tokens that this model does not have.
        missing: Names of the model without a checkpoint key; they keep their values.
        unexpected: Checkpoint keys without a name in the model.
        inert: Classes of Python objects beside the weights that were not rebuilt (configs of the training script).
        adapted: Changes made to fit the weights, one sentence each.
    """

    source: str
    wrapper: str
    prefix: str
    loaded: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    inert: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing and nothing is unexpected."""
        return not self.missing and not self.unexpected

    def __str__(self) -> str:
        where = f"weights under {self.wrapper!r}" if self.wrapper else "bare weights"
        lines = [f"checkpoint {self.source}: {where}, prefix {self.prefix!r}"]
        for name in ("loaded", "skipped", "missing", "unexpected", "inert"):
            keys = getattr(self, name)
            shown = "" if name == "loaded" or not keys else f": {shorten(keys)}"
            lines.append(f"  {name:<10} {len(keys):>5}{shown}")
        lines += [f"  adapted: {note}" for note in self.adapted]
        return "\n".join(lines)
