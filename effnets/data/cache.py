"""Decoded images kept in memory, so that only the first epoch decodes them. Free of torch."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnets.data.augmentation import Augmentation
from effnets.data.dataset import ImageDataset, LazyImage
from effnets.errors import ImageError

CACHE_BYTES = 1 << 30
# Below, the smallest crops would be enlarged to the input's size, and blurred.
_MAX_SPARE = 2.0


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image in memory."""

    image: Image.Image

    def size(self) -> tuple[int, int]:
        """Return (width, height) in pixels."""
        return self.image.size

    def decode(self, reduce: int = 1) -> Image.Image:  # noqa: ARG002 (nothing would be faster)
        """Return the image as it is."""
        return self.image


class CachedDataset(ImageDataset):
    """The images of another data set, shrunk until their shorter side has `side` pixels, and kept once decoded.

    The memory is shared with worker processes that are forked later. Images that do not fit are decoded and shrunk
    each time, so that results do not depend on what is kept.

    Args:
        origin: the other data set.
        side: in pixels; smaller images stay as they are. More than the network's input keeps details for crops.
        limit: bytes of memory at most, 1 GiB by default; 0 keeps nothing.
        shapes: [len, 2]; (height, width) of the shrunk images, if known.

    Attributes:
        kept: how many images fit, counted from the first one.
    """

    def __init__(
        self, origin: ImageDataset, side: int, limit: int = CACHE_BYTES, shapes: NDArray[np.int64] | None = None
    ) -> None:
        self.origin, self.side = origin, side
        self.labels, self.class_names = origin.labels, origin.class_names
        if shapes is None:
            shapes = np.array([_shape(origin, index, side) for index in range(len(origin))], np.int64).reshape(-1, 2)
        self.shapes = shapes
        ends = np.cumsum(self.shapes.prod(axis=1) * 3)
        self._starts = np.concatenate([[0], ends])
        self.kept = int(np.searchsorted(ends, limit, side="right"))
        # Anonymous and shared: forked workers fill it together, and no limit of /dev/shm applies.
        self._memory = mmap.mmap(-1, max(1, int(self._starts[self.kept]) + self.kept))
        self._pixels = np.frombuffer(self._memory, np.uint8, int(self._starts[self.kept]))
        self._filled = np.frombuffer(self._memory, np.uint8, self.kept, int(self._starts[self.kept]))

    def name(self, index: int) -> str:
        return self.origin.name(index)

    def read(self, index: int) -> bytes:
        return self.origin.read(index)

    def sizes(self) -> NDArray[np.int64]:
        return self.origin.sizes()

    def lazy_image(self, index: int) -> LazyImage:
        height, width = (int(side) for side in self.shapes[index])
        if not height:  # its header is corrupt; decoding raises the error
            return self.origin.lazy_image(index)
        if index >= self.kept:
            return DecodedImage(self._shrunk(index, width, height))
        place = self._pixels[self._starts[index] : self._starts[index + 1]].reshape(height, width, 3)
        if not self._filled[index]:
            place[:] = np.asarray(self._shrunk(index, width, height))
            self._filled[index] = 1  # after the pixels: two processes may write the same ones, none reads half of them
        return DecodedImage(Image.fromarray(place))

    def _shrunk(self, index: int, width: int, height: int) -> Image.Image:
        stored = self.origin.lazy_image(index)
        spare = min(stored.size()) / self.side
        image = stored.decode(reduce=max(power for power in (1, 2, 4, 8) if power == 1 or power <= spare))
        return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)

    def __reduce__(self) -> tuple[object, ...]:
        # A worker that is not forked starts with an empty cache.
        return CachedDataset, (self.origin, self.side, int(self._starts[self.kept]), self.shapes)


def cache_all(origin: ImageDataset, side: int, limit: int = CACHE_BYTES) -> CachedDataset | None:
    """Return a `CachedDataset` that has room for all images of `origin`; None if they need more than `limit` bytes.

    Stops reading headers as soon as the limit is exceeded.
    """
    shapes, room = np.zeros((len(origin), 2), np.int64), limit
    for index in range(len(origin)):
        shapes[index] = _shape(origin, index, side)
        room -= 3 * int(shapes[index].prod())
        if room < 0:
            return None
    return CachedDataset(origin, side, limit, shapes)


def cache_decoded(
    train: ImageDataset,
    augmentation: Augmentation,
    size: int,
    *,
    mode: Literal["auto", "none"] = "auto",
    cached: bool | None = None,
    limit: int = CACHE_BYTES,
) -> ImageDataset:
    """Return the training images, shrunk and kept in memory if that is allowed and all of them fit.

    Crops of shrunk images differ a little from those of whole ones, so a resumed run does what it did before.

    Args:
        train: the images.
        augmentation: of the images; crops must be ``resized``.
        size: of the model's input in pixels.
        mode: of the recipe: ``none`` forbids it.
        cached: whether they were in a run that is resumed, whatever the mode; None decides.
        limit: bytes of memory for all of them, in each training process.
    """
    side = math.ceil(min(1 / math.sqrt(augmentation.scale[0]), _MAX_SPARE) * size)
    if cached is None:
        # Reading all headers of shards on a server would fetch everything.
        allowed = mode == "auto" and augmentation.crop == "resized" and train.shards is None
        return (cache_all(train, side, limit) if allowed else None) or train
    return CachedDataset(train, side, limit) if cached else train


def _shape(origin: ImageDataset, index: int, side: int) -> tuple[int, int]:
    """Return (height, width) of an image shrunk to `side`; zeros if its header is corrupt."""
    try:
        width, height = origin.lazy_image(index).size()
    except ImageError:
        return 0, 0
    scale = min(1.0, side / min(width, height))
    return math.ceil(height * scale), math.ceil(width * scale)
