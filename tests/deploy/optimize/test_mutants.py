"""The comparison sees the mistakes that rewrites invite, and the padding argument holds at every size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import effnets
from effnets.deploy.optimize import align, merge
from effnets.deploy.optimize import optimize as fold
from effnets.deploy.optimize import sequential_block as chain
from effnets.deploy.optimize.rewrites import Rewrites
from effnets.deploy.optimize.sequential_block import with_weights
from effnets.nn.layers import Conv2d, MixedConv
from tests.support import images
from tests.support.rewriting import EXACT, SEEN, shaken, worst_error

EVERYTHING = Rewrites(align=8)


def kernel_off_by_one(monkeypatch):
    def off(weight, size):
        margin = (size - weight.shape[-1]) // 2
        return F.pad(weight, (margin - 1, margin + 1, margin, margin)) if margin else weight

    monkeypatch.setattr(merge, "_centered", off)


def without_eps(monkeypatch):
    right = fold._scale_and_shift

    def wrong(bn):
        eps, bn.eps = bn.eps, bn.eps * 100
        try:
            return right(bn)
        finally:
            bn.eps = eps

    monkeypatch.setattr(fold, "_scale_and_shift", wrong)


def mean_unscaled(monkeypatch):
    right = fold._scale_and_shift
    monkeypatch.setattr(
        fold, "_scale_and_shift", lambda bn: (right(bn)[0], bn.bias.double() - bn.running_mean.double())
    )


def forgotten_squeeze_bn(monkeypatch):
    """It is taken away without being folded."""
    right = fold._scaled_conv
    monkeypatch.setattr(fold, "_scaled_conv", lambda conv, *bn: conv if conv.bias is not None else right(conv, *bn))


def groups_swapped(monkeypatch):
    monkeypatch.setattr(merge, "_grouped", lambda mixed: merge_grouped(merge.convs_of(mixed)[::-1]))


def merge_grouped(convs):
    return with_weights(convs[0], torch.cat([conv.weight for conv in convs]), merge._biases(convs), groups=len(convs))


def lost_biases(monkeypatch):
    monkeypatch.setattr(merge, "_biases", lambda convs: torch.zeros(sum(conv.out_channels for conv in convs)))


def shortcut_on_the_last_channels(monkeypatch):
    monkeypatch.setattr(
        chain.SequentialBlock, "_add", lambda block, x, y: y + F.pad(x, (0, 0, 0, 0, block.splits[1], 0))
    )


def symmetric_padding(monkeypatch):
    def symmetric(conv, weight, bias, **arguments):
        made = with_weights(conv, weight, bias, **arguments)
        made.pads_by_size, made.padding = False, (made.reach // 2, made.reach // 2)
        return made

    monkeypatch.setattr(merge, "with_weights", symmetric)


MUTANTS = {
    "kernel-off-by-one": ("mixnet_s", kernel_off_by_one),
    "kernel-off-by-one-same": ("tf_mixnet_s", kernel_off_by_one),
    "eps-mobilenetv1": ("mobilenetv1_025", without_eps),
    "eps-rexnet": ("rexnet_100", without_eps),
    "mean-unscaled": ("mobilenetv2_035", mean_unscaled),
    "squeeze-bn-forgotten": ("rexnet_100", forgotten_squeeze_bn),
    "groups-swapped": ("mixnet_s", groups_swapped),
    "biases-lost": ("mixnet_s", lost_biases),
    "shortcut-misplaced": ("rexnet_100", shortcut_on_the_last_channels),
    "symmetric-padding": ("tf_mixnet_s", symmetric_padding),
}


@pytest.mark.parametrize(("name", "change"), MUTANTS.values(), ids=MUTANTS.keys())
def test_comparison_sees(name, change, monkeypatch):
    assert worst_error(effnets.optimize(shaken(name), EVERYTHING), name) <= EXACT
    change(monkeypatch)
    assert worst_error(effnets.optimize(shaken(name), EVERYTHING), name) > SEEN


def test_padding_that_is_not_zero_is_seen(monkeypatch):
    real = F.pad

    class Wrong:
        @staticmethod
        def pad(values, widths, value=0.0):
            return real(values, widths, value=value or 0.1)

    monkeypatch.setattr(align, "F", Wrong)
    assert worst_error(effnets.optimize(shaken("rexnet_100"), EVERYTHING), "rexnet_100") > SEEN


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from([1, 3, 5, 7, 9, 11]), st.integers(1, 3)), min_size=2, max_size=4
    ),
    stride=st.sampled_from([1, 2]),
    padding=st.sampled_from(["symmetric", "same"]),
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    data=st.data(),
)
def test_any_kernels_merge_exactly_at_any_size(groups, stride, padding, height, width, data):
    """All or neighbors, with dilation; strided 1×1 kernels among SAME-padded ones are left alone."""
    convs = []
    for channels, kernel_size, dilation in groups:
        shape = {"in_channels": channels, "out_channels": channels, "groups": channels}
        conv = Conv2d(**shape, kernel_size=kernel_size, stride=stride, dilation=dilation, padding=padding)
        conv.weight = torch.nn.Parameter(images(channels, 1, kernel_size, kernel_size).double())
        convs.append(conv)
    mixed = MixedConv(convs)
    first = data.draw(st.integers(1, len(convs)))
    runs = [first, len(convs) - first] if first < len(convs) else [first]
    if not merge._is_depthwise(mixed):
        assert stride == 2
        assert padding == "same"
        return
    x = images(2, sum(mixed.splits), height, width).double()
    assert torch.allclose(merge._merged(mixed, runs)(x), mixed(x), rtol=0, atol=1e-12)
