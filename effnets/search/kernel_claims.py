"""What the MixConv paper says of kernels, and whether the trainings of a study support it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Literal

from effnets.search.kernels import REPLACEMENTS, KernelRun

# Differences of top-1 in points that count as none, where the paper says "similar".
SIMILAR = 0.5
RULE = (
    "A claim is about a mean difference of top-1. Its standard error comes from the spread of seeds, pooled over all "
    "networks. Supported: the difference, and two standard errors to either side, is within what the claim says; not "
    f"supported: all of that is outside; else undecided. “Similar” is within {SIMILAR} points."
)

Verdict = Literal["supported", "not supported", "undecided"]
# Weight of every network's mean top-1 in a difference, by name.
Contrast = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A sentence about a difference of top-1, and what became of it.

    Attributes:
        text: the paper's claim. figure: of the paper. network: that it was tried on.
        difference: in points. error: its standard error; None: one seed says nothing of it.
        verdict: see `RULE`.
    """

    text: str
    figure: int
    network: str
    difference: float
    error: float | None
    verdict: Verdict

    @property
    def found(self) -> str:
        """The difference, as a sentence has it."""
        spread = "" if self.error is None else f" ± {2 * self.error:.2f}"
        return f"{self.difference:+.2f}{spread} points"


@dataclass(frozen=True, slots=True)
class _Statement:
    """A claim before it is tried: the difference that it is about lies from `low` to `high`."""

    figure: int
    text: str
    contrast: Callable[[dict[str, str]], Contrast | None]
    low: float = 0.0
    high: float = math.inf


def check_claims(runs: Sequence[KernelRun]) -> list[Claim]:
    """Try every claim for which there are networks, on each of the study's networks; see `RULE`."""
    top1: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        top1[run.variant.name].append(run.result.top1)
    deviation = pooled_deviation(list(top1.values()))
    claims = []
    for network in dict.fromkeys(run.variant.network for run in runs):
        names = {_role(run): run.variant.name for run in runs if run.variant.network == network}
        for statement in _STATEMENTS:
            contrast = statement.contrast(names)
            if contrast:
                claims.append(_try(statement, network, contrast, top1, deviation))
    return claims


