"""`map_in_order`: order, bounds and errors."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effnets.utils.threads import map_in_order


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 4), st.integers(1, 8))
def test_results_come_in_order(delays, workers, ahead):
    def wait(item):
        time.sleep(item[1] / 2000)
        return item[0]

    found = list(map_in_order(wait, enumerate(delays), workers=workers, ahead=ahead))
    assert found == list(range(len(delays)))


@pytest.mark.parametrize("workers", [1, 3])
def test_an_endless_iterable_is_taken_no_further_than_ahead(workers):
    taken = []

    def items():
        for number in itertools.count():
            taken.append(number)
            yield number

    results = map_in_order(lambda number: number, items(), workers=workers, ahead=5)
    for expected in range(20):
        assert next(results) == expected
        assert len(taken) <= expected + 6
    results.close()


def test_items_are_taken_in_the_callers_thread():
    def items():
        for _ in range(10):
            yield threading.get_ident()

    found = list(map_in_order(lambda item: (item, threading.get_ident()), items(), workers=2, ahead=4))
    assert {item for item, _ in found} == {threading.get_ident()}
    assert threading.get_ident() not in {thread for _, thread in found}


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_is_raised_in_its_turn_and_nothing_goes_on(workers):
    begun = []

    def fail_at_7(number):
        begun.append(number)
        if number == 7:
            raise KeyError(number)
        return number

    results = map_in_order(fail_at_7, itertools.count(), workers=workers, ahead=4)
    assert list(itertools.islice(results, 7)) == list(range(7))
    with pytest.raises(KeyError):
        next(results)
    count = len(begun)
    time.sleep(0.05)
    assert len(begun) == count
    assert count <= 12
