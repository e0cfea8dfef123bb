"""Metrics of a classifier in NumPy: confidence intervals, scores of classes, calibration. Free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15  # equally wide, as Guo et al. 2017 (arXiv:1706.04599) have them
_Z95 = 1.959963984540054
# Temperatures at which every batch is measured: 8 % apart, interpolated in between.
_TEMPERATURES = np.geomspace(0.1, 10.0, 61)
_EXACT = 1000  # up to this many changed answers, mcnemar sums the binomial distribution


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share, 0..1, of which `right` of `count` were seen.

    Wilson's score interval (Wilson 1927): unlike the normal one it stays within 0..1 and holds for few images.
    """
    if count == 0:
        return 0.0, 1.0
    share, z2 = right / count, _Z95**2
    center = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    # Exactly 0 and 1 if no, or every, answer was right: rounding must not exclude the observed share.
    return (0.0 if right == 0 else center - half), (1.0 if right == count else center + half)


def mcnemar(gained: int, lost: int) -> float:
    """Return the p-value of McNemar's test (McNemar 1947), 0..1, that neither of two classifiers is better.

    Both classify the same images; `gained` were wrong with the first and right with the second, `lost` the other way
    round. Exact for up to 1000 changes, by the corrected chi-square beyond.
    """
    changed = gained + lost
    if changed == 0:
        return 1.0
    if changed <= _EXACT:
        tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1))
        return min(1.0, 2 * tail / 2**changed)
    statistic = max(0.0, abs(gained - lost) - 1) ** 2 / changed
    return math.erfc(math.sqrt(statistic / 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    """Precision, recall and F1 of each class: arrays ``[C]`` of shares 0..1, NaN for a division by zero.

    Attributes:
        support: images of the class. answered: images for which it was the answer.
        precision: share of these answers that are right. recall: share of its images that are recognized.
        f1: harmonic mean of both.
    """

    support: NDArray[np.int64]
    answered: NDArray[np.int64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]


def precision_recall(labels: NDArray[np.integer], answers: NDArray[np.integer], num_classes: int) -> ClassScores:
    """Return the scores of each of `num_classes` from the true `labels` and the `answers`, both ``[N]``."""
    support = np.bincount(labels, minlength=num_classes)
    answered = np.bincount(answers, minlength=num_classes)
    right = np.bincount(labels[labels == answers], minlength=num_classes)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall, f1 = right / answered, right / support, 2 * right / (support + answered)
    return ClassScores(support=support, answered=answered, precision=precision, recall=recall, f1=f1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Whether probabilities mean what they say, in bins of equal width over the answer's probability.

    Attributes:
        temperature: divides the logits to minimize the mean loss (Guo et al. 2017, section 4.2); None if it is outside
            of 0.1..10, as when every answer is right.
        fitted_here: whether it was fitted on these very images, which makes its figures too good.
        error: expected calibration error (ECE), 0..1: the mean gap between confidence and share of right answers.
        scaled_error: the same with logits divided by the temperature (by the nearest of 61, 8 % apart, if it was
            fitted here).
        loss, scaled_loss: mean cross entropy in nats, without and with the temperature.
        counts, confidence, accuracy: for each bin, the images, the mean probability of the answer and the share of
            right answers; NaN for empty bins.
        scaled_counts, scaled_confidence, scaled_accuracy: the same with the temperature.
    """

    temperature: float | None
    fitted_here: bool
    error: float
    scaled_error: float
    loss: float
    scaled_loss: float
    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    scaled_counts: NDArray[np.int64]
    scaled_confidence: NDArray[np.float64]
    scaled_accuracy: NDArray[np.float64]


class CalibrationAccumulator:
    """Computes calibration from batches of logits that it does not keep: sums for each temperature.

    Args:
        temperature: fitted on other images; None fits one on these.
    """

    def __init__(self, temperature: float | None = None) -> None:
        self._given = temperature
        # After the temperatures to try: 1, for the logits as they are, and the given one.
        self._inverse = np.append(1 / _TEMPERATURES, [1.0, *([] if temperature is None else [1 / temperature])])
        size = len(self._inverse)
        self._loss = np.zeros(size)
        self._slope = np.zeros(size)  # of the loss over the inverse temperature
        self._bins = np.zeros((3, size, BINS))  # images, probability, right answers
        self._count = 0

    def add(self, logits: NDArray[np.float32], labels: NDArray[np.integer]) -> None:
        """Add logits ``[N, C]`` and their true classes ``[N]``."""
        rows = np.arange(len(labels))
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        # float32 is precise enough for these sums, and its exp is several times as fast.
        single, truth = shifted.astype(np.float32), shifted[rows, labels]
        right = logits.argmax(axis=1) == labels
        for row, inverse in enumerate(self._inverse):
            weights = np.exp(single * np.float32(inverse))
            total = weights.sum(axis=1, dtype=np.float64)
            mean = np.einsum("nc,nc->n", weights, single) / total
            self._loss[row] += (np.log(total) - inverse * truth).sum()
            self._slope[row] += (mean - truth).sum()
            confidence = 1 / total
            index = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
            for kind, values in enumerate((None, confidence, right.astype(np.float64))):
                self._bins[kind, row] += np.bincount(index, values, minlength=BINS)
        self._count += len(labels)

    def merge(self, other: CalibrationAccumulator) -> None:
        """Add the images of another accumulator of the same temperature."""
        self._loss += other._loss
        self._slope += other._slope
        self._bins += other._bins
        self._count += other._count

    def finish(self) -> Calibration:
        """Return the calibration of all images so far, at least one."""
        plain = len(_TEMPERATURES)
        temperature, fitted = self._given, plain + 1
        if temperature is None:
            inverse = self._best_inverse()
            temperature = None if inverse is None else 1 / inverse
            fitted = plain if inverse is None else int(np.abs(np.log(self._inverse[:plain] / inverse)).argmin())
        counts, confidence, accuracy, error = self._row(plain)
        scaled_counts, scaled_confidence, scaled_accuracy, scaled_error = self._row(fitted)
        return Calibration(
            temperature=temperature,
            fitted_here=self._given is None,
            error=error,
            scaled_error=scaled_error,
            loss=float(self._loss[plain] / self._count),
            scaled_loss=float(self._loss[fitted] / self._count),
            counts=counts,
            confidence=confidence,
            accuracy=accuracy,
            scaled_counts=scaled_counts,
            scaled_confidence=scaled_confidence,
            scaled_accuracy=scaled_accuracy,
        )

    def _best_inverse(self) -> float | None:
        """Return where the slope crosses zero: once, since the loss is convex in the inverse temperature."""
        tried = slice(len(_TEMPERATURES) - 1, None, -1)  # rising
        inverse, slope = self._inverse[tried], self._slope[tried]
        if slope[0] >= 0 or slope[-1] <= 0:
            return None
        above = int(np.argmax(slope > 0))
        low, high = slope[above - 1], slope[above]
        share = -low / (high - low)
        return float(inverse[above - 1] * (inverse[above] / inverse[above - 1]) ** share)

    def _row(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], float]:
        counts, confidence, right = self._bins[:, row]
        error = float(np.abs(confidence - right).sum() / self._count)
        with np.errstate(invalid="ignore"):
            return counts.astype(np.int64), confidence / counts, right / counts, error
