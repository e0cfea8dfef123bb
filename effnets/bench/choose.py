"""What there is to choose from: published weights with their parameters, multiply-adds and accuracy. Free of torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

from effnets.errors import ArgumentError
from effnets.spec.cost import count
from effnets.spec.models import list_models, load_spec
from effnets.spec.specs import ModelSpec, PreprocessSpec
from effnets.spec.weights import find_weights


@dataclass(frozen=True, slots=True)
class Network:
    """What latency depends on: an architecture and the side of its square input, but not the values of its weights.

    Attributes:
        name: weights by whose name the network can be built. size: in pixels.
        architecture: a digest of all that shapes the network; tags that only differ in values and preprocessing share
            it.
        spec: what to build instead, of a network that no table has.
    """

    name: str
    size: int
    architecture: str
    spec: ModelSpec | None = None

    @property
    def key(self) -> tuple[str, int]:
        """By which measurements are looked up."""
        return self.architecture, self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCandidate:
    """One set of published weights at the size that its accuracy was measured at.

    Attributes:
        name: ``model.tag``. family: ``mixnet``. network: what is measured for it.
        params, madds: counted, madds for one image. top1: published, in per cent.
        latency: of one call of the engine, in milliseconds; None: not measured.
    """

    name: str
    family: str
    network: Network
    params: int
    madds: int
    top1: float
    latency: float | None = None

    @property
    def label(self) -> str:
        """``model.tag at 224``."""
        return f"{self.name} at {self.network.size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is acceptable; None: whatever it is. Latency in milliseconds, top-1 in per cent.

    Raises:
        ArgumentError: a limit is no positive number, or top-1 above 100.
    """

    max_latency: float | None = None
    max_params: float | None = None
    max_madds: float | None = None
    min_top1: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not (0 < value < math.inf):
                raise ArgumentError(f"{field.name} is {value!r}; give a positive number, or None for no limit")
        if self.min_top1 is not None and self.min_top1 > 100:
            raise ArgumentError(f"min_top1 is {self.min_top1:g}; accuracy is in per cent, at most 100")

    def without(self, name: str) -> Limits:
        """The others, by the name of the field."""
        return replace(self, **{name: None})


# Field of `Limits` → the attribute of a candidate that it limits, and 1 or -1: the sign in which less is better.
_LIMITED = {
    "max_latency": ("latency", 1),
    "max_params": ("params", 1),
    "max_madds": ("madds", 1),
    "min_top1": ("top1", -1),
}


def within(candidate: ModelCandidate, limits: Limits) -> bool:
    """Whether all limits are kept. A latency that is not known is not held against it."""
    for field, (name, sign) in _LIMITED.items():
        value, limit = getattr(candidate, name), getattr(limits, field)
        if value is not None and limit is not None and sign * value > sign * limit:
            return False
    return True


def list_candidates(pattern: str = "*") -> tuple[list[ModelCandidate], list[str]]:
    """The published weights that match `pattern`, and the names of those without accuracy on ImageNet-1k.

    Args:
        pattern: as of `effnets.list_models`: shell-style, of models or of whole names.

    Raises:
        ArgumentError: nothing matches.
    """
    names = list_models(pattern, pretrained=True)
    if not names:
        raise ArgumentError(f"no published weights match {pattern!r}; 'effnets list --pretrained' shows all there are")
    candidates, without = [], []
    for name in names:
        weights, spec = find_weights(name), load_spec(name)
        if weights.top1 is None:
            without.append(name)
            continue
        size = weights.measured_size
        network, costs = Network(name, size, architecture_of(spec)), asdict(count(spec, size))
        candidates.append(ModelCandidate(name=name, family=spec.family, network=network, top1=weights.top1, **costs))
    return candidates, without


