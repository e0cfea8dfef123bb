"""How good embeddings are: nearest neighbors of the same class, and pairs that are told apart by a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnets.embeddings.neighbors import nearest

RANKS = (1, 5, 10)

_BINS = 4000  # of cosines, 0.0005 wide
_BLOCK = 1024  # rows of cosines at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """Every image is searched for among the others (leave-one-out), by the cosine of the embeddings.

    Attributes:
        images: that were searched for: those of a class with another image.
        right: [images], whether the nearest one is of the same class.
        recall: by k, the share of images with one of their class among the k nearest, 0..1.
        map_at_r: mean average precision among the R nearest, R being the other images of the class, 0..1 (Musgrave et
            al. 2020, arXiv:2003.08505).
    """

    images: int
    right: NDArray[np.bool_]
    recall: dict[int, float]
    map_at_r: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, in per cent."""
        recall = {f"recall_at_{k}": 100 * share for k, share in self.recall.items()}
        return {"images": self.images, **recall, "map_at_r": 100 * self.map_at_r}


def retrieve(vectors: NDArray[np.float32], labels: NDArray[np.int64], ranks: Sequence[int] = RANKS) -> Retrieval:
    """Search for every image among the others.

    Args:
        vectors: ``[N, D]``, of any length. labels: ``[N]``, their classes.
        ranks: k of recall at k.
    """
    others = np.bincount(labels)[labels] - 1
    searched = np.flatnonzero(others > 0)
    if not len(searched):
        return Retrieval(images=0, right=np.array([], bool), recall=dict.fromkeys(ranks, 0.0), map_at_r=0.0)
    wanted = others[searched]
    most = max(*ranks, int(wanted.max()))
    found, precisions = np.empty((len(searched), len(ranks)), np.bool_), np.empty(len(searched))
    right = np.empty(len(searched), np.bool_)
    for start in range(0, len(searched), _BLOCK):  # as many neighbors as a class has images, for each image
        rows = slice(start, start + _BLOCK)
        same = labels[nearest_others(vectors, searched[rows], most)] == labels[searched[rows]][:, None]
        places = np.arange(1, same.shape[1] + 1)
        counted = same & (places <= wanted[rows][:, None])
        precisions[rows] = (np.cumsum(same, axis=1) / places * counted).sum(axis=1) / wanted[rows]
        found[rows] = np.stack([same[:, :k].any(axis=1) for k in ranks], axis=1)
        right[rows] = same[:, 0]
    return Retrieval(
        images=len(searched),
        right=right,
        recall={k: float(share) for k, share in zip(ranks, found.mean(axis=0), strict=True)},
        map_at_r=float(precisions.mean()),
    )


def nearest_others(vectors: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Return for each of `rows` of vectors ``[N, D]`` the rows of the nearest others, at most `k`, ``[rows, k]``."""
    found = nearest(vectors, vectors[rows], k + 1)[1]
    # Of equal vectors it need not be itself that comes first, or comes at all.
    last = np.argsort(found == rows[:, None], axis=1, kind="stable")
    return np.take_along_axis(found, last, axis=1)[:, : found.shape[1] - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Whether two images are of one class, decided by the cosine of their embeddings (FaceNet, arXiv:1503.03832, 4).

    Attributes:
        threshold: the least cosine at which they are.
        accepted: of the pairs of one class, the share that is taken for such, 0..1 (validation rate).
        falsely_accepted: of the pairs of two classes, the share that is taken for one (false accept rate).
        same, different: how many pairs of one class there are, and of two.
    """

    threshold: float
    accepted: float
    falsely_accepted: float
    same: int
    different: int

    @property
    def accuracy(self) -> float:
        """Mean of the shares of right answers among both kinds of pairs, 0..1."""
        return (self.accepted + 1 - self.falsely_accepted) / 2

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; shares are 0..1."""
        return {**asdict(self), "accuracy": self.accuracy}


def verify_pairs(
    vectors: NDArray[np.float32], labels: NDArray[np.int64], threshold: float | None = None
) -> Verification | None:
    """Decide for all pairs of images whether they are of one class.

    Args:
        vectors: ``[N, D]``, of any length. labels: ``[N]``, their classes.
        threshold: fitted on other images, to the next 0.0005; None fits the one with the best accuracy on these.

    Returns:
        None if there are no pairs of one class, or none of two.
    """
    counts = _count_cosines(vectors, labels)
    same, different = counts.sum(axis=1)
    if not same or not different:
        return None
    # Accepted at each threshold, the lower edge of a bin: those in it and in all above.
    accepted, falsely = counts[:, ::-1].cumsum(axis=1)[:, ::-1] / [[same], [different]]
    edges = np.linspace(-1, 1, _BINS + 1)[:-1]
    best = int((accepted - falsely).argmax()) if threshold is None else int(np.abs(edges - threshold).argmin())
    return Verification(
        threshold=float(edges[best]),
        accepted=float(accepted[best]),
        falsely_accepted=float(falsely[best]),
        same=int(same),
        different=int(different),
    )


def _count_cosines(vectors: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return [2, bins]: pairs of one class and of two, by their cosine."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    counts = np.zeros((2, _BINS), np.int64)
    for start in range(0, len(unit), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(unit)))
        cosines = unit[block] @ unit[start:].T
        bins = np.clip(((cosines + 1) / 2 * _BINS).astype(np.int64), 0, _BINS - 1)
        once = np.arange(start, len(unit)) > block[:, None]
        same = labels[block][:, None] == labels[start:]
        for row, chosen in enumerate((once & same, once & ~same)):
            counts[row] += np.bincount(bins[chosen], minlength=_BINS)
    return counts
