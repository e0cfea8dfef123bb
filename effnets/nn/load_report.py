"""What loading weights did, in full. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What became of every tensor.

    Attributes:
        source: where the tensors came from.
        dialect: the framework whose names they had.
        sha256: of the file, in hex.
        loaded: parameters and buffers that have their values from the file.
        reinitialised: those left freshly initialised, by rule: a classifier of another size.
        dropped: the file's tensors that have no place in this network, by rule: its head, for a backbone.
        notes: what else was decided, a sentence each.
        values: hash of all values that the network had then (`effnets.nn.utils`).
    """

    source: str
    dialect: str
    sha256: str
    loaded: tuple[str, ...]
    reinitialised: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    values: str = ""

    def __str__(self) -> str:
        counts = f"{len(self.loaded)} tensors loaded"
        if self.reinitialised:
            counts += f", freshly initialised: {', '.join(self.reinitialised)}"
        if self.dropped:
            counts += f", {len(self.dropped)} left out"
        return "\n  ".join([f"{self.source} ({self.dialect} names): {counts}", *self.notes])
