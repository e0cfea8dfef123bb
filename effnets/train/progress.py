"""Where a training stands, as its checkpoint says it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from effnets.report.summary import EpochRow
from effnets.train.validate import Score

__all__ = ["SILENT", "Best", "EpochRow", "Listener", "Progress"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The weights that are kept: the score they have on validation, if any, and where they come from."""

    score: Score | None
    epoch: int
    phase: str
    average: bool


@dataclass(slots=True, kw_only=True)
class Progress:
    """The position, and what was found on the way.

    Attributes:
        epoch: epochs that are over. batch: global micro-batches of the present one that are. step: of the optimiser.
        loss_sum: of the losses of this epoch's micro-batches. seconds: of this epoch, so far.
        rows: a row for each epoch. peak: the best score seen; stale: epochs since. best: the weights that are kept.
        done: nothing is left to train.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    rows: list[EpochRow] = field(default_factory=list)
    peak: Score | None = None
    best: Best | None = None
    stale: int = 0
    done: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progress:
        """The inverse of `to_dict`."""
        rows = [EpochRow(**row) for row in values["rows"]]
        best, peak = values["best"], values["peak"]
        if best is not None:
            best = Best(**{**best, "score": _score(best["score"])})
        return cls(**{**values, "rows": rows, "best": best, "peak": _score(peak)})


def _score(values: dict[str, Any] | None) -> Score | None:
    return None if values is None else Score(**values)


class Listener(Protocol):
    """Who is told how far a training is."""

    def note(self, text: str) -> None:
        """Something that the user should know."""

    def step(self, what: str, share: float) -> None:
        """What is being done, and the share of it that is over, 0 to 1."""

    def row(self, row: EpochRow) -> None:
        """An epoch is over."""


class _Silent:
    def note(self, text: str) -> None: ...

    def step(self, what: str, share: float) -> None: ...

    def row(self, row: EpochRow) -> None: ...


SILENT: Listener = _Silent()
