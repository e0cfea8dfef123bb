"""Interleaved timing: every subject in every round, medians, and the limits of a run."""

from __future__ import annotations

import itertools

import pytest

from effnets.errors import ArgumentError
from effnets.utils import timing
from effnets.utils.machine import describe_machine
from effnets.utils.timing import Timing, interleave, ratio


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes only when it is told to."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(timing.time, "sleep", lambda _: None)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: Clock.now)
    return Clock


def subject(clock, log, name, *milliseconds):
    """A call that takes these times in turn."""
    durations = itertools.cycle(milliseconds)

    def call():
        log.append(name)
        clock.now += next(durations) / 1000

    return call


def test_subjects_take_turns(clock):
    log: list[str] = []
    timings = interleave({name: subject(clock, log, name, 30) for name in "abc"}, rounds=30, warmup=1)
    rounds = [log[start : start + 3] for start in range(6, len(log), 3)]
    assert [sorted(names) for names in rounds] == [list("abc")] * 30
    # No subject always follows the same one, whose engine's threads may still be awake.
    assert len(set(itertools.pairwise(log[6:]))) >= 6
    assert all(len(timing.samples) == 30 and timing.median == pytest.approx(30) for timing in timings.values())


def test_short_calls_are_repeated_to_fill_a_sample(clock):
    log: list[str] = []
    timings = interleave({"short": subject(clock, log, "short", 1)}, rounds=2, warmup=0)
    assert len(log) == 1 + 2 * (1 + 20)
    assert timings["short"].median == pytest.approx(1)


def test_no_round_begins_after_the_time_is_up(clock):
    log: list[str] = []
    shares: list[float] = []
    timings = interleave(
        {"long": subject(clock, log, "long", 1000)}, rounds=100, seconds=5, warmup=0, progress=shares.append
    )
    assert len(timings["long"].samples) == 5
    assert shares == sorted(shares)
    assert shares[-1] == 1
    log.clear()
    assert len(interleave({"long": subject(clock, log, "long", 9000)}, seconds=1, warmup=0)["long"].samples) == 3


def test_medians_and_quartiles():
    slow, fast = Timing((1.0, 2.0, 3.0, 4.0, 100.0)), Timing((1.5,))
    assert (slow.median, slow.quartiles, fast.quartiles) == (3.0, (2.0, 4.0), (1.5, 1.5))
    assert ratio(slow, fast) == 2


@pytest.mark.parametrize(("subjects", "rounds"), [({}, 3), ({"a": print}, 0)])
def test_there_must_be_something_to_time(subjects, rounds):
    with pytest.raises(ArgumentError, match="there must be at least one of each"):
        interleave(subjects, rounds=rounds)


def test_the_machine_describes_itself():
    machine = describe_machine()
    assert machine.cores >= 1
    assert machine.processor
    assert "python" in machine.versions
    assert machine.to_dict()["features"] == list(machine.features)
    assert str(machine.cores) in str(machine)
