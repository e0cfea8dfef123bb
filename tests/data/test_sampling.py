from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnets.data.sampling import balanced_order, batches_by_class, class_weights, occurrences, shuffled_order
from effnets.errors import ArgumentError


@given(st.lists(st.integers(0, 6), min_size=1, max_size=120), st.integers(0, 9), st.integers(0, 9))
def test_balance(labels, seed, epoch):
    labels = np.array(labels)
    order = balanced_order(labels, seed, epoch)
    assert len(order) == len(labels)
    shown = np.bincount(labels[order], minlength=7)[np.unique(labels)]
    assert shown.max() - shown.min() <= 1
    for label in np.unique(labels):  # by turns
        turns = np.bincount(order, minlength=len(labels))[labels == label]
        assert turns.max() - turns.min() <= 1
    assert np.array_equal(order, balanced_order(labels, seed, epoch))


@given(st.lists(st.integers(0, 5), max_size=50))
def test_occurrences(order):
    assert occurrences(np.array(order, np.int64)).tolist() == [order[:place].count(v) for place, v in enumerate(order)]


def test_orders_differ_by_seed_and_epoch():
    orders = {tuple(shuffled_order(50, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_weights_make_classes_count_alike():
    labels = np.array([0] * 8 + [1] * 2)
    weights = class_weights(labels, 3)
    assert weights.tolist() == pytest.approx([0.625, 2.5, 0.0])
    assert weights[labels].mean() == pytest.approx(1)
    assert class_weights(labels, 2, power=0).tolist() == [1, 1]
    assert class_weights(labels, 2, power=0.5)[1] / class_weights(labels, 2, power=0.5)[0] == pytest.approx(2)
    with pytest.raises(ArgumentError, match="labels are empty"):
        class_weights(np.array([], np.int64), 2)


def test_batches_have_some_images_of_some_classes():
    labels = np.repeat([0, 2, 3, 5, 7], [3, 8, 8, 2, 9])
    order = batches_by_class(labels, 10, 3, 4, (0, 1))
    assert np.array_equal(order, batches_by_class(labels, 10, 3, 4, (0, 1)))
    assert not np.array_equal(order, batches_by_class(labels, 10, 3, 4, (0, 2)))
    batches = labels[order].reshape(10, 3, 4)
    assert (batches == batches[..., :1]).all()
    assert all(len(set(batch[:, 0])) == 3 for batch in batches)
    counts = np.unique(batches[..., 0], return_counts=True)[1]
    assert counts.tolist() == [6] * 5
    for label in np.unique(labels):
        uses = np.bincount(order[labels[order] == label], minlength=len(labels))[labels == label]
        assert uses.max() - uses.min() <= 1
