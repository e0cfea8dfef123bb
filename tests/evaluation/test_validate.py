"""Which of two results is the better, and which are equals; and a request to end in the middle of measuring one."""

from __future__ import annotations

import math
import signal

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from effnets.errors import TrainingInterruptedError
from effnets.evaluation.validate import Score, validate
from effnets.utils.shutdown import GracefulShutdown


def score(top1: float, loss: float = 1.0, count: int = 100) -> Score:
    return Score(top1=top1, loss=loss, count=count)


def test_top1_decides_and_then_the_loss():
    assert score(90).better_than(None)
    assert score(90).better_than(score(89, loss=0.1))
    assert score(90, loss=0.5).better_than(score(90))
    assert not score(90).better_than(score(90))
    assert not score(0, loss=math.nan).better_than(None)


def test_as_good_as_is_to_within_a_standard_error_of_so_many_images():
    assert score(87).as_good_as(score(90))  # 3.1 points with 100 images
    assert not score(86.8).as_good_as(score(90))
    assert score(89.8, count=50_000).as_good_as(score(89.9, count=50_000))  # 0.13 points
    assert not score(89.8, count=50_000).as_good_as(score(90, count=50_000))
    assert score(100).as_good_as(score(100))
    assert score(99).as_good_as(score(100))  # 1.3 points
    assert not score(98).as_good_as(score(100))
    assert not score(90, loss=math.inf).as_good_as(score(90))


@pytest.mark.parametrize("asked_at", [0, 2, 3])
def test_a_stop_request_takes_effect_after_the_batch(asked_at):
    stop, seen = GracefulShutdown(), []

    def batches():
        for number in range(4):
            seen.append(number)
            if number == asked_at:
                stop.received = signal.SIGTERM
            yield torch.zeros(2, 3), torch.tensor([0, 1])

    network = nn.Linear(3, 2).train()
    with pytest.raises(TrainingInterruptedError, match="interrupted during validation; continue with") as caught:
        validate(network, batches(), Accelerator(), stop)
    assert caught.value.signal == signal.SIGTERM
    assert seen == list(range(asked_at + 1))
    assert network.training


def test_a_process_that_was_not_asked_ends_with_the_one_that_was():
    class Pair:
        """Two processes, the other of which saw four images, of them three right, and was asked to end."""

        device, num_processes = torch.device("cpu"), 2

        def reduce(self, sums, reduction):
            assert reduction == "sum"
            return sums + torch.tensor([3.0, 1.0, 4.0, 1.0])

    stop = GracefulShutdown()
    with pytest.raises(TrainingInterruptedError) as caught:
        validate(nn.Linear(3, 2), [(torch.zeros(2, 3), torch.tensor([0, 1]))], Pair(), stop)
    assert caught.value.signal == signal.SIGTERM