def pooled_deviation(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the standard deviation within groups, pooled over them; None if none has two values."""
    several = [group for group in groups if len(group) > 1]
    if not several:
        return None
    freedom = sum(len(group) - 1 for group in several)
    return math.sqrt(sum((len(group) - 1) * variance(group) for group in several) / freedom)


def _try(
    statement: _Statement,
    network: str,
    contrast: Contrast,
    top1: Mapping[str, Sequence[float]],
    deviation: float | None,
) -> Claim:
    difference = sum(weight * fmean(top1[name]) for name, weight in contrast.items())
    error = None
    verdict: Verdict = "undecided"
    if deviation is not None:
        error = deviation * math.sqrt(sum(weight**2 / len(top1[name]) for name, weight in contrast.items()))
        low, high = difference - 2 * error, difference + 2 * error
        if statement.low <= low and high <= statement.high:
            verdict = "supported"
        elif high < statement.low or low > statement.high:
            verdict = "not supported"
    return Claim(
        text=statement.text,
        figure=statement.figure,
        network=network,
        difference=difference,
        error=error,
        verdict=verdict,
    )


def _role(run: KernelRun) -> str:
    """``k3.5``, or of one layer ``layer k9 strided 4``."""
    variant = run.variant
    if variant.layer is None:
        return variant.kernels
    return f"layer {variant.kernels} {'strided' if variant.strided else 'plain'} {variant.layer}"


def _difference(pairs: Sequence[tuple[str, str]], names: Mapping[str, str]) -> Contrast | None:
    """The mean of the differences of pairs of roles; None without pairs."""
    weights: dict[str, float] = defaultdict(float)
    for more, less in pairs:
        weights[names[more]] += 1 / len(pairs)
        weights[names[less]] -= 1 / len(pairs)
    return weights or None


def _grows_first(names: dict[str, str]) -> Contrast | None:
    return _difference([(size, "k3") for size in ("k5", "k7") if size in names], names)


def _falls_later(names: dict[str, str]) -> Contrast | None:
    return _difference([("k7", "k11")] if {"k7", "k11"} <= set(names) else [], names)


def _mixed(names: Mapping[str, str]) -> list[str]:
    return [role for role in names if "." in role and " " not in role and "_" not in role]


def _mixed_like_plain(names: dict[str, str]) -> Contrast | None:
    pairs = [(role, f"k{role.rpartition('.')[2]}") for role in _mixed(names)]
    return _difference([pair for pair in pairs if pair[1] in names], names)


def _mixed_beats_3x3(names: dict[str, str]) -> Contrast | None:
    return _difference([(role, "k3") for role in _mixed(names)], names)


def _mixed_keeps_growing(names: dict[str, str]) -> Contrast | None:
    mixed = sorted(_mixed(names), key=len)
    return _difference([(mixed[-1], mixed[0])] if len(mixed) > 1 else [], names)


def _layer_mixed_like_plain(names: dict[str, str]) -> Contrast | None:
    plain, mixed = REPLACEMENTS
    layers = [role.removeprefix(f"layer {plain} ") for role in names if role.startswith(f"layer {plain} ")]
    return _difference([(f"layer {mixed} {layer}", f"layer {plain} {layer}") for layer in layers], names)


def _layer_like_none(names: dict[str, str]) -> Contrast | None:
    """Layers without stride, replaced, against none replaced."""
    roles = [role for role in names if role.startswith("layer ") and " plain " in role]
    return _difference([(role, "k3") for role in roles], names)


def _layer_strided(names: dict[str, str]) -> Contrast | None:
    roles = [role for role in names if role.startswith("layer ") and " strided " in role]
    return _difference([(role, "k3") for role in roles], names)


def _exponential_like_equal(names: dict[str, str]) -> Contrast | None:
    return _difference(
        [(role, role.removesuffix("_exponential")) for role in names if role.endswith("_exponential")], names
    )


def _dilated(names: Mapping[str, str], *, large: bool) -> Contrast | None:
    pairs = [(role, role.removesuffix("_dilated")) for role in names if role.endswith("_dilated")]
    return _difference([pair for pair in pairs if (int(pair[1].rpartition(".")[2]) > 5) is large], names)


_STATEMENTS = (
    _Statement(1, "plain kernels of 5×5 and 7×7 are more accurate than of 3×3", _grows_first),
    _Statement(1, "with 11×11 kernels accuracy has fallen below 7×7", _falls_later),
    _Statement(
        4,
        "mixed kernels are similar to plain ones of their largest size or more accurate",
        _mixed_like_plain,
        -SIMILAR,
    ),
    _Statement(4, "mixed kernels are more accurate than 3×3", _mixed_beats_3x3),
    _Statement(4, "with more and larger kernels in the mix accuracy does not fall", _mixed_keeps_growing, -SIMILAR),
    _Statement(5, "in one layer, {3,5,7,9} is similar to 9×9 or more accurate", _layer_mixed_like_plain, -SIMILAR),
    _Statement(5, "larger kernels in a layer with stride 2 raise accuracy", _layer_strided),
    _Statement(5, "larger kernels in a layer without stride change little", _layer_like_none, -SIMILAR, SIMILAR),
    _Statement(6, "exponential and equal partition are similar", _exponential_like_equal, -SIMILAR, SIMILAR),
    _Statement(
        6,
        "dilated kernels are similar to true ones of up to 5×5",
        lambda names: _dilated(names, large=False),
        -SIMILAR,
        SIMILAR,
    ),
    _Statement(
        6,
        "dilated kernels are less accurate than true ones of 7×7 and more",
        lambda names: _dilated(names, large=True),
        -math.inf,
        0.0,
    ),
)
