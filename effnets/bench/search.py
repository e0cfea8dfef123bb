"""Which network to measure next, so that few measurements answer the question. Pure functions, free of torch.

Latency is foretold from the multiply-adds of the nearest network of the same family that was measured: within a family
it grows with them, but slower than they do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from effnets.bench.candidates import Candidate, Limits, Network, networks_of, within

__all__ = ["expected_latency", "next_network"]

# Latency as a power of multiply-adds: as it is on average, and at least, going up.
_TYPICAL, _LEAST = 0.85, 0.6
# Networks of another family differ by as much in time per multiply-add.
_BETWEEN_FAMILIES = 3.0
# A measurement may be wrong by as much, on a machine that does other work too.
_NOISE = 1.2


def next_network(
    candidates: Sequence[Candidate], latencies: Mapping[tuple[str, int], float], limits: Limits
) -> Network | None:
    """The network whose latency matters most among those not measured; None if no other can change the answer.

    First what may be more accurate than the best within the limits, then one step beyond it, then the rest of the
    front. A network is passed over where even an optimistic estimate of its latency is too high to matter.

    Args:
        candidates: all there are; those that break another limit than latency are not measured.
        latencies: in milliseconds, by `Network.key`.
        limits: the limits.
    """
    eligible = [candidate for candidate in candidates if within(candidate, limits.without("max_latency"))]
    # Of the tags of a network only the most accurate can matter.
    best = [max(group, key=lambda candidate: candidate.top1) for group in networks_of(eligible)]
    measured = {c.network.key: c for c in candidates if c.network.key in latencies}
    known = [(c, latencies[c.network.key]) for c in measured.values()]
    unmeasured = [candidate for candidate in best if candidate.network.key not in latencies]
    if not unmeasured:
        return None
    if not known:
        return sorted(unmeasured, key=lambda candidate: (candidate.madds, candidate.name))[len(unmeasured) // 2].network

    limit = math.inf if limits.max_latency is None else limits.max_latency
    in_best = [(c, latencies[c.network.key]) for c in best if c.network.key in latencies]
    reached = max((c.top1 for c, latency in in_best if latency <= limit), default=-math.inf)
    better = [candidate for candidate in unmeasured if candidate.top1 > reached]

    contenders = [candidate for candidate in better if _least(candidate, known) <= limit]
    if contenders:
        likely = [candidate for candidate in contenders if expected_latency(candidate, known) <= limit]
        if likely:
            return max(likely, key=lambda candidate: (candidate.top1, -candidate.madds)).network
        return min(contenders, key=lambda candidate: expected_latency(candidate, known)).network

    # With nothing within the limit, what comes nearest to it is asked for.
    fastest = min((latency for _, latency in in_best), default=math.inf)
    if reached == -math.inf and (swift := min(better, key=lambda c: expected_latency(c, known), default=None)):
        return swift.network if expected_latency(swift, known) < fastest else None

    if better and not any(c.top1 > reached for c, _ in in_best):
        return min(better, key=lambda candidate: expected_latency(candidate, known)).network

    for candidate in sorted(unmeasured, key=lambda candidate: -candidate.top1):
        rival = min((latency for c, latency in in_best if c.top1 >= candidate.top1), default=math.inf)
        if _least(candidate, known) < min(rival, limit):
            return candidate.network
    return None


def expected_latency(candidate: Candidate, known: Sequence[tuple[Candidate, float]]) -> float:
    """A guess in milliseconds, from at least one measurement."""
    other, latency, _ = _nearest(candidate, known)
    return latency * (candidate.madds / other.madds) ** _TYPICAL


def _least(candidate: Candidate, known: Sequence[tuple[Candidate, float]]) -> float:
    """An optimistic guess: it will hardly be faster than that."""
    other, latency, kin = _nearest(candidate, known)
    ratio = candidate.madds / other.madds
    power = _LEAST if ratio > 1 else 1.0
    return latency * ratio**power / (_NOISE if kin else _BETWEEN_FAMILIES)


def _nearest(candidate: Candidate, known: Sequence[tuple[Candidate, float]]) -> tuple[Candidate, float, bool]:
    """The measured candidate of the most similar size, of the same family where there is one, and whether it is."""
    kin = [pair for pair in known if pair[0].family == candidate.family]
    other, latency = min(kin or known, key=lambda pair: abs(math.log(pair[0].madds / candidate.madds)))
    return other, latency, bool(kin)
