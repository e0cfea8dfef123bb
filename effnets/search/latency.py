"""Measure the latency of a network that no table has, and remember it as ``effnets choose`` does."""

from __future__ import annotations

import datetime
from collections.abc import Callable

from effnets.bench.choose import Network, architecture_of
from effnets.bench.latency import LatencyProfiler, pick_engine
from effnets.spec.scaling import ScaledModel
from effnets.spec.specs import ModelSpec
from effnets.utils.timing import MeasurementCache


class LatencyMeter:
    """Measures the median latency of one image on an engine; measurements are kept for the next time.

    Attributes:
        engine: its name. profiler: measures on it. count: how many networks were measured, or looked up, by a call.

    Args:
        store: of measurements; None: the user's.

    Raises:
        ArgumentError, EngineError: as `effnets.bench.latency.pick_engine`.
    """

    def __init__(
        self,
        engine: str = "auto",
        threads: int | None = None,
        progress: Callable[[str, float], object] | None = None,
        *,
        store: MeasurementCache | None = None,
    ) -> None:
        self.engine = pick_engine(engine)
        self.count = 0
        self.profiler = LatencyProfiler(self.engine, threads=threads)
        self._store = MeasurementCache.default() if store is None else store
        self._progress = progress

    def __call__(self, model: ScaledModel) -> float:
        """Return the latency of `model` in milliseconds; raises ExportError or EngineError if it cannot be measured."""
        if self._progress is not None:
            self._progress(f"α = {model.width:g} at {model.input_size}", min(0.95, self.count / 8))
        self.count += 1
        return self.measure(model.spec, model.input_size)

    def measure(self, spec: ModelSpec, size: int) -> float:
        """Return the latency of `spec` at an input of `size` in milliseconds; raises as a call does."""
        network = Network(spec.name, size, architecture_of(spec), spec)
        conditions = self.profiler.conditions(network)
        timing, _ = self._store.read(conditions)
        if timing is None:
            timing = self.profiler.measure(network)
            when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            self._store.write(conditions, timing, when=when)
        return timing.median
