"""Which candidate of a search space a supernet trains in each of its passes. Free of torch."""

from __future__ import annotations

from random import Random
from typing import Literal, get_args

from effnets.errors import ArgumentError
from effnets.search.candidates import CandidateSource
from effnets.search.space import Picks, SearchSpace
from effnets.spec.scaling import ScaleLimits

Sampling = Literal["uniform", "sandwich"]


class PathSampler:
    """Draws the candidate of each forward pass: a function of the seed and the pass's number alone.

    ``uniform`` draws every choice evenly (Guo et al. 2019, arXiv:1904.00420, section 3.4), among the candidates within
    the limits. With ``sandwich``, of the passes that make a step of the optimizer the first is the largest candidate,
    the second the smallest, and the others are drawn (Yu and Huang 2019, arXiv:1903.05134, section 3.1). Unlike there,
    every pass has images of its own, and nothing is distilled.

    Args:
        space: the candidates. seed: of the draws.
        limits: on what a candidate costs; latency is left out, which is not known before it is measured.
        sampling: ``uniform`` or ``sandwich``. passes: that make a step.

    Attributes:
        ranked: for each choice its options from the cheapest to the dearest.
        smallest, largest: candidates of the cheapest, and of the dearest options within the limits.

    Raises:
        ArgumentError: if nothing is within the limits, or `sampling` is unknown, or needs more passes.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        limits: ScaleLimits | None = None,
        sampling: Sampling = "uniform",
        passes: int = 1,
    ) -> None:
        if sampling not in get_args(Sampling):
            raise ArgumentError(f"sampling is {sampling!r}; choose one of {', '.join(get_args(Sampling))}")
        if sampling == "sandwich" and passes < 3:
            raise ArgumentError(
                f"sampling is sandwich, and a step has {passes} passes, too few for the largest, the smallest and a "
                "drawn candidate; set accumulate to 3 or more"
            )
        self.space, self.limits = space, limits or ScaleLimits()
        self.seed, self.sampling, self.passes = seed, sampling, passes
        source = CandidateSource(space, self.limits)
        source.draw(Random(seed))  # or nothing is within the limits
        self.ranked = tuple(_rank_options(source, place) for place in range(len(space.choices)))
        self.smallest: Picks = tuple(ranked[0] for ranked in self.ranked)
        self.largest = _find_largest(source, self.ranked)

    def __call__(self, number: int) -> Picks:
        """Return the candidate of pass `number`, from 0."""
        turn = number % self.passes
        if self.sampling == "sandwich" and turn < 2:
            return (self.largest, self.smallest)[turn]
        # A new source each time: it remembers all that it measured, and a training draws a great many.
        return CandidateSource(self.space, self.limits).draw(Random(f"{self.seed} {number}")).picks


def _rank_options(source: CandidateSource, place: int) -> Picks:
    """Order a choice's options by parameters, then by multiply-adds, beside the first options of the others."""
    space, costs = source.space, []
    for index in range(len(space.choices[place].options)):
        candidate = source.measure((*space.default[:place], index, *space.default[place + 1 :]))
        assert candidate is not None, "a space has built each option beside the first others"
        costs.append((candidate.params, candidate.madds, index))
    return tuple(index for _, _, index in sorted(costs))


def _find_largest(source: CandidateSource, ranked: tuple[Picks, ...]) -> Picks:
    """Take the dearest option of each choice, in their order, that the limits allow beside those before."""
    picks = [options[0] for options in ranked]
    for place, options in enumerate(ranked):
        for index in reversed(options):
            picks[place] = index
            candidate = source.measure(tuple(picks))
            if candidate is not None and not source.excess(candidate):
                break
    return tuple(picks)
