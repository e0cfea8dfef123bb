"""Decoded pictures kept in memory, so that no epoch but the first decodes them. Free of torch."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnets.data.augmentation import Augmentation
from effnets.data.dataset import ImageDataset, Picture
from effnets.errors import ImageError

CACHE_BYTES = 1 << 30


class CachedDataset(ImageDataset):
    """The pictures of another source, shrunk until their shorter side has `side` pixels, and kept once decoded.

    The memory is shared with worker processes that are forked later. Pictures that it has no room for are decoded and
    shrunk anew each time, so that what comes does not depend on what is kept.

    Args:
        source: of the pictures.
        side: in pixels; smaller pictures stay as they are. More than the network's input keeps details for crops.
        limit: bytes of memory at most, 1 GiB by default; 0 keeps nothing.
        shapes: [len, 2]; (height, width) of the shrunk pictures, where they are known.

    Attributes:
        kept: how many pictures, from the first one on, there is room for.
    """

    def __init__(
        self, source: ImageDataset, side: int, limit: int = CACHE_BYTES, shapes: NDArray[np.int64] | None = None
    ) -> None:
        self.source, self.side = source, side
        self.labels, self.class_names = source.labels, source.class_names
        if shapes is None:
            shapes = np.array([_shape(source, index, side) for index in range(len(source))], np.int64).reshape(-1, 2)
        self.shapes = shapes
        ends = np.cumsum(self.shapes.prod(axis=1) * 3)
        self._starts = np.concatenate([[0], ends])
        self.kept = int(np.searchsorted(ends, limit, side="right"))
        # Anonymous and shared: forked workers fill it together, and no limit of /dev/shm applies.
        self._memory = mmap.mmap(-1, max(1, int(self._starts[self.kept]) + self.kept))
        self._pixels = np.frombuffer(self._memory, np.uint8, int(self._starts[self.kept]))
        self._filled = np.frombuffer(self._memory, np.uint8, self.kept, int(self._starts[self.kept]))

    def name(self, index: int) -> str:
        return self.source.name(index)

    def read(self, index: int) -> bytes:
        return self.source.read(index)

    def sizes(self) -> NDArray[np.int64]:
        return self.source.sizes()

    def picture(self, index: int) -> Picture:
        height, width = (int(side) for side in self.shapes[index])
        if not height:  # its header is broken; decoding says how
            return self.source.picture(index)
        if index >= self.kept:
            return DecodedPicture(self._shrunk(index, width, height))
        place = self._pixels[self._starts[index] : self._starts[index + 1]].reshape(height, width, 3)
        if not self._filled[index]:
            place[:] = np.asarray(self._shrunk(index, width, height))
            self._filled[index] = 1  # after the pixels: two processes may write the same ones, none reads half of them
        return DecodedPicture(Image.fromarray(place))

    def _shrunk(self, index: int, width: int, height: int) -> Image.Image:
        picture = self.source.picture(index)
        spare = min(picture.size()) / self.side
        image = picture.decode(reduce=max(power for power in (1, 2, 4, 8) if power == 1 or power <= spare))
        return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)

    def __reduce__(self) -> tuple[object, ...]:
        # A worker that is not forked begins with nothing kept.
        return CachedDataset, (self.source, self.side, int(self._starts[self.kept]), self.shapes)


def cache_all(source: ImageDataset, side: int, limit: int = CACHE_BYTES) -> CachedDataset | None:
    """A `CachedDataset` that has room for all pictures of `source`; None where `limit` bytes are too few.

    No more headers are read than it takes to know.
    """
    shapes, room = np.zeros((len(source), 2), np.int64), limit
    for index in range(len(source)):
        shapes[index] = _shape(source, index, side)
        room -= 3 * int(shapes[index].prod())
        if room < 0:
            return None
    return CachedDataset(source, side, limit, shapes)


# Below, the smallest crops would be enlarged to the input's size, and blurred.
_MAX_SPARE = 2.0


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


@dataclass(frozen=True, slots=True)
class DecodedPicture:
    """A picture in memory."""

    image: Image.Image

    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.image.size

    def decode(self, reduce: int = 1) -> Image.Image:  # noqa: ARG002 (nothing would be faster)
        """The picture as it is."""
        return self.image


def _shape(source: ImageDataset, index: int, side: int) -> tuple[int, int]:
    """(height, width) of a picture that is shrunk to `side`; zeros where its header is broken."""
    try:
        width, height = source.picture(index).size()
    except ImageError:
        return 0, 0
    scale = min(1.0, side / min(width, height))
    return math.ceil(height * scale), math.ceil(width * scale)
