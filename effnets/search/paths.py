"""Which candidate of a search space a supernet trains in each of its passes. Free of torch."""

from __future__ import annotations

from random import Random
from typing import Literal, get_args

from effnets.errors import ArgumentError, ConfigError
from effnets.search.space import Picks, SearchSpace
from effnets.spec.cost import peak_memory, stage_costs, sum_costs
from effnets.spec.plan import make_plan
from effnets.spec.scaling import ScaledModel, ScaleLimits
from effnets.spec.specs import ModelSpec

Sampling = Literal["uniform", "sandwich"]
# Where few candidates are within the limits, a draw is made cheaper after so many that are not.
_DRAWS = 100


def measure_spec(spec: ModelSpec) -> ScaledModel:
    """Count what `spec` costs at its own input size; its latency stays unknown."""
    plan, size = make_plan(spec), spec.input_size
    cost = sum_costs(stage_costs(plan, size))
    memory = peak_memory(plan, size)
    return ScaledModel(spec=spec, resolution=1.0, params=cost.params, madds=cost.madds, memory=memory)


def rank_options(space: SearchSpace) -> tuple[Picks, ...]:
    """Return for each choice its options from the cheapest to the dearest, beside the first options of the others.

    By parameters, then by multiply-adds: what has more weights is larger.
    """
    ranked = []
    for place, choice in enumerate(space.choices):
        costs = []
        for index in range(len(choice.options)):
            picks = [*space.default]
            picks[place] = index
            model = measure_spec(space.spec(picks))
            costs.append((model.params, model.madds, index))
        ranked.append(tuple(index for _, _, index in sorted(costs)))
    return tuple(ranked)


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
        self.space, self.seed, self.limits = space, seed, limits or ScaleLimits()
        self.sampling, self.passes = sampling, passes
        self.ranked = rank_options(space)
        self.smallest: Picks = tuple(ranked[0] for ranked in self.ranked)
        if not self.allows(self.smallest):
            raise self._unsatisfiable()
        self.largest = self._find_largest()

    def __call__(self, number: int) -> Picks:
        """Return the candidate of pass `number`, from 0."""
        turn = number % self.passes
        if self.sampling == "sandwich" and turn < 2:
            return (self.largest, self.smallest)[turn]
        random = Random(f"{self.seed} {number}")
        picks = self.space.random(random)
        for _ in range(_DRAWS):
            if self.allows(picks):
                return picks
            picks = self.space.random(random)
        return self._lowered(picks, random)

    def allows(self, picks: Picks) -> bool:
        """Return whether these options make a network, and it is within the limits, latency aside."""
        try:
            model = measure_spec(self.space.spec(picks))
        except ConfigError:
            return False
        return max(self.limits.shares(model).values(), default=0.0) <= 1

    def _lowered(self, picks: Picks, random: Random) -> Picks:
        """Take the cheapest option of one choice after the other, in random order, until the limits are kept."""
        lowered = [*picks]
        for place in random.sample(range(len(lowered)), len(lowered)):
            if self.allows(tuple(lowered)):
                break
            lowered[place] = self.smallest[place]
        return tuple(lowered)

    def _find_largest(self) -> Picks:
        """Take the dearest option of each choice, in their order, that the limits allow beside those before."""
        picks = [*self.smallest]
        for place, ranked in enumerate(self.ranked):
            for index in reversed(ranked):
                picks[place] = index
                if self.allows(tuple(picks)):
                    break
        return tuple(picks)

    def _unsatisfiable(self) -> ArgumentError:
        model = measure_spec(self.space.spec(self.smallest))  # or a ConfigError says why it is no network
        name, share = max(self.limits.shares(model).items(), key=lambda pair: pair[1])
        return ArgumentError(
            f"{name} is {getattr(self.limits, name):g}, and the smallest candidate of {self.space.name} takes "
            f"{share * getattr(self.limits, name):g}; raise it, or offer smaller options"
        )
