"""The best network for a budget: what is on the Pareto front, and which of it to take. Pure functions, free of torch.

The question is the one of MobileNet's width α and resolution ρ (arXiv:1704.04861, section 4), asked of all published
weights together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

from effnets.bench.candidates import Candidate, Limits, within

__all__ = ["Nearest", "Recommendation", "dominates", "nearest", "pareto_front", "recommend"]

# Field of `Limits` → what of a candidate it limits, and whether less of it is better.
_LIMITED: dict[str, tuple[Callable[[Candidate], float | None], bool]] = {
    "max_latency": (lambda candidate: candidate.latency, True),
    "max_params": (lambda candidate: candidate.params, True),
    "max_madds": (lambda candidate: candidate.madds, True),
    "min_top1": (lambda candidate: candidate.top1, False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What to take, and what the next more accurate and the next faster one on the front would be.

    Attributes:
        chosen: the most accurate within all limits, the faster and smaller of equals.
        above: the fastest more accurate one that was measured; it breaks a limit. None: none was measured.
        below: the most accurate faster one. None: none was measured.
    """

    chosen: Candidate
    above: Candidate | None
    below: Candidate | None

    def __str__(self) -> str:
        chosen = self.chosen
        text = (
            f"Take {chosen.label}: the most accurate within the limits, {_top1(chosen.top1)} in {_ms(chosen)} "
            f"with {_millions(chosen.params)} parameters"
        )
        if self.above is not None:
            text += f"; one step up, {self.above.label}, {_difference(self.above, chosen)}"
        if self.below is not None:
            text += f"; one step down, {self.below.label}, {_difference(self.below, chosen)}"
        return text + "."


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """What breaks only this limit, by least. `candidate` None: nothing breaks this limit alone."""

    limit: str
    candidate: Candidate | None


def dominates(one: Candidate, other: Candidate) -> bool:
    """Whether `one` is at least as accurate and as fast as `other`, and better in one of the two. Both are measured."""
    as_good = one.top1 >= other.top1 and _latency(one) <= _latency(other)
    return as_good and (one.top1 > other.top1 or _latency(one) < _latency(other))


def pareto_front(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The measured candidates that no other dominates in accuracy and latency, the fastest first."""
    measured = [candidate for candidate in candidates if candidate.latency is not None]
    measured.sort(key=_fastest)
    front: list[Candidate] = []
    for candidate in measured:
        if not front or candidate.top1 > front[-1].top1 or _equal(candidate, front[-1]):
            front.append(candidate)
    return front


def recommend(candidates: Sequence[Candidate], limits: Limits) -> Recommendation | None:
    """The most accurate measured candidate within `limits`, with its neighbours; None if there is none."""
    measured = [candidate for candidate in candidates if candidate.latency is not None]
    possible = [candidate for candidate in measured if within(candidate, limits)]
    if not possible:
        return None
    chosen = min(possible, key=_best)
    more_accurate = [candidate for candidate in measured if candidate.top1 > chosen.top1]
    faster = [candidate for candidate in measured if _latency(candidate) < _latency(chosen)]
    return Recommendation(
        chosen=chosen,
        above=min(more_accurate, key=_fastest, default=None),
        below=min(faster, key=_best, default=None),
    )


def nearest(candidates: Sequence[Candidate], limits: Limits) -> list[Nearest]:
    """For each limit that is set, the candidate that breaks it alone, by the least. For when none keeps them all."""
    answers = []
    for field in fields(limits):
        limit = getattr(limits, field.name)
        if limit is None:
            continue
        value_of, less_is_better = _LIMITED[field.name]
        others = limits.without(field.name)
        breaking: list[tuple[float, Candidate]] = []
        for candidate in candidates:
            value = value_of(candidate)
            if value is not None and within(candidate, others) and not within(candidate, limits):
                breaking.append((value if less_is_better else -value, candidate))
        best = min(breaking, key=lambda pair: (pair[0], _best(pair[1])), default=None)
        answers.append(Nearest(limit=field.name, candidate=best[1] if best else None))
    return answers


def _latency(candidate: Candidate) -> float:
    return math.inf if candidate.latency is None else candidate.latency


def _best(candidate: Candidate) -> tuple[float, float, int, str]:
    return -candidate.top1, _latency(candidate), candidate.params, candidate.name


def _fastest(candidate: Candidate) -> tuple[float, float, int, str]:
    return _latency(candidate), -candidate.top1, candidate.params, candidate.name


def _equal(one: Candidate, other: Candidate) -> bool:
    return (one.top1, one.latency) == (other.top1, other.latency)


def _top1(value: float) -> str:
    return f"{value:.1f} %"


def _ms(candidate: Candidate) -> str:
    return f"{_latency(candidate):.2f} ms"


def _millions(value: float) -> str:
    return f"{value / 1e6:.2f} M"


def _difference(other: Candidate, chosen: Candidate) -> str:
    points = other.top1 - chosen.top1
    milliseconds = _latency(other) - _latency(chosen)
    params = (other.params - chosen.params) / 1e6
    text = f"{points:+.1f} points, {milliseconds:+.2f} ms"
    return text + (f" and {params:+.2f} M parameters" if abs(params) >= 0.005 else " and as many parameters")
