"""Exact search: all vectors are compared, block by block."""

from __future__ import annotations

import numpy as np
import pytest

from effnets.embeddings import neighbors
from effnets.embeddings.neighbors import nearest


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32) * 3


def test_it_is_what_a_full_comparison_gives(vectors, monkeypatch):
    monkeypatch.setattr(neighbors, "_BLOCK", 64)
    monkeypatch.setattr(neighbors, "_QUERIES", 7)
    queries = vectors[:20] + 0.1
    cosines = (queries @ vectors.T) / np.outer(np.linalg.norm(queries, axis=1), np.linalg.norm(vectors, axis=1))
    found, rows = nearest(vectors, queries, 5)
    np.testing.assert_array_equal(rows, np.argsort(-cosines, axis=1)[:, :5])
    np.testing.assert_allclose(found, -np.sort(-cosines, axis=1)[:, :5], rtol=1e-5)


def test_a_file_is_enough(vectors, tmp_path):
    np.save(tmp_path / "v.npy", vectors)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    np.testing.assert_array_equal(nearest(mapped, vectors[:3], 4)[1], nearest(vectors, vectors[:3], 4)[1])


def test_few_or_none(vectors):
    assert nearest(vectors[:2], vectors, 10)[1].shape == (300, 2)
    assert nearest(vectors, vectors[:0], 3)[1].shape == (0, 3)


def test_zeros_are_near_nothing():
    found, rows = nearest(np.array([[0, 0], [1, 0]], np.float32), np.array([[1, 0]], np.float32), 2)
    assert rows.tolist() == [[1, 0]]
    assert found.tolist() == [[1, 0]]
