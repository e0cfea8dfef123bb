"""A study of channels: a straight line against other ways to spend a budget (ReXNet, arXiv:2007.00992, section 4).

One skeleton of blocks, one budget of multiply-adds and parameters; what differs is how many channels each block has.
Every configuration is trained from scratch by one recipe, with several seeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Literal

from effnets.errors import ArgumentError
from effnets.search.trainings import TrainingResult, train_all
from effnets.spec.cost import Cost, count
from effnets.spec.models import load_spec
from effnets.spec.specs import ChannelSchedule, ModelSpec
from effnets.train.recipe import Recipe
from effnets.utils.arguments import check_integer

SKELETON, WIDTH = "rexnet_100_32px", 0.35
Kind = Literal["linear", "early", "late", "sampled", "staircase"]
KINDS: dict[Kind, str] = {
    "linear": "c = a·i + b",
    "early": "most of the growth before the middle of the depth",
    "late": "most of the growth after it",
    "sampled": "a bend drawn at random",
    "staircase": "steps in the proportions of MobileNetV2",
}
_MIDDLES: dict[Kind, float] = {"linear": 0.5, "early": 0.65, "late": 0.35}
# MobileNetV2's channels of the stages that ReXNet's rows stand for (arXiv:1801.04381, table 2).
_STAIRS = (16, 24, 32, 64, 96, 160)
_STARTS = range(4, 49)
_STEPS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSettings:
    """What to study.

    Attributes:
        model: the skeleton, with a linear schedule of channels. width: its multiplier.
        max_madds: budget of multiply-adds; None: what the skeleton needs. max_params: of parameters, likewise.
        samples: configurations with a bend drawn at random. seeds: trainings of each. seed: of what is drawn.
        num_classes: outputs of the classifier, which count.

    Raises:
        ArgumentError: a setting is out of range, or the skeleton has no linear schedule.
    """

    model: str = SKELETON
    width: float = WIDTH
    max_madds: float | None = None
    max_params: float | None = None
    samples: int = 2
    seeds: int = 3
    seed: int = 0
    num_classes: int = 10

    def __post_init__(self) -> None:
        if not 0.1 <= self.width <= 4:
            raise ArgumentError(f"width is {self.width!r}; give a number from 0.1 to 4")
        check_integer("samples", self.samples, 0, "it must be at least 0")
        check_integer("seeds", self.seeds, 1, "it must be at least 1")
        for name in ("max_madds", "max_params"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ArgumentError(f"{name} is {value!r}; give a positive number")
        if self.skeleton.channels is None:
            raise ArgumentError(f"{self.model}: has no linear schedule of channels; take a ReXNet, as {SKELETON}")

    @property
    def skeleton(self) -> ModelSpec:
        """The network whose channels are changed."""
        return replace(load_spec(self.model), width=self.width, num_classes=self.num_classes)

    @property
    def budget(self) -> Cost:
        """Multiply-adds and parameters that all configurations are to have."""
        own = count(self.skeleton)
        return Cost(params=round(self.max_params or own.params), madds=round(self.max_madds or own.madds))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelConfiguration:
    """One way to spend the budget.

    Attributes:
        name: unique within a study. kind: of `KINDS`. spec: what to train. cost: counted.
    """

    name: str
    kind: Kind
    spec: ModelSpec
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelRun:
    """One training of a study."""

    configuration: ChannelConfiguration
    seed: int
    result: TrainingResult


def list_configurations(settings: ChannelSettings) -> list[ChannelConfiguration]:
    """Fit every configuration to the budget: multiply-adds as near as channels allow, parameters nearest of these.

    Raises:
        ArgumentError: if the budget is too small or too large for one, or the skeleton has not six rows.
    """
    middles = [(str(kind), kind, middle) for kind, middle in _MIDDLES.items()]
    random = Random(f"channels {settings.seed}")
    sampled: Kind = "sampled"
    middles += [(f"sampled_{number}", sampled, round(random.uniform(0.2, 0.8), 2)) for number in _numbers(settings)]
    specs = [(name, kind, fit_schedule(settings.skeleton, settings.budget, middle)) for name, kind, middle in middles]
    specs.append(("staircase", "staircase", fit_staircase(settings.skeleton, settings.budget)))
    return [
        ChannelConfiguration(name=name, kind=kind, spec=replace(spec, name=f"channels_{name}"), cost=count(spec))
        for name, kind, spec in specs
    ]


def _numbers(settings: ChannelSettings) -> range:
    return range(1, settings.samples + 1)


def fit_schedule(skeleton: ModelSpec, budget: Cost, middle: float) -> ModelSpec:
    """Return `skeleton` with the start b and growth a of a line, bent at `middle`, that meet the budget best.

    Raises:
        ArgumentError: if no growth gives the multiply-adds within 2 %.
    """
    assert skeleton.channels is not None, "ChannelSettings checks this"
    schedule = skeleton.channels
    fits = []
    for start in _STARTS:

        def at(growth: int, start: int = start) -> ModelSpec:
            channels = ChannelSchedule(start=start, growth=growth, inclusive=schedule.inclusive, middle=middle)
            return replace(skeleton, channels=channels)

        fits.append(_nearest(at, budget.madds, _STEPS))
    near = [spec for spec in fits if _off(count(spec).madds, budget.madds) <= 0.02]
    if not near:
        raise ArgumentError(_unreachable(budget, min(fits, key=lambda spec: _off(count(spec).madds, budget.madds))))
    return min(near, key=lambda spec: _off(count(spec).params, budget.params))


def fit_staircase(skeleton: ModelSpec, budget: Cost) -> ModelSpec:
    """Return `skeleton` with channels that are the same within a row, in MobileNetV2's proportions.

    Raises:
        ArgumentError: if the skeleton has not six rows, or no factor gives the multiply-adds within 5 %.
    """
    if len(skeleton.blocks) != len(_STAIRS):
        raise ArgumentError(
            f"{skeleton.name}: has {len(skeleton.blocks)} rows of blocks, and the staircase of MobileNetV2 has "
            f"{len(_STAIRS)}; take a skeleton such as {SKELETON}"
        )

    def at(step: int) -> ModelSpec:
        factor = (step + 1) / 1000 / skeleton.width
        blocks = [
            replace(block, channels=max(1, round(stair * factor)))
            for block, stair in zip(skeleton.blocks, _STAIRS, strict=True)
        ]
        return replace(skeleton, channels=None, blocks=tuple(blocks))

    spec = _nearest(at, budget.madds, _STEPS)
    if _off(count(spec).madds, budget.madds) > 0.05:
        raise ArgumentError(_unreachable(budget, spec))
    return spec


def _nearest(at: Callable[[int], ModelSpec], madds: float, high: int) -> ModelSpec:
    """Return of the networks of steps 0 to `high`, whose multiply-adds rise, the one that is nearest."""
    low = 0
    while low < high:
        middle = (low + high) // 2
        if count(at(middle)).madds < madds:
            low = middle + 1
        else:
            high = middle
    return min((at(max(0, low - 1)), at(low)), key=lambda spec: _off(count(spec).madds, madds))


def _off(value: float, target: float) -> float:
    return abs(value / target - 1)


def _unreachable(budget: Cost, nearest: ModelSpec) -> str:
    return (
        f"no channels of {nearest.name} give {budget.madds / 1e6:.4g} M multiply-adds; the nearest have "
        f"{count(nearest).madds / 1e6:.4g} M; change max_madds, or the width"
    )


def study_channels(
    configurations: Sequence[ChannelConfiguration],
    data: str | os.PathLike[str],
    recipe: Recipe,
    folder: Path,
    *,
    seeds: int,
    progress: Callable[[str, float], object] | None = None,
    on_run: Callable[[ChannelRun], object] | None = None,
) -> list[ChannelRun]:
    """Train every configuration with every seed below ``folder/trainings``; those that are there are not repeated.

    Args:
        configurations: of `list_configurations`. data, recipe: as `effnets.finetune` takes them.
        folder: of the study. seeds: trainings of each, all configurations with one before the next.
        progress: called with what is being done, and the share of all that is done, 0 to 1.
        on_run: called after each training.

    Raises:
        as `train_candidate`.
    """
    runs: list[ChannelRun] = []
    for one, seed, result in train_all(configurations, data, recipe, folder, seeds=seeds, progress=progress):
        runs.append(ChannelRun(configuration=one, seed=seed, result=result))
        if on_run is not None:
            on_run(runs[-1])
    return runs
