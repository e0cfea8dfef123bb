"""Nearest neighbors among vectors, by the cosine of their angle."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK, _QUERIES = 8192, 1024  # vectors and queries of one product

Found = tuple[NDArray[np.float32], NDArray[np.int64]]


def nearest(vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> Found:
    """Return the cosines ``[Q, k]`` of the `k` nearest vectors of each query, the nearest first, and their rows.

    All vectors are compared: nothing is built beforehand, and the answer is exact. They may be mapped from a file: a
    block is read at a time.

    Args:
        vectors: ``[N, D]``, of any length. queries: ``[Q, D]``.
        k: at least 1; if there are fewer vectors, all of them.
    """
    k = min(k, len(vectors))
    parts = [_nearest(vectors, queries[start : start + _QUERIES], k) for start in range(0, len(queries), _QUERIES)]
    if not parts:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
    return np.concatenate([cosines for cosines, _ in parts]), np.concatenate([rows for _, rows in parts])


def _nearest(vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> Found:
    queries = _normalize(queries)
    cosines = np.empty((len(queries), 0), np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(vectors), _BLOCK):
        block = np.asarray(vectors[start : start + _BLOCK], np.float32)
        lengths = np.sqrt(np.einsum("nd,nd->n", block, block))
        found = queries @ block.T / np.maximum(lengths, np.finfo(np.float32).tiny)
        numbers = np.broadcast_to(np.arange(start, start + len(block)), found.shape)
        cosines, rows = np.concatenate([cosines, found], 1), np.concatenate([rows, numbers], 1)
        if cosines.shape[1] > k:
            best = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
            cosines, rows = np.take_along_axis(cosines, best, 1), np.take_along_axis(rows, best, 1)
    order = np.argsort(-cosines, axis=1, kind="stable")
    return np.take_along_axis(cosines, order, 1), np.take_along_axis(rows, order, 1)


def _normalize(vectors: NDArray[np.float32]) -> NDArray[Any]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
