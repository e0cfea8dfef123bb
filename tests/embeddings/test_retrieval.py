"""Recall, mean average precision at R, and pairs, on vectors whose neighbors are known."""

from __future__ import annotations

import numpy as np
import pytest

from effnets.embeddings import retrieval
from effnets.embeddings.retrieval import nearest_others, retrieve, verify_pairs


def on_circle(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_recall_and_map_at_r_leave_the_image_itself_out():
    vectors = on_circle(0, 10, 30, 100, 112, 200)
    labels = np.array([0, 0, 1, 0, 1, 2])
    found = retrieve(vectors, labels, ranks=(1, 2))
    # Nearest others in order: 0: 1 2 …; 1: 0 2; 2: 1 0; 3: 4 2; 4: 3 2. The last has no other of its class.
    assert found.images == 5
    assert found.right.tolist() == [True, True, False, False, False]
    assert found.recall[1] == pytest.approx(2 / 5)
    assert found.recall[2] == pytest.approx(3 / 5)
    # R is 2, 2, 1, 2, 1: at R, query 0 has [1, 0], 1 has [1, 0], 2 has [0], 3 has [0, 0], 4 has [0].
    assert found.map_at_r == pytest.approx((0.5 + 0.5) / 5)


def test_map_at_r_is_one_for_perfect_clusters():
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 6)
    vectors = np.eye(4, 8, dtype=np.float32)[labels] + 0.01 * generator.standard_normal((24, 8), np.float32)
    found = retrieve(vectors, labels)
    assert (found.map_at_r, found.recall) == (pytest.approx(1), {1: 1.0, 5: 1.0, 10: 1.0})


def test_blocks_change_nothing(monkeypatch):
    """Neighbors of many images are not held at once."""
    generator = np.random.default_rng(0)
    vectors, labels = generator.standard_normal((40, 6), np.float32), generator.integers(0, 5, 40)
    whole = retrieve(vectors, labels)
    monkeypatch.setattr(retrieval, "_BLOCK", 7)
    parts = retrieve(vectors, labels)
    assert parts.right.tolist() == whole.right.tolist()
    assert parts.to_dict() == pytest.approx(whole.to_dict())


def test_equal_vectors_do_not_find_themselves():
    vectors = np.ones((5, 3), np.float32)
    near = nearest_others(vectors, np.arange(5), 2)
    assert near.shape == (5, 2)
    assert not (near == np.arange(5)[:, None]).any()


def test_nothing_to_search_for():
    found = retrieve(np.eye(3, dtype=np.float32), np.arange(3))
    assert (found.images, found.recall[1], found.map_at_r) == (0, 0.0, 0.0)
    assert verify_pairs(np.eye(3, dtype=np.float32), np.arange(3)) is None


def test_the_threshold_of_pairs_is_fitted_and_applied():
    vectors, labels = on_circle(0, 20, 90, 110), np.array([0, 0, 1, 1])
    fitted = verify_pairs(vectors, labels)
    assert (fitted.same, fitted.different) == (2, 4)
    assert (fitted.accepted, fitted.falsely_accepted, fitted.accuracy) == (1, 0, 1)
    assert np.cos(np.radians(70)) < fitted.threshold <= np.cos(np.radians(20))
    other = verify_pairs(on_circle(0, 59, 65, 180), labels, threshold=0.5)
    # Pairs of one class: 59 and 115 degrees; of two: 65, 180, 6 and 121.
    assert (other.accepted, other.falsely_accepted) == (0.5, 0.25)


def test_many_pairs_are_counted_once():
    generator = np.random.default_rng(1)
    vectors, labels = generator.standard_normal((1500, 4), np.float32), generator.integers(0, 3, 1500)
    found = verify_pairs(vectors, labels)
    assert found.same + found.different == 1500 * 1499 // 2
