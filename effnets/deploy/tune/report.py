"""What tuning measured and chose, as a file that holds for one machine and one model. Free of torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnets.deploy.tune.candidates import Candidate
from effnets.errors import ConfigError, ExportError
from effnets.utils.atomic_file import write_whole
from effnets.utils.machine import Load

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A candidate and what became of it.

    Attributes:
        milliseconds, quartiles: for one image, of the last turn that it took part in; None if it was not timed.
        rounds: how many rounds that were.
        difference: of its logits from the network's in float64, as a share of the largest; None if it failed.
        note: why it was not timed, or empty.
    """

    candidate: Candidate
    milliseconds: float | None = None
    quartiles: tuple[float, float] | None = None
    rounds: int = 0
    difference: float | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold."""
        return {name: getattr(self, name) for name in _RESULTS} | {"candidate": self.candidate.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measured:
        """What `to_dict` made."""
        quartiles = values["quartiles"]
        kept = {name: values[name] for name in _RESULTS}
        kept["quartiles"] = tuple(quartiles) if quartiles else None
        return cls(candidate=Candidate.from_dict(values["candidate"]), **kept)


_RESULTS = ("milliseconds", "quartiles", "rounds", "difference", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneReport:
    """All candidates and the choice.

    Attributes:
        conditions: what the measurement holds for: model and hash of its values, machine, versions, batch, image size,
            threads, tolerance, margin. It is used again only where all are the same.
        choice: index of the fastest candidate within tolerance that beat the default by the margin, else 0; of the
            fastest within tolerance where the default is not.
        load: running processes at the beginning and at the end, on average over a minute; None where the system does
            not tell.
        seconds: that tuning took.
        reused: read from a file rather than measured.
    """

    conditions: Mapping[str, Any]
    candidates: tuple[Measured, ...]
    choice: int
    load: Load
    seconds: float
    reused: bool = False

    @property
    def chosen(self) -> Candidate:
        """The candidate to take."""
        return self.candidates[self.choice].candidate

    def __str__(self) -> str:
        found, default = self.candidates[self.choice], self.candidates[0]
        if found is default or found.milliseconds is None or default.milliseconds is None:
            return f"{default.candidate.name}: nothing beat the default by {100 * self.conditions['margin']:.0f} %"
        gain = default.milliseconds / found.milliseconds
        times = f"{found.milliseconds:.2f} ms an image, {default.milliseconds:.2f} ms by default"
        return f"{found.candidate.name}: {gain:.2f} times as fast as the default ({times})"

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold."""
        return {
            "format": _FORMAT,
            "conditions": dict(self.conditions),
            "choice": self.choice,
            "chosen": self.chosen.name,
            "candidates": [measured.to_dict() for measured in self.candidates],
            "load": self.load and list(self.load),
            "seconds": self.seconds,
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON.

        Raises:
            ExportError: it cannot be written.
        """
        try:
            write_whole(Path(path), (json.dumps(self.to_dict(), indent=1) + "\n").encode())
        except OSError as error:
            raise ExportError(f"{path}: cannot be written ({error.strerror or error})") from None


def read_report(path: str | os.PathLike[str], conditions: Mapping[str, Any]) -> TuneReport | None:
    """What an earlier run wrote, if it holds for these conditions; None if not, or if there is none.

    A file that cannot be understood counts as none: it is measured anew and replaced.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if values["format"] != _FORMAT or values["conditions"] != json.loads(json.dumps(dict(conditions))):
            return None
        measured = tuple(Measured.from_dict(entry) for entry in values["candidates"])
        choice, load = values["choice"], values["load"]
        if not isinstance(choice, int) or not 0 <= choice < len(measured):
            return None
        if load is not None:
            first, last = load
            load = first, last
        return TuneReport(
            conditions=conditions,
            candidates=measured,
            choice=choice,
            load=load,
            seconds=values["seconds"],
            reused=True,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError):
        return None


def report_path(path: str | os.PathLike[str]) -> Path:
    """The file beside an exported model that holds what was tuned: ``model.onnx`` → ``model.tune.json``."""
    return Path(path).with_suffix(".tune.json")
