"""Which of two results is the better, and which are equals; and a request to end in the middle of measuring one."""

from __future__ import annotations

import math
import signal

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from effnets.errors import TrainingInterruptedError
from effnets.evaluation.validate import Score, validate
from effnets.utils.shutdown import GracefulShutdown


def score(right: str, loss: float = 1.0) -> Score:
    """A score by a text like 1101, one digit for each image."""
    bits = np.array([digit == "1" for digit in right])
    return Score(
        top1=100 * bits.mean(), loss=loss, count=len(right), correct=np.packbits(bits).tobytes().hex() if right else ""
    )


def test_top1_decides_beyond_two_standard_errors_of_the_images_that_differ():
    better, why = score("11111110", loss=2.0).better_than(score("11000000"))
    assert better
    assert why == "5 images that only it has right, against 0"
    assert score("11000000").better_than(score("11111110", loss=2.0)) == (False, why)


def test_of_equals_the_lower_loss_decides():
    one, other = score("11110001", loss=0.293), score("11110000", loss=0.319)  # one image is chance
    why = "loss 0.293 against 0.319; top-1 is equal to within chance (they differ on 1)"
    assert one.better_than(other) == (True, why)
    assert other.better_than(one) == (False, why)
    # Nine against one of ten images: 8² is above 4 · 10; eight against two: 6² is not.
    assert score("1111111110", loss=9.0).better_than(score("0000000001"))[0]
    assert not score("1111111100", loss=9.0).better_than(score("0000000011"))[0]
    # Equal numbers right, but others: as many on each side.
    assert score("1100", loss=0.5).better_than(score("0011", loss=0.6))[0]
    assert not score("1100").better_than(score("1100"))[0]


def test_clearly_better_needs_more_than_some_standard_errors():
    assert score("11111110").clearly_better_than(score("11000000"))
    assert not score("11111110").clearly_better_than(score("11000000"), 3)
    assert not score("11111100").clearly_better_than(score("11000000"))
    assert score("11111100").clearly_better_than(score("11000000"), 1)
    assert not score("11000000").clearly_better_than(score("11111110"))
    assert not score("1111111100").clearly_better_than(score("0000000011"))


def test_a_score_of_an_earlier_version_has_no_images_to_pair():
    before = Score(top1=90.0, loss=1.0, count=100)
    assert Score(top1=95.0, loss=2.0, count=100).better_than(before)[0]
    assert not Score(top1=94.0, loss=2.0, count=100).better_than(before)[0]


def test_a_loss_that_is_not_finite_is_never_better():
    assert not score("0", loss=math.nan).better_than(None)[0]
    assert score("0").better_than(None)[0]
    assert score("1111", loss=math.inf).better_than(score("0000")) == (False, "the loss is not finite")


def test_validation_marks_every_image():
    network = nn.Linear(3, 2)
    nn.init.zeros_(network.weight)
    network.bias.data = torch.tensor([1.0, 0.0])  # always class 0
    batches = [(torch.zeros(3, 3), torch.tensor([0, 1, 0])), (torch.zeros(2, 3), torch.tensor([1, 0]))]
    found = validate(network, batches, Accelerator(), GracefulShutdown())
    assert (found.top1, found.count) == (60.0, 5)
    assert found.correct == score("10101").correct


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
