"""Time functions in turns, and keep measured latencies between runs. Free of torch."""

from __future__ import annotations

import hashlib
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnets.errors import ArgumentError
from effnets.utils.atomic_file import write_whole
from effnets.utils.paths import home_dir

# A sample shorter than this is mostly the clock's and the scheduler's noise.
_SAMPLE_SECONDS = 0.02
# Engines' threads spin while they wait for the next call, and take a core from the next subject: in a fixed order and
# without rest, the same graph took 4.5 and 8.5 ms; in random order and with rest, 3.9 and 4.0.
_REST_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of one call in milliseconds, in the order measured."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """In milliseconds."""
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile, in milliseconds."""
        if len(self.samples) < 2:
            return self.samples[0], self.samples[0]
        first, _, third = statistics.quantiles(self.samples, n=4, method="inclusive")
        return first, third


def interleave(
    subjects: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 15,
    seconds: float = math.inf,
    warmup: int = 2,
    progress: Callable[[float], object] | None = None,
    processor_time: bool = False,
) -> dict[str, Timing]:
    """Time `subjects` in turns, so that other load on the machine affects all of them alike.

    Every round takes one sample of each in a new random order; a sample is as many calls as fill 20 ms, after a rest
    and, for several calls, an untimed one. The median of many rounds is robust, and the ratio of two medians from one
    run more so.

    Args:
        subjects: what to call, by name.
        rounds: samples of each, at least 1.
        seconds: start no round after this time, but finish at least three.
        warmup: calls of each before the first round, to compile and allocate.
        progress: called with the fraction done, 0 to 1.
        processor_time: count the process's CPU time instead of the clock's: with one thread it is comparable on a busy
            machine; with several it hides how well they share work.

    Raises:
        ArgumentError: if there are no subjects or no rounds.
    """
    if not subjects or rounds < 1:
        raise ArgumentError(f"{len(subjects)} subjects in {rounds} rounds; there must be at least one of each")
    begin = time.perf_counter()
    clock = time.process_time if processor_time else time.perf_counter
    calls = {name: _calls_per_sample(call, warmup, clock) for name, call in subjects.items()}
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    names, order = list(subjects), random.Random(0)
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - begin > seconds:
            break
        order.shuffle(names)
        for name in names:
            time.sleep(_REST_SECONDS)
            samples[name].append(_sample(subjects[name], calls[name], clock))
        if progress is not None:
            progress(max((done + 1) / rounds, min(1.0, (time.perf_counter() - begin) / max(seconds, 1e-9))))
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def ratio(slow: Timing, fast: Timing) -> float:
    """Return how many times faster `fast` is: the ratio of the medians."""
    return slow.median / fast.median


def _calls_per_sample(call: Callable[[], object], warmup: int, clock: Callable[[], float]) -> int:
    for _ in range(warmup):
        call()
    single = _sample(call, 1, clock) / 1000
    return max(1, math.ceil(_SAMPLE_SECONDS / max(single, 1e-9)) if single < _SAMPLE_SECONDS else 1)


def _sample(call: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    """Milliseconds of one call, over `calls` of them."""
    if calls > 1:
        call()  # untimed: refills the caches and wakes the engine's threads
    begin = clock()
    for _ in range(calls):
        call()
    return (clock() - begin) * 1000 / calls


_FORMAT = 1


@dataclass(frozen=True, slots=True)
class MeasurementCache:
    """A folder of measurements, one file each, so that parallel processes do not clash."""

    folder: Path

    @classmethod
    def default(cls) -> MeasurementCache:
        """Return the store in `effnets.utils.paths.home_dir`."""
        return cls(home_dir() / "measurements")

    def read(self, conditions: Mapping[str, Any]) -> tuple[Timing | None, str | None]:
        """Read a measurement under these conditions, or None; and a note if its file is unusable."""
        path = self._path(conditions)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None, None
        except (OSError, UnicodeDecodeError) as error:
            return None, f"{path}: cannot be read ({error}); measuring again"
        try:
            samples = _samples(json.loads(text), _plain(conditions))
        except (ValueError, TypeError, KeyError, RecursionError):
            return None, f"{path}: the measurement is damaged; measuring again"
        return Timing(samples), None

    def write(self, conditions: Mapping[str, Any], timing: Timing, *, when: str) -> str | None:
        """Write a measurement atomically; return a note if that fails, which only costs another measurement."""
        path = self._path(conditions)
        content = {"format": _FORMAT, "conditions": _plain(conditions), "measured": when, "ms": list(timing.samples)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
        except OSError as error:
            return f"{path}: the measurement is not saved ({error.strerror or error})"
        return None

    def _path(self, conditions: Mapping[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(_plain(conditions), sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.json"


def _plain(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Return the conditions as JSON reads them: tuples as lists."""
    plain: dict[str, Any] = json.loads(json.dumps(conditions))
    return plain


def _samples(content: Any, conditions: dict[str, Any]) -> tuple[float, ...]:
    if content["format"] != _FORMAT or content["conditions"] != conditions:
        raise ValueError("written for something else")
    samples = content["ms"]
    if not isinstance(samples, list) or not samples:
        raise ValueError("no samples")
    if not all(type(value) in (int, float) and 0 < value < math.inf for value in samples):
        raise ValueError("no times")
    return tuple(float(value) for value in samples)
