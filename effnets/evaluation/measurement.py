"""Count what an evaluation reports of a part of the images, and add it up. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.errors import ArgumentError, ImageError, WeightsError
from effnets.evaluation.metrics import CalibrationAccumulator
from effnets.evaluation.result import Broken
from effnets.inference.pipeline import Output, Pipeline, Timing

_COUNTED = 32  # images that are counted at a time


@dataclass(slots=True)
class Tally:
    """What was counted of some images.

    Attributes:
        calibration: of their logits.
        answered: ``[N]`` each of batches: indices, labels, answers, their probabilities, whether the label is in top-k.
        logits: of batches, if they are kept. broken: images that could not be read.
        timing: of the pipelines.
    """

    calibration: CalibrationAccumulator
    answered: list[tuple[NDArray[Any], ...]] = field(default_factory=list)
    logits: list[NDArray[np.float32]] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    timing: Timing = field(default_factory=Timing)

    def merge(self, other: Tally) -> None:
        """Add what was counted of other images."""
        self.calibration.merge(other.calibration)
        self.answered += other.answered
        self.logits += other.logits
        self.broken += other.broken
        for name in ("images", "loading", "inference"):
            setattr(self.timing, name, getattr(self.timing, name) + getattr(other.timing, name))

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Return what was answered, of all images together."""
        return tuple(map(np.concatenate, zip(*self.answered, strict=True)))


@dataclass(frozen=True, slots=True)
class Measurement:
    """Counts what `effnets.evaluate` reports; it is pickled for other processes.

    Attributes:
        dataset: the images. classes: the output of each of their classes.
        topk, temperature, strict, keep_logits: as of `effnets.evaluate`.
    """

    dataset: ImageDataset
    classes: NDArray[np.int64]
    _: KW_ONLY
    topk: int
    temperature: float | None
    strict: bool
    keep_logits: bool

    def tally(self) -> Tally:
        """Return a tally of no images."""
        return Tally(CalibrationAccumulator(self.temperature))

    def __call__(self, pipeline: Pipeline, indices: range, progress: Callable[[float], object] | None = None) -> Tally:
        """Return what is counted of the images at `indices`.

        Raises:
            ImageError: if an image cannot be read, with `strict`.
            WeightsError: if logits are NaN or infinite.
        """
        tally = self.tally()

        def load(index: int) -> Any:
            predictor = pipeline.predictor
            return predictor.prepare(self.dataset.lazy_image(index).decode(predictor.min_side))

        outputs = pipeline.run(indices, load)
        done = 0
        while batch := list(islice(outputs, _COUNTED)):
            tally.broken += broken_of(self.dataset, batch, strict=self.strict)
            chosen = np.array([output.item for output in batch if output.error is None], np.int64)
            if len(chosen):
                logits = np.stack([output.values for output in batch if output.values is not None])
                labels = self.classes[self.dataset.labels[chosen]]
                tally.answered.append(_answers(chosen, labels, logits, self.topk))
                tally.calibration.add(logits, labels)
                if self.keep_logits:
                    tally.logits.append(logits)
            done += len(batch)
            if progress is not None:
                progress(done / len(indices))
        tally.timing = pipeline.timing
        return tally


# Measures all images in other processes; returns the tally, and how many processes there were.
Distribute: TypeAlias = Callable[[Measurement, Callable[[float], object] | None], tuple[Tally, int]]


def _answers(
    indices: NDArray[np.int64], labels: NDArray[np.int64], logits: NDArray[np.float32], topk: int
) -> tuple[NDArray[Any], ...]:
    """Return ``[N]`` each of a batch: indices, labels, answers, their probabilities, and whether the label is in top-k.

    Raises:
        WeightsError: if the logits are not all finite.
    """
    if not np.isfinite(logits).all():
        raise WeightsError("the logits are not finite: the weights hold NaN or infinity, or the precision overflows")
    truth = logits[np.arange(len(labels)), labels][:, None]
    # Of equal logits the first output comes first, as in effnets.predict.
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > truth) | ((logits == truth) & earlier)).sum(axis=1)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    confidences = (1 / weights.sum(axis=1, dtype=np.float64)).astype(np.float32)
    return indices, labels, logits.argmax(axis=1), confidences, rank < topk


def broken_of(dataset: ImageDataset, outputs: Sequence[Output[int]], *, strict: bool) -> list[Broken]:
    """Return the images of a batch that could not be read, with reasons that name them.

    Raises:
        ImageError: with `strict`, for the first of them.
    """
    found = []
    for index, _, error in outputs:
        if error is None:
            continue
        if isinstance(error, ArgumentError):
            raise error
        name, message = dataset.name(index), str(error)
        reason = message if name in message else f"{name}: {message}"
        if strict:
            raise ImageError(f"{reason} (strict is on: fix or remove the image, or leave strict out)")
        found.append(Broken(name, reason))
    return found
