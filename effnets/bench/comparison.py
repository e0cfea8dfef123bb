"""Compare variants of one network: check their outputs, and time them in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from effnets.bench.baselines import BASELINES
from effnets.bench.memory import peak_memory
from effnets.bench.report import Row
from effnets.bench.roofline import Ceiling, bound, layers_of
from effnets.bench.variants import OURS, Unmeasured, Variant
from effnets.engines.base import Precision
from effnets.errors import EffnetsError, EngineError, VerificationError
from effnets.nn.classifier import Classifier
from effnets.utils.timing import interleave

# A variant that differs by more computes another network, and its time means nothing.
_TOLERANCES: Mapping[Precision, float] = {"float32": 2e-3, "bfloat16": 0.5}
_BYTES: Mapping[Precision, int] = {"float32": 4, "bfloat16": 2}


class Comparison:
    """The variants of a network that are left: what fails, or computes another network, goes out and is noted.

    The others are still worth measuring.

    Args:
        network: with whose logits in float64 all are compared. label: what it is called in rows and notes.
        size: of its images, (height, width) in pixels.
        variants: that enter.
        unmeasured: where it is noted why one went out.
    """

    def __init__(
        self,
        network: Classifier,
        label: str,
        size: tuple[int, int],
        variants: Iterable[Variant],
        unmeasured: Unmeasured,
    ) -> None:
        self.network, self.label, self.size, self.unmeasured = network, label, size, unmeasured
        self._peaks: dict[str, float] = {}
        self._loaded: dict[str, tuple[Variant, Callable[[NDArray[Any]], NDArray[Any]]]] = {}
        for variant in variants:
            try:
                self._loaded[variant.name] = variant, variant.load()
            except EffnetsError as error:
                self._note(f"{variant.name}: {error}")

    def measure_memory(self, batch: int) -> None:
        """Take each variant's peak memory, in a process of its own."""
        for name, (variant, _) in self._loaded.items():
            try:
                self._peaks[name] = peak_memory(variant, (batch, self.network.in_chans, *self.size))
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
        """Check all variants at a batch size and time them in turns; a row for each that is left.

        Raises:
            VerificationError: one of our own computes another network.
        """
        shape = (batch, self.network.in_chans, *self.size)
        images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        differences = self._differences(images)
        if not differences:
            return []
        subjects = {name: partial(call, images) for name, (_, call) in self._loaded.items()}
        timings = interleave(subjects, rounds=rounds, processor_time=processor_time, progress=progress)
        layers = layers_of(self.network.plan, self.size)
        medians = {name: timing.median / batch for name, timing in timings.items()}
        rows = []
        for name, (variant, _) in self._loaded.items():
            low, high = timings[name].quartiles
            peers = {peer: f"{peer} on {variant.engine}" for peer in BASELINES if peer != variant.path}
            rows.append(
                Row(
                    model=self.label,
                    batch=batch,
                    engine=variant.engine,
                    path=variant.path,
                    milliseconds=medians[name],
                    quartiles=(low / batch, high / batch),
                    speedups={peer: medians[key] / medians[name] for peer, key in peers.items() if key in medians},
                    difference=differences[name],
                    ceiling_share=bound(layers, ceiling, batch, _BYTES[variant.precision]) / medians[name],
                    megabytes=self._peaks.get(name),
                )
            )
        return rows

    def _differences(self, images: NDArray[np.float32]) -> dict[str, float]:
        """The largest difference of each variant's logits from the network's, as a share of the largest (or of 1).

        Those that fail or differ too much go out.
        """
        with torch.inference_mode():
            expected = self.network.double()(torch.from_numpy(images).double()).numpy()
        self.network.float()
        scale = max(1.0, float(np.abs(expected).max()))
        differences: dict[str, float] = {}
        for name, (variant, call) in list(self._loaded.items()):
            try:
                difference = float(np.abs(call(images) - expected).max()) / scale
            except EngineError as error:
                self._note(f"{variant.path}: {error}")
                del self._loaded[name]
                continue
            if difference <= _TOLERANCES[variant.precision]:
                differences[name] = difference
                continue
            if variant.path in OURS:
                raise VerificationError(
                    f"{self.label}: {name} gives logits that differ by {difference:.1e}; it is not the same network, "
                    "and its time would mean nothing"
                )
            self.unmeasured.absent.append(
                f"{variant.path}'s {self.label} is another network "
                f"(on {variant.engine}, logits differ by {difference:.1e})"
            )
            del self._loaded[name]
        return differences

    def _note(self, reason: str) -> None:
        self.unmeasured.failed.append(f"{self.label}: {reason}")
