"""Peak memory of a program: the resident set of a process that does nothing else."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from effnets.bench.report import Row
from effnets.bench.roofline import Ceiling, bound, layers_of
from effnets.bench.variants import OURS, PEERS, Program, Unmeasured
from effnets.engines.base import Precision
from effnets.errors import EffnetsError, EngineError, VerificationError
from effnets.nn.classifier import Classifier
from effnets.utils.timing import Timing, interleave

# Reasons for a missing result, in a report.
UNKNOWN_PEAK = "peak memory, which this system does not tell of a process"

_STATUS = Path("/proc/self/status")


def tells_peak() -> bool:
    """Whether this system tells the peak memory of a process in one of the ways that are known here."""
    return _STATUS.exists() or find_spec("resource") is not None


def peak_memory(program: Program, shape: tuple[int, ...]) -> float:
    """Peak resident memory in MB (10⁶ bytes) of a process that loads a program and executes images of `shape` twice.

    Interpreter and libraries are counted in: they are what a user's process takes.

    Raises:
        EngineError: the process fails.
    """
    # Standard input carries our own objects alone.
    done = subprocess.run(
        [sys.executable, "-m", __name__], input=pickle.dumps((program, shape)), capture_output=True, check=False
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
        raise EngineError(f"{program.path} on {program.engine}: {lines[-1][:300]}")
    return float(done.stdout.split()[-1])


def _peak() -> float:
    """Of this process. What getrusage says may include the process that started it."""
    if _STATUS.exists():
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    """The child: a program and a shape from standard input, the peak to standard output."""
    program, shape = pickle.load(sys.stdin.buffer)
    call = program.load()
    images = np.zeros(shape, np.float32)
    for _ in range(2):
        call(images)
    sys.stdout.write(f"\n{_peak():.1f}\n")


if __name__ == "__main__":
    main()


# A program that differs by more computes another network, and its time means nothing.
_TOLERANCES: Mapping[Precision, float] = {"float32": 2e-3, "bfloat16": 0.5}
_BYTES: Mapping[Precision, int] = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class _Entrant:
    program: Program
    call: Callable[[NDArray[Any]], NDArray[Any]]

    @property
    def key(self) -> str:
        return f"{self.program.path} on {self.program.engine}"


class Contest:
    """The programs of a network that are left: what fails, or computes another network, goes out and is noted.

    The others are still worth measuring.

    Args:
        network: by whose logits in float64 all are judged. label: what it is called in rows and notes.
        size: of its images, (height, width) in pixels.
        programs: that enter.
        unmeasured: where it is noted why one went out.
    """

    def __init__(
        self,
        network: Classifier,
        label: str,
        size: tuple[int, int],
        programs: Iterable[Program],
        unmeasured: Unmeasured,
    ) -> None:
        self.network, self.label, self.size, self.unmeasured = network, label, size, unmeasured
        self._peaks: dict[str, float] = {}
        self._entrants: dict[str, _Entrant] = {}
        for program in programs:
            try:
                entrant = _Entrant(program, program.load())
            except EffnetsError as error:
                self._note(f"{program.path} on {program.engine}: {error}")
            else:
                self._entrants[entrant.key] = entrant

    def measure_memory(self, batch: int) -> None:
        """Take each program's peak memory, in a process of its own."""
        for key, entrant in self._entrants.items():
            try:
                self._peaks[key] = peak_memory(entrant.program, (batch, self.network.in_chans, *self.size))
            except EngineError as error:
                self._note(f"no peak memory of {error}")

    def hold(
        self,
        batch: int,
        ceiling: Ceiling,
        *,
        rounds: int,
        processor_time: bool,
        progress: Callable[[float], object],
    ) -> list[Row]:
        """Check all programs at a batch size and time them in turns; a row for each that is left.

        Raises:
            VerificationError: one of our own computes another network.
        """
        shape = (batch, self.network.in_chans, *self.size)
        images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        differences = self._differences(images)
        if not differences:
            return []
        subjects = {key: _bind(self._entrants[key].call, images) for key in differences}
        timings = interleave(subjects, rounds=rounds, processor_time=processor_time, progress=progress)
        return self._rows(batch, ceiling, differences, timings)

    def _differences(self, images: NDArray[np.float32]) -> dict[str, float]:
        """The largest difference of each program's logits from the network's, as a share of the largest (or of 1)."""
        with torch.inference_mode():
            expected = self.network.double()(torch.from_numpy(images).double()).numpy()
        self.network.float()
        scale = max(1.0, float(np.abs(expected).max()))
        differences: dict[str, float] = {}
        for key, entrant in list(self._entrants.items()):
            try:
                difference = float(np.abs(entrant.call(images) - expected).max()) / scale
            except EngineError as error:
                self._note(f"{entrant.program.path}: {error}")
                del self._entrants[key]
                continue
            if difference <= _TOLERANCES[entrant.program.precision]:
                differences[key] = difference
            else:
                self._expel(entrant, difference)
        return differences

    def _expel(self, entrant: _Entrant, difference: float) -> None:
        name, peer, engine = self.label, entrant.program.path, entrant.program.engine
        if peer in OURS:
            raise VerificationError(
                f"{name}: {entrant.key} gives logits that differ by {difference:.1e}; it is not the same network, and "
                "its time would mean nothing"
            )
        self.unmeasured.absent.append(
            f"{peer}'s {name} is another network (on {engine}, logits differ by {difference:.1e})"
        )
        del self._entrants[entrant.key]

    def _rows(
        self, batch: int, ceiling: Ceiling, differences: Mapping[str, float], timings: Mapping[str, Timing]
    ) -> list[Row]:
        layers = layers_of(self.network.plan, self.size)
        medians = {
            (entrant.program.engine, entrant.program.path): timings[key].median / batch
            for key, entrant in self._entrants.items()
        }
        rows = []
        for key, entrant in self._entrants.items():
            engine, path = entrant.program.engine, entrant.program.path
            low, high = timings[key].quartiles
            median = medians[engine, path]
            rows.append(
                Row(
                    model=self.label,
                    batch=batch,
                    engine=engine,
                    path=path,
                    milliseconds=median,
                    quartiles=(low / batch, high / batch),
                    speedups={
                        peer: medians[engine, peer] / median
                        for peer in PEERS
                        if peer != path and (engine, peer) in medians
                    },
                    difference=differences[key],
                    ceiling_share=bound(layers, ceiling, batch, _BYTES[entrant.program.precision]) / median,
                    megabytes=self._peaks.get(key),
                )
            )
        return rows

    def _note(self, reason: str) -> None:
        self.unmeasured.failed.append(f"{self.label}: {reason}")


def _bind(call: Callable[[NDArray[Any]], NDArray[Any]], images: NDArray[Any]) -> Callable[[], object]:
    return lambda: call(images)
