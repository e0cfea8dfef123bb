"""Latencies of candidates of any input size: predicted from tables of blocks, and measured whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from effnets.errors import ArgumentError
from effnets.search.latency_table import LatencyTable
from effnets.spec.specs import ModelSpec


class LatencyPredictor:
    """A table of blocks for each input size, its measurements in a folder, so that a resumed search predicts the same.

    Raises:
        ArgumentError, EngineError: as `LatencyTable`.
    """

    def __init__(
        self, engine: str, threads: int | None, folder: Path, progress: Callable[[str, float], object]
    ) -> None:
        self._engine, self._threads, self._folder, self._progress = engine, threads, folder, progress
        self._tables: dict[int, LatencyTable] = {}

    @property
    def engine(self) -> str:
        """Name of the engine."""
        return next((table.engine for table in self._tables.values()), self._engine)

    def fit(self, specs: Sequence[ModelSpec]) -> None:
        """Correct the sums of blocks by whole latencies of some networks, where these differ enough."""
        for size in sorted({spec.input_size for spec in specs}):
            with suppress(ArgumentError):  # too few, or all alike: the sums stay as they are
                self._table(size).fit([spec for spec in specs if spec.input_size == size])

    def predict(self, spec: ModelSpec) -> float:
        """Return milliseconds for one image."""
        return self._table(spec.input_size).predict(spec)

    def measure(self, spec: ModelSpec) -> float:
        """Return milliseconds for one image, of the whole network."""
        return self._table(spec.input_size).measure(spec)

    def _table(self, size: int) -> LatencyTable:
        if size not in self._tables:
            self._tables[size] = LatencyTable(
                self._engine, self._threads, size, self._folder / str(size), progress=self._progress
            )
        return self._tables[size]
