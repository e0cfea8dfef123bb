"""Which network to measure next, so that few measurements answer the question. Pure functions, free of torch.

Latency is foretold from the multiply-adds of the nearest network of the same family that was measured: within a family
it grows with them, but slower than they do.
"""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np

from effnets._version import __version__
from effnets.bench.choose import Limits, ModelCandidate, Network, networks_of, with_latencies, within
from effnets.deploy.engine import load_engine
from effnets.deploy.optimize.rewrites import Rewrites, preset
from effnets.engines.base import ENGINES, Engine, available_engines, load_bytes
from effnets.errors import ArgumentError, EngineError
from effnets.utils.arguments import check_integer
from effnets.utils.machine import describe_machine, version_of
from effnets.utils.timing import MeasurementCache, Timing, interleave

# Latency as a power of multiply-adds: as it is on average, and at least, going up.
_TYPICAL, _LEAST = 0.85, 0.6
# Networks of another family differ by as much in time per multiply-add.
_BETWEEN_FAMILIES = 3.0
# A measurement may be wrong by as much, on a machine that does other work too.
_NOISE = 1.2


def next_network(
    candidates: Sequence[ModelCandidate], latencies: Mapping[tuple[str, int], float], limits: Limits
) -> Network | None:
    """The network whose latency matters most among those not measured; None if no other can change the answer.

    First what may be more accurate than the best within the limits, then one step beyond it, then the rest of the
    front. A network is passed over where even an optimistic estimate of its latency is too high to matter.

    Args:
        candidates: all there are; those that break another limit than latency are not measured.
        latencies: in milliseconds, by `Network.key`.
        limits: the limits.
    """
    eligible = [candidate for candidate in candidates if within(candidate, limits.without("max_latency"))]
    # Of the tags of a network only the most accurate can matter.
    best = [max(group, key=lambda candidate: candidate.top1) for group in networks_of(eligible)]
    measured = {c.network.key: c for c in candidates if c.network.key in latencies}
    known = [(c, latencies[c.network.key]) for c in measured.values()]
    unmeasured = [candidate for candidate in best if candidate.network.key not in latencies]
    if not unmeasured:
        return None
    if not known:
        return sorted(unmeasured, key=lambda candidate: (candidate.madds, candidate.name))[len(unmeasured) // 2].network

    limit = math.inf if limits.max_latency is None else limits.max_latency
    in_best = [(c, latencies[c.network.key]) for c in best if c.network.key in latencies]
    reached = max((c.top1 for c, latency in in_best if latency <= limit), default=-math.inf)
    better = [candidate for candidate in unmeasured if candidate.top1 > reached]

    contenders = [candidate for candidate in better if _least(candidate, known) <= limit]
    if contenders:
        likely = [candidate for candidate in contenders if expected_latency(candidate, known) <= limit]
        if likely:
            return max(likely, key=lambda candidate: (candidate.top1, -candidate.madds)).network
        return min(contenders, key=lambda candidate: expected_latency(candidate, known)).network

    # With nothing within the limit, what comes nearest to it is asked for.
    fastest = min((latency for _, latency in in_best), default=math.inf)
    if reached == -math.inf and (swift := min(better, key=lambda c: expected_latency(c, known), default=None)):
        return swift.network if expected_latency(swift, known) < fastest else None

    if better and not any(c.top1 > reached for c, _ in in_best):
        return min(better, key=lambda candidate: expected_latency(candidate, known)).network

    for candidate in sorted(unmeasured, key=lambda candidate: -candidate.top1):
        rival = min((latency for c, latency in in_best if c.top1 >= candidate.top1), default=math.inf)
        if _least(candidate, known) < min(rival, limit):
            return candidate.network
    return None


def expected_latency(candidate: ModelCandidate, known: Sequence[tuple[ModelCandidate, float]]) -> float:
    """A guess in milliseconds, from at least one measurement."""
    other, latency, _ = _nearest(candidate, known)
    return latency * (candidate.madds / other.madds) ** _TYPICAL


def _least(candidate: ModelCandidate, known: Sequence[tuple[ModelCandidate, float]]) -> float:
    """An optimistic guess: it will hardly be faster than that."""
    other, latency, kin = _nearest(candidate, known)
    ratio = candidate.madds / other.madds
    power = _LEAST if ratio > 1 else 1.0
    return latency * ratio**power / (_NOISE if kin else _BETWEEN_FAMILIES)


def _nearest(
    candidate: ModelCandidate, known: Sequence[tuple[ModelCandidate, float]]
) -> tuple[ModelCandidate, float, bool]:
    """The measured candidate of the most similar size, of the same family where there is one, and whether it is."""
    kin = [pair for pair in known if pair[0].family == candidate.family]
    other, latency = min(kin or known, key=lambda pair: abs(math.log(pair[0].madds / candidate.madds)))
    return other, latency, bool(kin)


_TO_EXPORT = ("onnx", "onnxscript")
# Packages take minutes to compile; and of GPUs the description of the machine says nothing yet, by which measurements
# are told apart.
_NO_CHOICE = ("aotinductor", "onnxruntime-cuda", "onnxruntime-tensorrt", "torch-cuda")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the candidates.

    Attributes:
        candidates: all of them, with latencies where known.
        timings: by `Network.key`. measured, reused: how many networks were, in this run and in those before.
        open: of networks that may change the answer, for which time was too short. skipped: of those that cannot, by an
            estimate. notes: what else is to be said.
    """

    candidates: list[ModelCandidate]
    timings: dict[tuple[str, int], Timing]
    measured: int
    reused: int
    open: list[ModelCandidate]
    skipped: list[ModelCandidate]
    notes: list[str]


@dataclass(slots=True)
class LatencyProfiler:
    """Measures one engine under one set of conditions.

    Attributes:
        engine: of `ENGINES`. batch: images in a call. threads: None leaves them to the engine.
        seconds: that the timing of one network takes, beside its preparation.
    """

    engine: str
    batch: int = 1
    threads: int | None = None
    seconds: float = 1.5
    _conditions: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.batch = check_integer("batch", self.batch, 1, "it must be at least 1")
        if self.threads is not None:
            self.threads = check_integer("threads", self.threads, 1, "it must be at least 1")
        machine = describe_machine()
        package = ENGINES[self.engine]
        self._conditions = {
            "processor": machine.processor,
            "cores": machine.cores,
            "features": machine.features,
            "system": machine.system,
            "engine": self.engine,
            "versions": {package: version_of(package), "effnets": __version__},
            "rewrites": self._rewrites.to_dict(),
            "batch": self.batch,
            "threads": self.threads,
        }

    @property
    def _rewrites(self) -> Rewrites:
        return preset(self.engine)

    def conditions(self, network: Network) -> dict[str, Any]:
        """All that the latency of `network` depends on."""
        return {**self._conditions, "architecture": network.architecture, "size": network.size}

    @property
    def shared_conditions(self) -> dict[str, Any]:
        """Those of them that all networks have."""
        return dict(self._conditions)

    def measure(self, network: Network) -> Timing:
        """Milliseconds of one call, over at least three samples.

        Raises:
            ExportError, EngineError: the network cannot be brought onto the engine.
        """
        if self.engine == "torch-compile":
            # What was compiled for one network does not serve the next, and beyond a limit torch compiles no more.
            import torch

            torch.compiler.reset()
        engine = self.load(network)
        images = np.random.default_rng(0).standard_normal((self.batch, 3, network.size, network.size), np.float32)
        return interleave({network.name: lambda: engine(images)}, rounds=15, seconds=self.seconds)[network.name]

    def load(self, network: Network) -> Engine:
        """Bring a network, with random weights, onto the engine; raises as `measure`."""
        # Speed does not depend on what the weights are: random ones spare the download. Nor need the graph be verified,
        # which takes far longer than the rest: `export_onnx` does that for the one that is chosen.
        from effnets.factory import create_model

        model = create_model(network.spec or network.name).eval()
        if self.engine.startswith("torch"):
            return load_engine(model, self.engine, threads=self.threads)
        from effnets.deploy.export.export import export_bytes

        file, metadata = export_bytes(model, self._rewrites, network.size, self.engine)
        return load_bytes(file, metadata, self.engine, threads=self.threads)


def pick_engine(name: str = "auto") -> str:
    """The engine of that name, or for ``auto`` the first that is installed: ONNX Runtime, OpenVINO, torch.

    Raises:
        ArgumentError: no engine has this name, or none to choose for.
        EngineError: it is not installed, or what brings networks onto it is not.
    """
    possible = [engine for engine in ENGINES if engine not in _NO_CHOICE]
    if name != "auto" and name not in possible:
        raise ArgumentError(f"engine is {name!r}; choose auto or one of {', '.join(possible)}")
    hint = "install with: pip install 'effnets[export]'"
    can_export = all(find_spec(package) for package in _TO_EXPORT)
    if name == "auto":
        installed = [engine for engine in available_engines() if can_export or ENGINES[engine] == "torch"]
        name = next((engine for engine in installed if engine in possible), "")
        if not name:
            raise EngineError(f"no engine is installed; {hint}")
    elif not find_spec(ENGINES[name]):
        raise EngineError(f"the engine {name} is not installed; {hint}")
    elif ENGINES[name] != "torch" and not can_export:
        raise EngineError(f"measuring on {name} needs {' and '.join(_TO_EXPORT)}; {hint}")
    return name


def measure_candidates(
    candidates: Sequence[ModelCandidate],
    limits: Limits,
    profiler: LatencyProfiler,
    *,
    store: MeasurementCache | None = None,
    anew: bool = False,
    budget: float = 300.0,
    progress: Callable[[str, float], object] | None = None,
) -> Outcome:
    """Find the latencies that the choice depends on: known ones first, then by `next_network` until time is up.

    Args:
        candidates: see `effnets.bench.choose.list_candidates`.
        limits: what breaks one of them other than latency is never measured.
        profiler: measures.
        store: of earlier measurements, which gets the new ones; None: the user's. anew: do not reuse any.
        budget: seconds; no measurement begins that would likely end after them, but one may always be made.
        progress: called before each measurement with what is measured and the share of the budget that has passed.

    Raises:
        ExportError, EngineError: a network cannot be measured.
    """
    store = MeasurementCache.default() if store is None else store
    timings: dict[tuple[str, int], Timing] = {}
    notes: list[str] = []
    possible = [candidate for candidate in candidates if within(candidate, limits.without("max_latency"))]
    if not anew:
        for group in networks_of(possible):
            timing, note = store.read(profiler.conditions(group[0].network))
            notes += [note] if note else []
            if timing is not None:
                timings[group[0].network.key] = timing
    reused, longest, begin = len(timings), 0.0, time.perf_counter()
    latencies = {key: timing.median for key, timing in timings.items()}
    while (network := next_network(possible, latencies, limits)) is not None:
        passed = time.perf_counter() - begin
        if longest and passed + longest > budget:
            break
        if progress is not None:
            progress(f"{network.name} at {network.size}", min(1.0, passed / budget))
        timing = profiler.measure(network)
        note = store.write(profiler.conditions(network), timing, when=_now())
        notes += [note] if note and note not in notes else []
        timings[network.key], latencies[network.key] = timing, timing.median
        longest = max(longest, time.perf_counter() - begin - passed)
    left = [max(group, key=lambda c: c.top1) for group in networks_of(possible) if group[0].network.key not in timings]
    return Outcome(
        candidates=with_latencies(candidates, latencies),
        timings=timings,
        measured=len(timings) - reused,
        reused=reused,
        open=left if network else [],
        skipped=[] if network else left,
        notes=notes,
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