def networks_of(candidates: Iterable[ModelCandidate]) -> list[list[ModelCandidate]]:
    """Candidates that share a measurement, together."""
    groups: dict[tuple[str, int], list[ModelCandidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.network.key, []).append(candidate)
    return list(groups.values())


def with_latencies(
    candidates: Sequence[ModelCandidate], latencies: Mapping[tuple[str, int], float]
) -> list[ModelCandidate]:
    """The candidates with what was measured, in milliseconds by `Network.key`."""
    return [replace(candidate, latency=latencies.get(candidate.network.key)) for candidate in candidates]


def architecture_of(spec: ModelSpec) -> str:
    """Return a digest of all that latency depends on, beside the input size."""
    # Neither name nor preprocessing, nor what acts only in training, nor an epsilon changes the arithmetic.
    same = replace(spec, name="", preprocess=PreprocessSpec(), bn_eps=1e-5, bn_momentum=0.1, drop_rate=0.0)
    return hashlib.sha256(repr(same).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What to take, and what the next more accurate and the next faster one on the front would be.

    Attributes:
        chosen: the most accurate within all limits, the faster and smaller of equals.
        above: the fastest more accurate one that was measured; it breaks a limit. None: none was measured.
        below: the most accurate faster one. None: none was measured.
    """

    chosen: ModelCandidate
    above: ModelCandidate | None
    below: ModelCandidate | None

    def __str__(self) -> str:
        chosen = self.chosen
        text = (
            f"Take {chosen.label}: the most accurate within the limits, {chosen.top1:.1f} % "
            f"in {_latency(chosen):.2f} ms with {chosen.params / 1e6:.2f} M parameters"
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
    candidate: ModelCandidate | None


def pareto_front(candidates: Iterable[ModelCandidate]) -> list[ModelCandidate]:
    """The measured candidates that no other dominates in accuracy and latency, the fastest first."""
    measured = [candidate for candidate in candidates if candidate.latency is not None]
    measured.sort(key=_fastest)
    front: list[ModelCandidate] = []
    for candidate in measured:
        last = front[-1] if front else None
        if (
            last is None
            or candidate.top1 > last.top1
            or (candidate.top1, candidate.latency) == (last.top1, last.latency)
        ):
            front.append(candidate)
    return front


def recommend(candidates: Sequence[ModelCandidate], limits: Limits) -> Recommendation | None:
    """The most accurate measured candidate within `limits`, with its neighbors; None if none fits."""
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


def nearest(candidates: Sequence[ModelCandidate], limits: Limits) -> list[Nearest]:
    """For each limit that is set, the candidate that breaks it alone, by the least. For when none keeps them all."""
    answers = []
    for field, (name, sign) in _LIMITED.items():
        if getattr(limits, field) is None:
            continue
        others = limits.without(field)
        # What breaks a limit has a value for it.
        breaking = [
            (sign * getattr(candidate, name), _best(candidate), candidate)
            for candidate in candidates
            if within(candidate, others) and not within(candidate, limits)
        ]
        best = min(breaking, key=lambda entry: entry[:2], default=None)
        answers.append(Nearest(limit=field, candidate=best[2] if best else None))
    return answers


def _latency(candidate: ModelCandidate) -> float:
    return math.inf if candidate.latency is None else candidate.latency


def _best(candidate: ModelCandidate) -> tuple[float, float, int, str]:
    return -candidate.top1, _latency(candidate), candidate.params, candidate.name


def _fastest(candidate: ModelCandidate) -> tuple[float, float, int, str]:
    return _latency(candidate), -candidate.top1, candidate.params, candidate.name


def _difference(other: ModelCandidate, chosen: ModelCandidate) -> str:
    points = other.top1 - chosen.top1
    milliseconds = _latency(other) - _latency(chosen)
    params = (other.params - chosen.params) / 1e6
    text = f"{points:+.1f} points, {milliseconds:+.2f} ms"
    return text + (f" and {params:+.2f} M parameters" if abs(params) >= 0.005 else " and as many parameters")
