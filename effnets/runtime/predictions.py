"""Logits → named, ranked predictions. Free of torch, so that every engine shares it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effnets.errors import ArgumentError, WeightsError
from effnets.utils.arguments import check_integer

__all__ = ["Prediction", "rank"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class a network proposes for an image, with its softmax probability (0..1)."""

    index: int
    label: str
    probability: float


def rank(logits: NDArray[np.float32], names: Sequence[str], topk: int) -> list[list[Prediction]]:
    """The `topk` likeliest classes of each row of logits ``[N, C]``, the likeliest first; all of them if C is less.

    Raises:
        ArgumentError: `topk` is no number of predictions, or names are too many or too few.
        WeightsError: the logits are not all finite.
    """
    topk = check_integer("topk", topk, 1, "ask for at least 1 prediction")
    if len(names) != logits.shape[1]:
        raise ArgumentError(f"class_names has {len(names)} names for {logits.shape[1]} classes; give one for each")
    if not np.isfinite(logits).all():
        raise WeightsError("the logits are not finite: the weights hold NaN or infinity, or the precision overflows")
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :topk]
    return [
        [Prediction(int(index), names[index], float(row[index])) for index in order]
        for row, order in zip(probabilities, best, strict=True)
    ]
