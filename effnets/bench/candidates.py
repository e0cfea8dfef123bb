"""What there is to choose from: published weights with their parameters, multiply-adds and accuracy. Free of torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from effnets.errors import ArgumentError
from effnets.spec.cost import count
from effnets.spec.models import list_models, load_spec
from effnets.spec.specs import ModelSpec, PreprocessSpec
from effnets.spec.weights import find_weights

__all__ = ["Candidate", "Limits", "Network", "list_candidates", "networks_of", "within"]


@dataclass(frozen=True, slots=True)
class Network:
    """What latency depends on: an architecture and the side of its square input, but not the values of its weights.

    Attributes:
        name: weights by whose name the network can be built. size: in pixels.
        architecture: a digest of all that shapes the network; tags that only differ in values and preprocessing share
            it.
    """

    name: str
    size: int
    architecture: str

    @property
    def key(self) -> tuple[str, int]:
        """By which measurements are looked up."""
        return self.architecture, self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
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


def within(candidate: Candidate, limits: Limits) -> bool:
    """Whether all limits are kept. A latency that is not known is not held against it."""

    def above(value: float | None, limit: float | None) -> bool:
        return value is not None and limit is not None and value > limit

    return not (
        above(candidate.latency, limits.max_latency)
        or above(candidate.params, limits.max_params)
        or above(candidate.madds, limits.max_madds)
        or above(limits.min_top1, candidate.top1)
    )


def list_candidates(pattern: str = "*") -> tuple[list[Candidate], list[str]]:
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
        cost = count(spec, size)
        network = Network(name, size, _architecture(spec))
        candidates.append(
            Candidate(
                name=name,
                family=spec.family,
                network=network,
                params=cost.params,
                madds=cost.madds,
                top1=weights.top1,
            )
        )
    return candidates, without


def networks_of(candidates: Iterable[Candidate]) -> list[list[Candidate]]:
    """Candidates that share a measurement, together."""
    groups: dict[tuple[str, int], list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.network.key, []).append(candidate)
    return list(groups.values())


def with_latencies(candidates: Sequence[Candidate], latencies: Mapping[tuple[str, int], float]) -> list[Candidate]:
    """The candidates with what was measured, in milliseconds by `Network.key`."""
    return [replace(candidate, latency=latencies.get(candidate.network.key)) for candidate in candidates]


def _architecture(spec: ModelSpec) -> str:
    # Neither name nor preprocessing, nor what acts only in training, nor an epsilon changes the arithmetic.
    same = replace(spec, name="", preprocess=PreprocessSpec(), bn_eps=1e-5, bn_momentum=0.1, drop_rate=0.0)
    return hashlib.sha256(repr(same).encode()).hexdigest()[:16]
