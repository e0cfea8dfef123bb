"""Scale a network to a budget by arithmetic: width multiplier α and resolution multiplier ρ. Free of torch.

MobileNets (arXiv:1704.04861): α multiplies all channels (section 3.3), ρ the side of the input (section 3.4); both
change multiply-adds about as their squares, α the parameters too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

from effnets.errors import ArgumentError, ConfigError
from effnets.spec.cost import peak_memory, stage_costs, sum_costs
from effnets.spec.plan import NetworkPlan, make_plan
from effnets.spec.specs import ModelSpec
from effnets.utils.arguments import check_size

# α in thousandths; beyond, networks are nobody's.
_LEAST_WIDTH, _GREATEST_WIDTH = 100, 8000
_STEP = 32  # input sizes: what the zoo's networks reduce by
_LEAST_RESOLUTION = 3 / 7  # 96 of 224, the least that MobileNetV2 was published at
# What is to be used of the tightest limit, where channels allow it.
ENOUGH = 0.9
# Multiply-adds that count as equal: see `choose_scaled`.
_EQUAL = 0.85
# How messages put what a network costs.
COST_UNITS: dict[str, Callable[[float], str]] = {
    "params": lambda value: f"{value / 1e6:.4g} M parameters",
    "madds": lambda value: f"{value / 1e6:.4g} M multiply-adds",
    "memory": lambda value: f"{value / 1e6:.4g} MB of feature maps",
    "latency": lambda value: f"{value:.3g} ms",
}


class Costs(Protocol):
    """What a network costs, as `ScaledModel` has it."""

    @property
    def params(self) -> int: ...
    @property
    def madds(self) -> int: ...
    @property
    def memory(self) -> int: ...
    @property
    def latency(self) -> float | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleLimits:
    """What a network may cost; None: whatever it does.

    Attributes:
        max_params, max_madds: parameters, and multiply-adds for one image.
        max_memory: bytes of feature maps (`effnets.spec.cost.peak_memory`).
        max_latency: milliseconds of one call.

    Raises:
        ArgumentError: a limit is no positive number.
    """

    max_params: float | None = None
    max_madds: float | None = None
    max_memory: float | None = None
    max_latency: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 < value < math.inf):
                raise ArgumentError(f"{field.name} is {value!r}; give a positive number, or None for no limit")

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the limits that are stated."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)

    def shares(self, model: Costs) -> dict[str, float]:
        """Return which share of each limit `model` takes, by the limit's name; latency only where it is known."""
        shares = {}
        for field in fields(self):
            limit, value = getattr(self, field.name), getattr(model, field.name.removeprefix("max_"))
            if limit is not None and value is not None:
                shares[field.name] = value / limit
        return shares


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledModel:
    """A network at one width and input size.

    Attributes:
        spec: of the network. resolution: ρ, the side of its input over that of the model it was scaled from.
        params, madds, memory: counted; memory in bytes. latency: of one call in milliseconds, None where not measured.
    """

    spec: ModelSpec
    resolution: float
    params: int
    madds: int
    memory: int
    latency: float | None = None

    @property
    def width(self) -> float:
        """The width multiplier α."""
        return self.spec.width

    @property
    def input_size(self) -> int:
        """Side of the input in pixels."""
        return self.spec.input_size


def scaled_spec(spec: ModelSpec, width: float, input_size: int) -> ModelSpec:
    """Return `spec` with another width multiplier and input size."""
    preprocess = replace(spec.preprocess, input_size=input_size, test_input_size=None, test_crop_pct=None)
    return replace(spec, width=width, preprocess=preprocess)


def usual_sizes(spec: ModelSpec) -> list[int]:
    """Return the input sizes to scale to: multiples of 32 up to the model's own size (ρ at most 1), and that itself."""
    own = spec.input_size
    sizes = [size for size in range(_STEP, own, _STEP) if size >= _LEAST_RESOLUTION * own]
    return [*sizes, own]


def check_sizes(sizes: Sequence[int] | None, spec: ModelSpec) -> list[int]:
    """Return `sizes` in order, each once, or the usual ones; raises ArgumentError if one is no size."""
    if sizes is None:
        return usual_sizes(spec)
    if not sizes:
        raise ArgumentError("sizes is empty; give sides of the input in pixels, such as 128, 160, 192")
    return sorted({check_size(size, "sizes")[0] for size in sizes})


def scale_candidates(spec: ModelSpec, limits: ScaleLimits, sizes: Iterable[int]) -> list[ScaledModel]:
    """Return for each input size the widest network within `limits`, latency aside; none where the least is too much.

    α is the roundest number of those that give this network.
    """
    found = (_widest(spec, limits, size) for size in sizes)
    return [model for model in found if model is not None]


