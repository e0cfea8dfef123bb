"""Which of two results is the better, and which are equals."""

from __future__ import annotations

import math

from effnets.train.validate import Score


def score(top1: float, loss: float = 1.0, count: int = 100) -> Score:
    return Score(top1=top1, loss=loss, count=count)


def test_top1_decides_and_then_the_loss():
    assert score(90).better_than(None)
    assert score(90).better_than(score(89, loss=0.1))
    assert score(90, loss=0.5).better_than(score(90))
    assert not score(90).better_than(score(90))
    assert not score(0, loss=math.nan).better_than(None)


def test_as_good_as_is_to_within_a_standard_error_of_so_many_pictures():
    assert score(87).as_good_as(score(90))  # 3.1 points with 100 pictures
    assert not score(86.8).as_good_as(score(90))
    assert score(89.8, count=50_000).as_good_as(score(89.9, count=50_000))  # 0.13 points
    assert not score(89.8, count=50_000).as_good_as(score(90, count=50_000))
    assert score(100).as_good_as(score(100))
    assert score(99).as_good_as(score(100))  # 1.3 points
    assert not score(98).as_good_as(score(100))
    assert not score(90, loss=math.inf).as_good_as(score(90))
