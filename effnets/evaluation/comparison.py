"""Two models on the same pictures: where they agree, and whether one is better or only luckier. Free of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from effnets.errors import ArgumentError
from effnets.evaluation.metrics import mcnemar
from effnets.evaluation.result import Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a second model answers differently from a first.

    Attributes:
        images: that both classified.
        changed: answers that differ.
        gained: of these, wrong with the first and right with the second. lost: the other way round.
        p_value: how probable so uneven a split of gained and lost is if neither is better (McNemar's test).
        confidence_change: largest difference of the answer's probability where the answers are the same, 0..1.
    """

    images: int
    changed: int
    gained: int
    lost: int
    p_value: float
    confidence_change: float

    @property
    def agreement(self) -> float:
        """Equal answers in per cent."""
        return 100 * (self.images - self.changed) / self.images

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold."""
        return {**asdict(self), "agreement": self.agreement}


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Compare the answers of two evaluations of the same pictures.

    Raises:
        ArgumentError: they are not of the same pictures and classes.
    """
    same = (
        np.array_equal(first.indices, second.indices)
        and first.source.class_names == second.source.class_names
        and np.array_equal(_in_data_order(first, first.labels), _in_data_order(second, second.labels))
    )
    if not same:
        raise ArgumentError(
            f"{first.model} was evaluated on {first.count} pictures, {second.model} on {second.count}, and they are "
            "not the same pictures of the same classes; evaluate both on the same data"
        )
    answers = _in_data_order(first, first.answers), _in_data_order(second, second.answers)
    changed = (answers[0] != answers[1]) | ((answers[0] < 0) & ~_same_outside(first, second))
    gained, lost = int((~first.right & second.right).sum()), int((first.right & ~second.right).sum())
    change = np.abs(first.confidences - second.confidences)[~changed]
    return Comparison(
        images=first.count,
        changed=int(changed.sum()),
        gained=gained,
        lost=lost,
        p_value=mcnemar(gained, lost),
        confidence_change=float(change.max(initial=0.0)),
    )


def _in_data_order(evaluation: Evaluation, outputs: np.ndarray[Any, np.dtype[np.int64]]) -> Any:
    """Outputs as classes of the data, -1 for an output that is none: models may number their outputs differently."""
    places = np.full(len(evaluation.class_names), -1)
    places[evaluation.classes] = np.arange(len(evaluation.classes))
    return places[outputs]


def _same_outside(first: Evaluation, second: Evaluation) -> Any:
    names = np.array(first.class_names, object)[first.answers], np.array(second.class_names, object)[second.answers]
    return names[0] == names[1]
