"""Compare programs of one network: check their outputs, and time them in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from effnets.bench.baselines import BASELINES
from effnets.bench.memory import peak_memory
from effnets.bench.report import Row
from effnets.bench.roofline import Ceiling, bound, layers_of
from effnets.bench.variants import OURS, Program, Unmeasured
from effnets.engines.base import Precision
from effnets.errors import EffnetsError, EngineError, VerificationError
from effnets.nn.classifier import Classifier
from effnets.utils.timing import Timing, interleave

# A program that differs by more computes another network, and its time means nothing.
_TOLERANCES: Mapping[Precision, float] = {"float32": 2e-3, "bfloat16": 0.5}
_BYTES: Mapping[Precision, int] = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class _Runner:
    program: Program
    call: Callable[[NDArray[Any]], NDArray[Any]]

    @property
    def key(self) -> str:
        return f"{self.program.path} on {self.program.engine}"


class Comparison:
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
        self._runners: dict[str, _Runner] = {}
        for program in programs:
            try:
                runner = _Runner(program, program.load())
            except EffnetsError as error:
                self._note(f"{program.path} on {program.engine}: {error}")
            else:
                self._runners[runner.key] = runner

    def measure_memory(self, batch: int) -> None:
        """Take each program's peak memory, in a process of its own."""
        for key, runner in self._runners.items():
            try:
                self._peaks[key] = peak_memory(runner.program, (batch, self.network.in_chans, *self.size))
            except EngineError as error:
                self._note(f"no peak memory of {error}")

    def run(
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
        subjects = {key: _bind(self._runners[key].call, images) for key in differences}
        timings = interleave(subjects, rounds=rounds, processor_time=processor_time, progress=progress)
        return self._rows(batch, ceiling, differences, timings)

    def _differences(self, images: NDArray[np.float32]) -> dict[str, float]:
        """The largest difference of each program's logits from the network's, as a share of the largest (or of 1)."""
        with torch.inference_mode():
            expected = self.network.double()(torch.from_numpy(images).double()).numpy()
        self.network.float()
        scale = max(1.0, float(np.abs(expected).max()))
        differences: dict[str, float] = {}
        for key, runner in list(self._runners.items()):
            try:
                difference = float(np.abs(runner.call(images) - expected).max()) / scale
            except EngineError as error:
                self._note(f"{runner.program.path}: {error}")
                del self._runners[key]
                continue
            if difference <= _TOLERANCES[runner.program.precision]:
                differences[key] = difference
            else:
                self._exclude(runner, difference)
        return differences

    def _exclude(self, runner: _Runner, difference: float) -> None:
        name, peer, engine = self.label, runner.program.path, runner.program.engine
        if peer in OURS:
            raise VerificationError(
                f"{name}: {runner.key} gives logits that differ by {difference:.1e}; it is not the same network, and "
                "its time would mean nothing"
            )
        self.unmeasured.absent.append(
            f"{peer}'s {name} is another network (on {engine}, logits differ by {difference:.1e})"
        )
        del self._runners[runner.key]

    def _rows(
        self, batch: int, ceiling: Ceiling, differences: Mapping[str, float], timings: Mapping[str, Timing]
    ) -> list[Row]:
        layers = layers_of(self.network.plan, self.size)
        medians = {
            (runner.program.engine, runner.program.path): timings[key].median / batch
            for key, runner in self._runners.items()
        }
        rows = []
        for key, runner in self._runners.items():
            engine, path = runner.program.engine, runner.program.path
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
                        for peer in BASELINES
                        if peer != path and (engine, peer) in medians
                    },
                    difference=differences[key],
                    ceiling_share=bound(layers, ceiling, batch, _BYTES[runner.program.precision]) / median,
                    megabytes=self._peaks.get(key),
                )
            )
        return rows

    def _note(self, reason: str) -> None:
        self.unmeasured.failed.append(f"{self.label}: {reason}")


def _bind(call: Callable[[NDArray[Any]], NDArray[Any]], images: NDArray[Any]) -> Callable[[], object]:
    return lambda: call(images)
