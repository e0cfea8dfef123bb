"""Measure the latency of a network that no table has, and remember it as ``effnets choose`` does."""

from __future__ import annotations

import datetime
from collections.abc import Callable

from effnets.bench.choose import Network, architecture_of
from effnets.bench.latency import LatencyProfiler, pick_engine
from effnets.spec.scaling import ScaledModel
from effnets.utils.timing import MeasurementCache


class LatencyMeter:
    """Measures the median latency of one image on an engine; measurements are kept for the next time.

    Attributes:
        engine: its name. count: how many networks were measured, or looked up.

    Raises:
        ArgumentError, EngineError: as `effnets.bench.latency.pick_engine`.
    """

    def __init__(
        self, engine: str = "auto", threads: int | None = None, progress: Callable[[str, float], object] | None = None
    ) -> None:
        self.engine = pick_engine(engine)
        self.count = 0
        self._profiler = LatencyProfiler(self.engine, threads=threads)
        self._store = MeasurementCache.default()
        self._progress = progress

    def __call__(self, model: ScaledModel) -> float:
        """Return the latency of `model` in milliseconds; raises ExportError or EngineError if it cannot be measured."""
        network = Network(model.spec.name, model.input_size, architecture_of(model.spec), model.spec)
        if self._progress is not None:
            self._progress(f"α = {model.width:g} at {model.input_size}", min(0.95, self.count / 8))
        self.count += 1
        conditions = self._profiler.conditions(network)
        timing, _ = self._store.read(conditions)
        if timing is None:
            timing = self._profiler.measure(network)
            when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            self._store.write(conditions, timing, when=when)
        return timing.median
