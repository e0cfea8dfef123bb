"""Images with labeled boxes. Free of torch."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from effnets.data.dataset import CACHE_BYTES, CachedDataset, ImageDataset, LazyImage
from effnets.data.splits import Splits


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxTable:
    """The boxes of some images, one after the other.

    Attributes:
        ends: [images]; where the boxes of each image end; they begin where those of the image before end.
        boxes: float32 [M, 4]; x1, y1, x2, y2 in pixels of the upright image.
        labels: int64 [M]; from 1, as detectors count: 0 is the background.
        crowd: [M]; a group of objects in one box, as COCO's iscrowd.
        difficult: [M]; as Pascal VOC's.
    """

    ends: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]

    def rows(self, index: int) -> slice:
        """Return where the boxes of an image are."""
        return slice(int(self.ends[index - 1]) if index else 0, int(self.ends[index]))

    def counts(self) -> NDArray[np.int64]:
        """Return how many boxes each image has, [images]."""
        return np.diff(self.ends, prepend=0)

    def take(self, indices: NDArray[np.int64]) -> BoxTable:
        """Return the boxes of the images at `indices`, in their order."""
        counts = self.counts()[indices]
        starts = (self.ends - self.counts())[indices]
        ends = np.cumsum(counts)
        rows = np.repeat(starts - (ends - counts), counts) + np.arange(counts.sum())
        return BoxTable(
            ends=ends,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            difficult=self.difficult[rows],
        )


class BoxDataset(ImageDataset):
    """Images with labeled boxes, and random access to both.

    Args:
        images: without their boxes.
        class_names: of the boxes; the background is none of them.
        image_sizes: [len, 2]; (width, height) of the upright images in pixels.
        table: the boxes.

    Attributes:
        labels: [len]; of each image, the class of its boxes that is rarest in the data, from 0, so that what divides
            images by class does not lose one; 0 without boxes.
    """

    kind: ClassVar[str] = "images with boxes"

    def __init__(
        self,
        images: ImageDataset,
        class_names: tuple[str, ...],
        image_sizes: NDArray[np.int64],
        table: BoxTable,
    ) -> None:
        self.images, self.class_names, self.image_sizes, self.table = images, class_names, image_sizes, table
        self.channels = images.channels
        self.labels = _rarest(table, len(class_names))

    def boxes(self, index: int) -> NDArray[np.float32]:
        """Return the boxes of an image, float32 [n, 4]: x1, y1, x2, y2 in pixels of the upright image."""
        return self.table.boxes[self.table.rows(index)]

    def box_labels(self, index: int) -> NDArray[np.int64]:
        """Return the classes of an image's boxes, int64 [n], from 1: 0 is the background."""
        return self.table.labels[self.table.rows(index)]

    def crowd(self, index: int) -> NDArray[np.bool_]:
        """Return whether each box of an image is around a group of objects, bool [n]; training leaves these out."""
        return self.table.crowd[self.table.rows(index)]

    def difficult(self, index: int) -> NDArray[np.bool_]:
        """Return whether each box of an image is marked as difficult, bool [n]; measuring does not count these."""
        return self.table.difficult[self.table.rows(index)]

    def scale(self, index: int, size: tuple[int, int]) -> NDArray[np.float32]:
        """Return the factors [4] from an image's boxes to those of a form of it, of `size`, (width, height)."""
        return np.tile(np.array(size, np.float32) / self.image_sizes[index].astype(np.float32), 2)

    def box_counts(self) -> NDArray[np.int64]:
        """Return how many boxes each class has, int64 [classes]."""
        return np.bincount(self.table.labels - 1, minlength=len(self.class_names))

    def name(self, index: int) -> str:
        return self.images.name(index)

    def read(self, index: int) -> bytes:
        return self.images.read(index)

    def sizes(self) -> NDArray[np.int64]:
        return self.images.sizes()

    def lazy_image(self, index: int) -> LazyImage:
        return self.images.lazy_image(index)

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> BoxDataset:
        chosen = np.asarray(indices, np.int64)
        return BoxDataset(
            self.images.subset(chosen), self.class_names, self.image_sizes[chosen], self.table.take(chosen)
        )

    def with_channels(self, channels: int) -> BoxDataset:
        if channels == self.channels:
            return self
        changed = copy.copy(self)
        changed.images, changed.channels = self.images.with_channels(channels), channels
        return changed

    def cached(self, side: int, limit: int = CACHE_BYTES) -> BoxDataset:
        """Return the same data set with its images shrunk to `side`, and kept in memory once decoded.

        `boxes` stay in pixels of the whole image. Arguments are those of `effnets.data.dataset.CachedDataset`.
        """
        scale = np.minimum(1.0, side / self.image_sizes.min(axis=1))
        shapes = np.ceil(self.image_sizes[:, ::-1] * scale[:, None]).astype(np.int64)
        changed = copy.copy(self)
        changed.images = CachedDataset(self.images, side, limit, shapes)
        return changed

    def digest(self) -> str:
        """Return a hash of the images' file names, boxes and classes, which identifies the data set once moved."""
        digest = hashlib.sha256(super().digest().encode())
        digest.update("\n".join(self.class_names).encode(errors="surrogateescape"))
        for values in (self.table.ends, self.table.boxes, self.table.labels, self.table.crowd, self.table.difficult):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"BoxDataset({len(self)} images, {len(self.table.labels)} boxes of {len(self.class_names)} classes)"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxSplits(Splits):
    """The splits of a data set with boxes, all with the same class names, without the background.

    Attributes:
        train: to train on.
        val: to choose the best epoch. Shares no image with `train`.
        test: measured once at the end; never selects anything.
        notes: what the user should know: skipped boxes and images, duplicates between splits.
    """

    train: BoxDataset | None
    val: BoxDataset | None
    test: BoxDataset | None


def _rarest(table: BoxTable, classes: int) -> NDArray[np.int64]:
    rank = np.argsort(np.argsort(np.bincount(table.labels - 1, minlength=classes), kind="stable"), kind="stable")
    order = np.argsort(rank)
    counts = table.counts()
    labels = np.zeros(len(counts), np.int64)
    filled = counts > 0
    if filled.any():
        starts = (table.ends - counts)[filled]
        labels[filled] = order[np.minimum.reduceat(rank[table.labels - 1], starts)]
    return labels
