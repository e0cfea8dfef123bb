"""Exports leave what all threads share, and other threads' networks, alone."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn

from effnets.deploy.export.program import UntraceableError, one_thread, trace_network
from tests.support import images
from tests.support.tiny_network import tiny


def in_thread(work):
    """Run `work` in another thread, and return what it returns or raises."""
    found = []

    def catch():
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=catch)
    thread.start()
    thread.join(20)
    return found[0] if found else None


@pytest.mark.parametrize("same", [False, True])
def test_a_network_runs_in_another_thread_while_one_is_traced(same, tmp_path):
    """With the layers that are traced, too."""
    traced, pixels = tiny(tmp_path), images(1, 3, 32, 32)
    live = traced.stem if same else copy.deepcopy(traced)
    with torch.no_grad():
        expected, found = live(pixels), []

    class Interrupted(nn.Module):
        def forward(self, x):
            found.append(in_thread(lambda: live(pixels).detach()))
            return x * 2

    traced.classifier = Interrupted()
    trace_network(traced)
    assert isinstance(found[0], torch.Tensor), found[0]
    torch.testing.assert_close(found[0], expected)


def test_networks_are_traced_one_after_another():
    original, inside, most = nn.Module.__call__, [], []

    class Slow(nn.Module):
        def forward(self, x):
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.1)
            inside.pop()
            return x * 2

    threads = [threading.Thread(target=trace_network, args=(Slow(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most == [1, 1, 1]
    assert nn.Module.__call__ is original


def test_the_number_of_threads_is_restored_after_two_exports_at_a_time():
    before = torch.get_num_threads()
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def first():
        with one_thread(), one_thread():  # which may nest
            first_is_in.set()
            second_is_in.wait(0.3)
        first_is_out.set()

    def second():
        first_is_in.wait(20)
        with one_thread():
            second_is_in.set()
            first_is_out.wait(20)

    try:
        torch.set_num_threads(4)
        threads = [threading.Thread(target=work) for work in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert in_thread(torch.get_num_threads) == 4  # a new thread takes the number that was set last
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("module", [nn.ReLU6(), nn.Identity()])
def test_hooks_of_torchs_modules_are_not_lost(module):
    module.register_forward_hook(lambda *values: values[-1] * 2)
    with pytest.raises(UntraceableError, match=r"^0 has hooks"):
        trace_network(nn.Sequential(module, nn.ReLU()))
