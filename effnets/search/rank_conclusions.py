"""ReXNet's conclusions from the ranks of single layers (arXiv:2007.00992, section 3), held against measured ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from effnets.search.rank import RankPoint

# The channel ratio of an inverted bottleneck's expansion by six, as in MobileNetV2.
SIXFOLD = 1 / 6
# A rank ratio beyond this has no room left to differ.
_FULL = 0.99
_SMOOTH = ("silu", "elu")
_CONVOLUTIONS = ("conv1x1", "conv3x3")
_AFTER_EXPANSION, _AFTER_DEPTHWISE = "depthwise_act_after_expansion", "depthwise_act_after_depthwise"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """A statement, whether the measured ranks bear it out, and the figures that decide."""

    claim: str
    holds: bool
    found: str


Curve = dict[float, RankPoint]
Curves = dict[tuple[str, str], Curve]


def check_conclusions(points: Sequence[RankPoint], threshold: float) -> list[Conclusion]:
    """Check each conclusion at `threshold`; one whose layers or activations were not measured is left out."""
    curves: Curves = {}
    for point in points:
        if point.threshold == threshold:
            curves.setdefault((point.layer, point.activation), {})[point.ratio] = point
    checks = (_expansion_costs_rank, _nonlinearity_adds_rank, _belongs_after_expansion, _smooth_beat_relu)
    return [conclusion for check in checks if (conclusion := check(curves)) is not None]


def _expansion_costs_rank(curves: Curves) -> Conclusion | None:
    falls = {}
    for (layer, activation), curve in curves.items():
        beyond = [point for ratio, point in curve.items() if ratio < SIXFOLD - 1e-9]
        within = [point for ratio, point in curve.items() if ratio >= SIXFOLD - 1e-9]
        if layer == "conv1x1" and activation != "linear" and beyond and within:
            least, sixfold = min(beyond, key=_ratio), min(within, key=_ratio)
            falls[activation] = (least, sixfold, least.mean + 2 * (least.error + sixfold.error) < sixfold.mean)
    if not falls:
        return None
    shown = ", ".join(f"{name} {least.mean:.2f} → {six.mean:.2f}" for name, (least, six, _) in falls.items())
    least, sixfold, _ = next(iter(falls.values()))
    return Conclusion(
        claim="A 1×1 convolution that expands more than sixfold loses rank: its channel ratio should not be below 1/6",
        holds=all(fall for *_, fall in falls.values()),
        found=f"rank ratio of the 1×1 convolution from channel ratio {least.ratio:.2f} to {sixfold.ratio:.2f}: {shown}",
    )


def _nonlinearity_adds_rank(curves: Curves) -> Conclusion | None:
    gains: dict[str, dict[float, float]] = {}
    for (layer, activation), curve in curves.items():
        plain = curves.get((layer, "linear"))
        if plain and layer == "conv1x1" and activation != "linear":
            gains[activation] = {ratio: point.mean - plain[ratio].mean for ratio, point in curve.items()}
    if not gains:
        return None
    least = {name: min(gain.items(), key=lambda pair: pair[1]) for name, gain in gains.items()}
    most = {name: max(gain.items(), key=lambda pair: pair[1]) for name, gain in gains.items()}
    shown = ", ".join(
        f"{name} {least[name][1]:+.2f} (at {least[name][0]:.2f}) to {most[name][1]:+.2f} (at {most[name][0]:.2f})"
        for name in gains
    )
    return Conclusion(
        claim="A nonlinearity after the expansion adds rank, and more of it at low channel ratios than at high ones",
        holds=all(least[name][1] >= 0 and most[name][0] < least[name][0] for name in gains),
        found=f"rank ratio of the 1×1 convolution with an activation less that without: {shown}",
    )


def _belongs_after_expansion(curves: Curves) -> Conclusion | None:
    pairs = [
        (activation, curve, curves[_AFTER_DEPTHWISE, activation])
        for (layer, activation), curve in curves.items()
        if layer == _AFTER_EXPANSION and activation != "linear" and (_AFTER_DEPTHWISE, activation) in curves
    ]
    return _compare(
        pairs,
        "It belongs after the convolution that expands rather than after the depthwise convolution",
        "rank ratio with the activation there less that with it after the depthwise alone, where that leaves room",
    )


def _smooth_beat_relu(curves: Curves) -> Conclusion | None:
    pairs = [
        (activation, curve, curves[layer, "relu"])
        for (layer, activation), curve in curves.items()
        if layer in _CONVOLUTIONS and activation in _SMOOTH and (layer, "relu") in curves
    ]
    return _compare(
        pairs,
        "SiLU and ELU fill more dimensions than ReLU",
        "rank ratio of 1×1 and 3×3 convolutions less that with ReLU, where ReLU leaves room",
    )


def _compare(pairs: Sequence[tuple[str, Curve, Curve]], claim: str, what: str) -> Conclusion | None:
    """Whether each activation's first curve is above its second, wherever that is below full rank."""
    differences: dict[str, list[float]] = {}
    for activation, curve, other in pairs:
        open_ratios = [ratio for ratio in curve if other[ratio].mean < _FULL]
        differences.setdefault(activation, []).extend(curve[ratio].mean - other[ratio].mean for ratio in open_ratios)
    if not differences:
        return None
    shown = [
        f"{name} {min(values):+.2f} to {max(values):+.2f} ({sum(value > 0 for value in values)} of {len(values)} above)"
        if values
        else f"{name} none does"
        for name, values in differences.items()
    ]
    found = [value for values in differences.values() for value in values]
    return Conclusion(
        claim=claim,
        holds=bool(found) and all(value > 0 for value in found),
        found=f"{what}: {', '.join(shown)}",
    )


def _ratio(point: RankPoint) -> float:
    return point.ratio
