"""Evaluations of a search: each candidate's accuracy once, in a journal, and the Pareto front of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from effnets.search.candidates import Candidate
from effnets.search.space import Picks
from effnets.utils.run_journal import RunJournal

CostName = Literal["params", "madds", "latency"]


class StopEvaluationError(Exception):
    """Raised within an evaluation whose candidate is not worth its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a candidate reached.

    Attributes:
        candidate: the network. accuracy: top-1 on validation in per cent; of a pruned one, of its last epoch.
        seconds: that it took. pruned: whether it was ended early. epochs: top-1 after each epoch that was reported.
    """

    candidate: Candidate
    accuracy: float
    seconds: float
    pruned: bool = False
    epochs: tuple[float, ...] = ()


class Evaluator(Protocol):
    """Finds the accuracy of a candidate; may call `report` with the number of an epoch, from 1, and its top-1."""

    def __call__(self, candidate: Candidate, report: Callable[[int, float], None]) -> float: ...


@dataclass
class EvaluationJournal:
    """Evaluates candidates, each once: what the journal has is not done again.

    Epochs are written as they are reported, so that what was decided on them is decided alike after an interruption.
    """

    journal: RunJournal
    evaluator: Evaluator
    measure: Callable[[Picks], Candidate | None]
    _done: dict[Picks, Evaluation] = field(default_factory=dict)
    _epochs: dict[Picks, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.journal.rows():
            picks = tuple(row["picks"])
            candidate = self.measure(picks)
            if "epoch" in row:
                self._epochs.setdefault(picks, []).append(row["epoch"])
            elif candidate is not None:
                self._done[picks] = Evaluation(
                    candidate=candidate,
                    accuracy=row["accuracy"],
                    seconds=row["seconds"],
                    pruned=row["pruned"],
                    epochs=tuple(self._epochs.get(picks, ())),
                )

    def is_done(self, candidate: Candidate) -> bool:
        """Whether the candidate needs no more work."""
        return candidate.picks in self._done

    def evaluate(self, candidate: Candidate, keep_on: Callable[[Sequence[float]], bool]) -> Evaluation:
        """Return what the candidate reached, which may take long.

        Args:
            candidate: the network.
            keep_on: called with the top-1 of all epochs so far; false ends the evaluation.
        """
        if candidate.picks in self._done:
            return self._done[candidate.picks]
        picks = candidate.picks
        known = [*self._epochs.get(picks, ())]
        begin = time.monotonic()

        def report(epoch: int, top1: float) -> None:
            if len(known) < epoch:  # an epoch that is trained again after an interruption has its line already
                known.append(top1)
                self.journal.append({"picks": picks, "epoch": top1})
            if not keep_on(known[:epoch]):
                raise StopEvaluationError

        pruned = False
        try:
            accuracy = self.evaluator(candidate, report)
        except StopEvaluationError:
            accuracy, pruned = known[-1], True
        found = Evaluation(
            candidate=candidate,
            accuracy=accuracy,
            seconds=round(time.monotonic() - begin, 3),
            pruned=pruned,
            epochs=tuple(known),
        )
        self.journal.append({"picks": picks, "accuracy": accuracy, "seconds": found.seconds, "pruned": pruned})
        self._done[picks] = found
        return found


def pareto_front(evaluations: Sequence[Evaluation], cost: CostName) -> list[Evaluation]:
    """Return what no other one beats in both accuracy and `cost`, the cheapest first; pruned ones have no place."""
    whole = [one for one in evaluations if not one.pruned]
    ordered = sorted(whole, key=lambda one: (one.candidate.cost(cost), -one.accuracy, one.candidate.picks))
    front: list[Evaluation] = []
    for one in ordered:
        if not front or one.accuracy > front[-1].accuracy:
            front.append(one)
    return front