def smallest(spec: ModelSpec, sizes: Iterable[int]) -> ScaledModel:
    """Return the network of the least width that is possible, at the least of `sizes`.

    Raises:
        ConfigError: if `spec` cannot be built at any width.
    """
    size = min(sizes)
    low = _first(lambda step: _measure(spec, step, size) is not None)
    model = None if low is None else _measure(spec, low, size)
    if model is None:
        make_plan(spec)  # says what is wrong with it
        raise ConfigError(f"{spec.name}: cannot be scaled: no width from 0.1 to 8 gives a network")
    return model


def choose_scaled(candidates: Sequence[ScaledModel], limits: ScaleLimits, original: ModelSpec) -> ScaledModel | None:
    """Choose the network with the most multiply-adds within `limits`; of about equal ones the most balanced.

    Multiply-adds stand for accuracy: they are known without training. Those within 15 % of the most count as equal, and
    the one is taken that shrinks α and ρ most alike; where some use 90 % of the tightest limit, only these count. Among
    the 16 MobileNetV1 with published accuracy (α 0.25 to 1, 128 to 224 pixels; Keras's table) and 201 budgets from 14 M
    to 600 M, this takes the most accurate one 174 times, and loses 0.06 points on average, 1.1 at most (where only one
    of the 16 uses 90 %); most multiply-adds alone lose 0.08.

    Returns None if no candidate is within the limits.
    """
    shares = [(model, limits.shares(model)) for model in candidates]
    possible = [(model, max(share.values(), default=0.0)) for model, share in shares]
    possible = [(model, share) for model, share in possible if share <= 1]
    used = [model for model, share in possible if share >= ENOUGH] or [model for model, _ in possible]
    if not used:
        return None
    most = max(model.madds for model in used)
    equal = [model for model in used if model.madds >= _EQUAL * most]
    return min(equal, key=lambda model: (_imbalance(model, original), -model.madds))


def _imbalance(model: ScaledModel, original: ModelSpec) -> float:
    return abs(math.log(model.width / original.width) - math.log(model.resolution))


def wider(model: ScaledModel, original: ModelSpec) -> ScaledModel | None:
    """Return the next wider network at the same size: the least α that gives another one; None beyond α = 8."""
    plan = make_plan(model.spec)
    begin = math.floor(model.width * 1000)
    step = _first(lambda step: step > begin and make_plan(_at(original, step, model.input_size)) != plan)
    return None if step is None else _measure(original, step, model.input_size)


def _widest(spec: ModelSpec, limits: ScaleLimits, size: int) -> ScaledModel | None:
    """The widest network at `size` within the limits; costs never fall as α rises."""

    def too_much(step: int) -> bool:
        model = _measure(spec, step, size)
        return model is not None and max(limits.shares(model).values(), default=0.0) > 1

    above = _first(too_much)
    if above == _LEAST_WIDTH:
        return None
    step = (_GREATEST_WIDTH + 1 if above is None else above) - 1
    model = _measure(spec, step, size)
    return None if model is None else _rounded(spec, step, model)


def _rounded(spec: ModelSpec, step: int, model: ScaledModel) -> ScaledModel:
    """The same network with the roundest α."""
    plan = make_plan(model.spec)
    for grain in (1000, 500, 250, 100, 50, 10, 5):
        round_step = step // grain * grain
        if round_step >= _LEAST_WIDTH and _plan(spec, round_step, model.input_size) == plan:
            return replace(model, spec=_at(spec, round_step, model.input_size))
    return model


def _first(holds: Callable[[int], bool]) -> int | None:
    """The least α, in thousandths, from which on `holds` is true; None if it never is."""
    low, high = _LEAST_WIDTH, _GREATEST_WIDTH + 1
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low if low <= _GREATEST_WIDTH else None


def _at(spec: ModelSpec, step: int, size: int) -> ModelSpec:
    return scaled_spec(spec, step / 1000, size)


def _plan(spec: ModelSpec, step: int, size: int) -> NetworkPlan | None:
    """The plan at α = `step` / 1000; None where channels are too few for the kernel groups, or weights too many."""
    try:
        return make_plan(_at(spec, step, size))
    except ConfigError:
        return None


def _measure(spec: ModelSpec, step: int, size: int) -> ScaledModel | None:
    plan = _plan(spec, step, size)
    if plan is None:
        return None
    cost = sum_costs(stage_costs(plan, size))
    return ScaledModel(
        spec=_at(spec, step, size),
        resolution=size / spec.input_size,
        params=cost.params,
        madds=cost.madds,
        memory=peak_memory(plan, size),
    )
