"""Answers as they pass by, batch after batch: a few numbers for each picture, and no logits unless asked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from effnets.errors import WeightsError
from effnets.train.measures import CalibrationTally

__all__ = ["Tally"]


class Tally:
    """Collects what an `Evaluation` consists of.

    Args:
        topk: among how many of the likeliest outputs the true class is looked for.
        keep_logits: whether they are kept.
        temperature: fitted on other pictures, to judge calibration by; None fits one on these.
    """

    def __init__(self, topk: int, *, keep_logits: bool = False, temperature: float | None = None) -> None:
        self._topk = topk
        self.right_in_topk = 0
        self.calibration = CalibrationTally(temperature)
        self._indices: list[NDArray[np.int64]] = []
        self._labels: list[NDArray[np.int64]] = []
        self._answers: list[NDArray[np.int64]] = []
        self._confidences: list[NDArray[np.float32]] = []
        self._logits: list[NDArray[np.float32]] | None = [] if keep_logits else None

    def add(self, indices: NDArray[np.int64], labels: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        """Count the logits ``[N, C]`` for pictures of which `labels` are the true outputs.

        Raises:
            WeightsError: the logits are not all finite.
        """
        if not np.isfinite(logits).all():
            raise WeightsError(
                "the logits are not finite: the weights hold NaN or infinity, or the precision overflows"
            )
        rows = np.arange(len(labels))
        truth = logits[rows, labels][:, None]
        # Of equal logits the first output comes first, as in effnets.predict.
        earlier = np.arange(logits.shape[1]) < labels[:, None]
        rank = ((logits > truth) | ((logits == truth) & earlier)).sum(axis=1)
        self.right_in_topk += int((rank < self._topk).sum())
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        self._indices.append(indices)
        self._labels.append(labels)
        self._answers.append(logits.argmax(axis=1))
        self._confidences.append((1 / weights.sum(axis=1, dtype=np.float64)).astype(np.float32))
        self.calibration.add(logits, labels)
        if self._logits is not None:
            self._logits.append(logits)

    @property
    def count(self) -> int:
        """Pictures counted so far."""
        return sum(len(labels) for labels in self._labels)

    def indices(self) -> NDArray[np.int64]:
        """Of the pictures, ``[N]``."""
        return np.concatenate(self._indices)

    def labels(self) -> NDArray[np.int64]:
        """True outputs, ``[N]``."""
        return np.concatenate(self._labels)

    def answers(self) -> NDArray[np.int64]:
        """Likeliest outputs, ``[N]``."""
        return np.concatenate(self._answers)

    def confidences(self) -> NDArray[np.float32]:
        """Probabilities of the answers, ``[N]``."""
        return np.concatenate(self._confidences)

    def logits(self) -> NDArray[np.float32] | None:
        """``[N, C]`` if they were to be kept."""
        return None if self._logits is None else np.concatenate(self._logits)
