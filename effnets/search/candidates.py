"""Candidates of a search: networks of a space that keep hard limits on what they cost. Free of torch but for latency.

Large spaces are never enumerated: candidates are drawn, and brought within the limits choice by choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import product
from random import Random

from effnets.errors import ArgumentError, ConfigError
from effnets.search.space import Picks, SearchSpace
from effnets.spec.cost import peak_memory, stage_costs, sum_costs
from effnets.spec.plan import make_plan
from effnets.spec.scaling import COST_UNITS, ScaleLimits
from effnets.spec.specs import ModelSpec

_DRAWS = 50
_DESCENTS = 10
_SMALL_STEPS = 200
_FEW = 2000  # candidates that may be enumerated in the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network of a space.

    Attributes:
        picks: its options. spec: the network, with a classifier for the classes at hand.
        params, madds, memory: counted; memory in bytes (`effnets.spec.cost.peak_memory`).
        latency: predicted, in milliseconds; None where nothing asks for it, or another limit is broken anyway.
    """

    picks: Picks
    spec: ModelSpec
    params: int
    madds: int
    memory: int
    latency: float | None = None

    def cost(self, name: str) -> float:
        """Return ``params``, ``madds``, ``memory`` or ``latency``."""
        value = getattr(self, name)
        assert value is not None, "latency is known where it is asked for"
        return float(value)


