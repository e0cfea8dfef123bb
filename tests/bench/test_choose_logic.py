"""Choosing, as pure logic: the Pareto front, the recommendation, what is nearest, and what is measured next."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnets.bench.choose import (
    Limits,
    ModelCandidate,
    Network,
    list_candidates,
    nearest,
    networks_of,
    pareto_front,
    recommend,
    with_latencies,
    within,
)
from effnets.bench.latency import next_network
from effnets.errors import ArgumentError


def candidate(name, *, latency=None, top1=75.0, params=4_000_000, madds=300_000_000, family="mixnet", size=224):
    network = Network(name, size, f"{family} {name}")
    return ModelCandidate(
        name=name, family=family, network=network, params=params, madds=madds, top1=top1, latency=latency
    )


def dominates(one, other):
    """Whether `one` is at least as accurate and as fast as `other`, and better in one of the two. Both are measured."""
    as_good = one.top1 >= other.top1 and one.latency <= other.latency
    return as_good and (one.top1 > other.top1 or one.latency < other.latency)


# Few values of each, so that ties are common.
latencies = st.one_of(st.none(), st.sampled_from([1.0, 2.0, 3.0, 4.0]), st.floats(0.1, 50))
accuracies = st.one_of(st.sampled_from([60.0, 70.0, 80.0]), st.floats(40, 85))


@st.composite
def zoos(draw, measured=latencies):
    return [
        candidate(
            f"n{index}",
            latency=draw(measured),
            top1=draw(accuracies),
            params=draw(st.integers(1, 10)) * 10**6,
            madds=draw(st.integers(1, 60)) * 10**7,
            family=draw(st.sampled_from(["mixnet", "rexnet"])),
        )
        for index in range(draw(st.integers(0, 12)))
    ]


def optional(values):
    return st.one_of(st.none(), values)


limit_sets = st.builds(
    Limits,
    max_latency=optional(st.floats(0.5, 20)),
    max_params=optional(st.floats(1e6, 1e7)),
    max_madds=optional(st.floats(1e7, 6e8)),
    min_top1=optional(st.floats(50, 85)),
)


@given(zoos())
def test_the_front_is_all_that_nothing_dominates(zoo):
    front = pareto_front(zoo)
    measured = [one for one in zoo if one.latency is not None]
    assert not any(dominates(one, other) for one in measured for other in front)
    outside = [one for one in measured if one not in front]
    assert all(any(dominates(one, other) for one in front) for other in outside)
    assert front == sorted(front, key=lambda one: (one.latency, one.top1))


@given(zoos(), limit_sets)
def test_the_recommendation_is_the_most_accurate_within_the_limits(zoo, limits):
    answer = recommend(zoo, limits)
    possible = [one for one in zoo if one.latency is not None and within(one, limits)]
    if not possible:
        assert answer is None
        return
    assert answer is not None
    assert answer.chosen in possible
    assert answer.chosen.top1 == max(one.top1 for one in possible)
    assert not any(dominates(one, answer.chosen) for one in possible)
    if answer.above:
        assert answer.above.top1 > answer.chosen.top1
        assert not within(answer.above, limits)
    if answer.below:
        assert answer.below.latency < answer.chosen.latency
        assert answer.below.top1 <= answer.chosen.top1 or not within(answer.below, limits)


@given(zoos(), limit_sets)
def test_the_nearest_breaks_one_limit_and_no_other(zoo, limits):
    for entry in nearest(zoo, limits):
        others = limits.without(entry.limit)
        breaking = [one for one in zoo if within(one, others) and not within(one, limits)]
        assert (entry.candidate is None) == (not breaking)
        assert entry.candidate is None or entry.candidate in breaking


def test_what_is_nearest():
    zoo = [
        candidate("slow", latency=9.0, top1=76),
        candidate("slower", latency=12.0, top1=79),
        candidate("large", latency=2.0, top1=76, params=6_000_000),
        candidate("weak", latency=1.0, top1=71),
        candidate("unknown", top1=73),
    ]
    limits = Limits(max_latency=5, max_params=5e6, max_madds=1e9, min_top1=75)
    assert recommend(zoo, limits) is None
    found = {entry.limit: entry.candidate and entry.candidate.name for entry in nearest(zoo, limits)}
    assert found == {"max_latency": "slow", "max_params": "large", "max_madds": None, "min_top1": "unknown"}


def test_the_reason_is_one_sentence_with_the_steps_beside_it():
    zoo = [
        candidate("s", latency=3.0, top1=75.5),
        candidate("m", latency=6.0, top1=77.0, params=5_010_000),
        candidate("xs", latency=2.0, top1=72.0),
    ]
    answer = str(recommend(zoo, Limits(max_latency=5)))
    assert answer == (
        "Take s at 224: the most accurate within the limits, 75.5 % in 3.00 ms with 4.00 M parameters; one step up, "
        "m at 224, +1.5 points, +3.00 ms and +1.01 M parameters; one step down, xs at 224, -3.5 points, -1.00 ms and "
        "as many parameters."
    )


def search(zoo, truth, limits):
    """What the search measures when a measurement always gives the truth."""
    known: dict[tuple[str, int], float] = {}
    while network := next_network(zoo, known, limits):
        assert network.key not in known, "nothing is measured twice"
        known[network.key] = truth[network.key]
    return known


@given(zoos(measured=st.none()), limit_sets, st.floats(0.5, 2), st.randoms(use_true_random=False))
def test_stopping_early_does_not_change_the_recommendation(zoo, limits, between, random):
    """Where latency grows with multiply-adds as it does on real machines, within a tenth."""
    factor = {"mixnet": 1.0, "rexnet": between}
    truth = {
        one.network.key: factor[one.family] * (one.madds / 5e7) ** random.uniform(0.8, 0.9) * random.uniform(0.95, 1.05)
        for one in zoo
    }
    known = search(zoo, truth, limits)
    stopped, whole = recommend(with_latencies(zoo, known), limits), recommend(with_latencies(zoo, truth), limits)
    assert (stopped and stopped.chosen.top1) == (whole and whole.chosen.top1)


@given(zoos(measured=st.none()), limit_sets)
def test_what_breaks_a_cheap_limit_is_never_measured(zoo, limits):
    known = search(zoo, {one.network.key: one.madds / 1e8 for one in zoo}, limits)
    measured = [one for one in zoo if one.network.key in known]
    assert all(within(one, limits.without("max_latency")) for one in measured)


def test_far_beyond_the_limit_little_is_measured():
    zoo = [candidate(f"n{size}", madds=size * 10**7, top1=60 + size / 4) for size in range(1, 61)]
    truth = {one.network.key: one.madds / 1e8 for one in zoo}
    known = search(zoo, truth, Limits(max_latency=1, min_top1=62))
    assert len(known) < 15
    assert recommend(with_latencies(zoo, known), Limits(max_latency=1)).chosen.name == "n10"


def test_nothing_within_the_limit_leads_to_the_fastest():
    zoo = [candidate(f"n{size}", madds=size * 10**7, top1=60 + size / 4) for size in range(1, 61)]
    known = search(zoo, {one.network.key: one.madds / 1e8 for one in zoo}, Limits(max_latency=0.001))
    assert zoo[0].network.key in known
    assert len(known) < 5


def test_candidates_are_published_weights_at_the_size_of_their_figure():
    candidates, without = list_candidates("rexnetr_*")
    found = {one.name: (one.top1, one.network.size) for one in candidates}
    assert found["rexnetr_200.sw_in12k_ft_in1k"] == (83.136, 288)
    assert without == ["rexnetr_200.sw_in12k", "rexnetr_300.sw_in12k"]


def test_tags_of_a_network_share_a_measurement():
    groups = networks_of(list_candidates("mobilenetv2_100")[0])
    assert [len(group) for group in groups] == [3]
    grid = networks_of(list_candidates("tf_mobilenetv2_100")[0])
    assert sorted(group[0].network.size for group in grid) == [96, 128, 160, 192, 224]


def test_nothing_matches():
    with pytest.raises(ArgumentError, match=r"no published weights match 'resnet\*'"):
        list_candidates("resnet*")


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_limits_are_positive(value):
    with pytest.raises(ArgumentError, match="max_latency is"):
        Limits(max_latency=value)


def test_no_accuracy_is_above_100():
    with pytest.raises(ArgumentError, match="at most 100"):
        Limits(min_top1=101)