class CandidateSource:
    """Measures networks of a space against limits, and draws some within them.

    Args:
        space: to draw from. limits: what a candidate may cost.
        min_share: what a candidate uses of every limit at least, 0 to 1.
        num_classes: outputs of the classifier; None: the space's. in_chans: channels of the images.
        latency: predicts milliseconds of a network; needed for a limit of latency, and where all latencies are wanted.

    Raises:
        ArgumentError: `min_share` is no share, or there is nothing it is a share of.
    """

    def __init__(
        self,
        space: SearchSpace,
        limits: ScaleLimits,
        *,
        min_share: float = 0.0,
        num_classes: int | None = None,
        in_chans: int = 3,
        latency: Callable[[ModelSpec], float] | None = None,
    ) -> None:
        if not 0 <= min_share < 1:
            raise ArgumentError(f"min_share is {min_share!r}; give a share of the limits, from 0 to below 1")
        if min_share and not limits.given:
            names = ", ".join(field.name for field in fields(limits))
            raise ArgumentError(f"min_share is a share of limits, and none is given; give at least one of {names}")
        self.space, self.limits, self.min_share = space, limits, min_share
        self._num_classes, self._in_chans, self._latency = num_classes, in_chans, latency
        self._known: dict[Picks, Candidate | None] = {}

    def measure(self, picks: Picks) -> Candidate | None:
        """Return the network of `picks` with its costs; None if these options together make none."""
        if picks not in self._known:
            self._known[picks] = self._measure(picks)
        return self._known[picks]

    def excess(self, candidate: Candidate | None) -> float:
        """Return by how much a candidate is outside the limits, as shares of them; 0 within."""
        if candidate is None:
            return math.inf
        shares = self.limits.shares(candidate)
        return sum(max(0.0, share - 1) + max(0.0, self.min_share - share) for share in shares.values())

    def draw(self, random: Random) -> Candidate:
        """Draw a candidate within the limits.

        Options are drawn evenly and what breaks a limit is rejected, so that all candidates within the limits are
        equally likely; where these are rare, a draw is brought within the limits choice by choice, in random order.

        Raises:
            ArgumentError: if none is found; the message says what the nearest needs.
        """
        for _ in range(_DRAWS):
            candidate = self.measure(self.space.random(random))
            if candidate is not None and not self.excess(candidate):
                return candidate
        nearest: Candidate | None = None
        for _ in range(_DESCENTS):
            candidate = self._descend(random)
            if candidate is not None and not self.excess(candidate):
                return candidate
            nearest = min(nearest, candidate, key=self.excess)
        raise ArgumentError(self._unsatisfiable(nearest))

    def draw_new(self, random: Random, known: Callable[[Picks], bool]) -> Candidate | None:
        """Draw one that is not `known`; None if the space has no more, of a large one as far as many draws tell."""
        for _ in range(_DRAWS):
            candidate = self.draw(random)
            if not known(candidate.picks):
                return candidate
        if self.space.size > _FEW:
            return None
        every = product(*(range(len(choice.options)) for choice in self.space.choices))
        rest = [picks for picks in every if not known(picks) and not self.excess(self.measure(picks))]
        return self.measure(random.choice(rest)) if rest else None

    def draw_some(self, count: int, seed: int) -> list[Candidate]:
        """Draw up to `count` different candidates; raises ArgumentError if nothing keeps the limits."""
        random = Random(f"some {seed}")
        found = {candidate.picks: candidate for candidate in (self.draw(random) for _ in range(count))}
        return [*found.values()]

    def smallest(self) -> Candidate:
        """Return the network whose every choice is, beside the others' first options, of the fewest multiply-adds."""
        best = self.measure(self.space.default)
        assert best is not None, "a space whose first options make no network is refused"
        for place, choice in enumerate(self.space.choices):
            picks = best.picks
            changed = [self.measure((*picks[:place], at, *picks[place + 1 :])) for at in range(len(choice.options))]
            best = min(filter(None, changed), key=lambda candidate: candidate.madds)
        return best

    def with_latency(self, latency: Callable[[ModelSpec], float]) -> CandidateSource:
        """Return the same source, with predicted latencies."""
        return CandidateSource(
            self.space,
            self.limits,
            min_share=self.min_share,
            num_classes=self._num_classes,
            in_chans=self._in_chans,
            latency=latency,
        )

    def _measure(self, picks: Picks) -> Candidate | None:
        try:
            spec = self.space.spec(picks)
        except ConfigError:
            return None
        if self._num_classes is not None:
            spec = replace(spec, num_classes=self._num_classes)
        plan = make_plan(spec, in_chans=self._in_chans)
        cost = sum_costs(stage_costs(plan, spec.input_size))
        candidate = Candidate(
            picks=picks,
            spec=spec,
            params=cost.params,
            madds=cost.madds,
            memory=peak_memory(plan, spec.input_size),
        )
        if self._latency is None or self.excess(candidate):
            return candidate
        return replace(candidate, latency=self._latency(spec))

    def _descend(self, random: Random) -> Candidate | None:
        """Change a random candidate's choices one by one, as long as that brings it nearer to the limits."""
        best = self.measure(self.space.random(random)) or self.measure(self.space.default)
        improved = True
        while improved and self.excess(best):
            improved = False
            for candidate in self._neighbors(best, random):
                if self.excess(candidate) < self.excess(best):
                    best, improved = candidate, True
                    break
        return best

    def _neighbors(self, candidate: Candidate | None, random: Random) -> Iterator[Candidate | None]:
        """Yield all candidates that differ in one choice, then some that differ a little in several."""
        picks = self.space.default if candidate is None else candidate.picks
        sizes = [len(choice.options) for choice in self.space.choices]
        changes = [(place, index) for place, size in enumerate(sizes) for index in range(size) if index != picks[place]]
        random.shuffle(changes)
        for place, index in changes:
            yield self.measure((*picks[:place], index, *picks[place + 1 :]))
        for _ in range(_SMALL_STEPS):
            steps = [random.choice((-2, -1, 0, 0, 1, 2)) for _ in picks]
            moved = (min(max(at + step, 0), size - 1) for at, step, size in zip(picks, steps, sizes, strict=True))
            yield self.measure(tuple(moved))

    def _unsatisfiable(self, nearest: Candidate | None) -> str:
        if nearest is None:
            return f"{self.space.name}: no combination of options makes a network; take some away"
        shares = self.limits.shares(nearest)
        broken = {limit: share for limit, share in shares.items() if share > 1}
        found = " and ".join(
            f"needs {_described(limit, nearest.cost(limit.removeprefix('max_')))}, {limit} is "
            f"{_described(limit, getattr(self.limits, limit))}"
            for limit in broken
        )
        if found:
            return (
                f"{self.space.name}: no candidate keeps all limits: the smallest found {found}; raise the limits, or "
                "offer smaller options"
            )
        used = " and ".join(f"{100 * share:.6g} % of {limit}" for limit, share in shares.items())
        return (
            f"{self.space.name}: no candidate uses {100 * self.min_share:g} % of every limit: the nearest found uses "
            f"{used}; lower min_share or the limits, or offer larger options"
        )


def _described(limit: str, value: float) -> str:
    return COST_UNITS[limit.removeprefix("max_")](value)
