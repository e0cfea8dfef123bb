"""Labeled images, the common form of every kind of data set, and decoded ones kept in memory. Free of torch."""

from __future__ import annotations

import copy
import hashlib
import math
import mmap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnets.data.augmentation import Augmentation
from effnets.errors import ImageError
from effnets.inference.arrays import COLOR_MODES, Pixels, resize, size_of
from effnets.inference.image import decode_image, image_size

CACHE_BYTES = 1 << 30
# Below, the smallest crops would be enlarged to the input's size, and blurred.
_MAX_SPARE = 2.0


class LazyImage(Protocol):
    """An image whose size is known before it is decoded."""

    def size(self) -> tuple[int, int]:
        """Return (width, height) in pixels, upright."""
        ...

    def decode(self, min_side: float | None = None) -> Pixels:
        """Decode the image, upright and in the data set's channels: a PIL image, or planes [H, W, C].

        Args:
            min_side: as of `effnets.inference.image.decode_image`.

        Raises:
            ImageError: if it is unreadable; the message names it.
        """
        ...


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """The content of an image file, and the channels in which it is decoded; None for its own."""

    data: bytes
    name: str
    channels: int | None = 3

    def size(self) -> tuple[int, int]:
        """Return (width, height) in pixels, upright, as stated by the header."""
        return image_size(self.data, self.name, self.channels or 3)

    def decode(self, min_side: float | None = None) -> Pixels:
        """Decode the image, upright; only JPEGs are reduced."""
        return decode_image(self.data, self.name, self.channels, min_side=min_side)


class ImageDataset(ABC):
    """Labeled images with random access.

    Attributes:
        kind: how the images are stored, in words.
        class_names: of all classes, in the order of the network's outputs.
        labels: [len]; each image's index into `class_names`.
        targets: [len, C] float32, where an image has any number of labels, which `class_names` are then: 1, 0, or NaN
            where it is unknown. `labels` are then the rarest that each image has, for samplers and draws.
        shards: [len]; the number of the file that holds each image, if the data set is streamed: random access fetches
            that whole file. None if random access is cheap.
        channels: in which images are decoded, as of `effnets.inference.image.load_image`.
    """

    channels: int = 3
    kind: ClassVar[str] = "images"
    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    targets: NDArray[np.float32] | None = None
    shards: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the path or key of an image, for messages and reports."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Read an image's file as it is stored.

        Raises:
            ImageError: if it cannot be read.
        """

    def sizes(self) -> NDArray[np.int64]:
        """Return the bytes of every image's file, [len], if possible without reading the files; 0 if unreadable."""
        return np.fromiter(map(self._bytes_of, range(len(self))), np.int64, len(self))

    def _bytes_of(self, index: int) -> int:
        try:
            return len(self.read(index))
        except ImageError:
            return 0

    def lazy_image(self, index: int) -> LazyImage:
        """Read an image without decoding it.

        Raises:
            ImageError: if it cannot be read.
        """
        return EncodedImage(self.read(index), self.name(index), self.channels)

    def image(self, index: int) -> Pixels:
        """Read and decode an image; raises an ImageError as `LazyImage.decode`."""
        return self.lazy_image(index).decode()

    @contextmanager
    def holding(self, shard: int, folder: Path) -> Iterator[None]:  # noqa: ARG002 (local files are at hand)
        """Hold one of `shards` in `folder` while its images are read, if it is not on this machine."""
        yield

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> ImageDataset:
        """Return the images at `indices`, in their order."""
        return Subset(self, np.asarray(indices, np.int64))

    def with_channels(self, channels: int) -> ImageDataset:
        """Return the same images, decoded in so many channels."""
        if channels == self.channels:
            return self
        changed = copy.copy(self)
        changed.channels = channels
        return changed

    def digest(self) -> str:
        """Return a hash of the images' file names and labels, which identifies the data set after it has moved."""
        digest = hashlib.sha256(np.ascontiguousarray(self.labels).tobytes())
        if self.targets is not None:
            digest.update(np.nan_to_num(self.targets, nan=-1.0).astype(np.int8).tobytes())
        for index in range(len(self)):
            name = self.name(index).replace("\\", "/").rpartition("/")[2]  # Path would be slow for millions
            digest.update(f"\n{name}".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images, {len(self.class_names)} classes)"


class Subset(ImageDataset):
    """Some images of another data set, `origin`: those at `indices`, [len]."""

    def __init__(self, origin: ImageDataset, indices: NDArray[np.int64]) -> None:
        self.origin, self.indices = origin, indices
        self.class_names, self.labels, self.channels = origin.class_names, origin.labels[indices], origin.channels
        self.targets = None if origin.targets is None else origin.targets[indices]
        self.shards = None if origin.shards is None else origin.shards[indices]

    def name(self, index: int) -> str:
        return self.origin.name(int(self.indices[index]))

    def read(self, index: int) -> bytes:
        return self.origin.read(int(self.indices[index]))

    def sizes(self) -> NDArray[np.int64]:
        return self.origin.sizes()[self.indices]

    def lazy_image(self, index: int) -> LazyImage:
        return self.origin.lazy_image(int(self.indices[index]))

    @contextmanager
    def holding(self, shard: int, folder: Path) -> Iterator[None]:
        with self.origin.holding(shard, folder):
            yield

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> ImageDataset:
        return Subset(self.origin, self.indices[np.asarray(indices, np.int64)])

    def with_channels(self, channels: int) -> ImageDataset:
        return self if channels == self.channels else Subset(self.origin.with_channels(channels), self.indices)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image in memory."""

    image: Pixels

    def size(self) -> tuple[int, int]:
        """Return (width, height) in pixels."""
        return size_of(self.image)

    def decode(self, min_side: float | None = None) -> Pixels:  # noqa: ARG002 (nothing would be faster)
        """Return the image as it is."""
        return self.image


class CachedDataset(Subset):
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
        super().__init__(origin, np.arange(len(origin)))
        self.side, self.shards = side, None
        if shapes is None:
            shapes = np.array([_shape(origin, index, side) for index in range(len(origin))], np.int64).reshape(-1, 2)
        self.shapes = shapes
        ends = np.cumsum(self.shapes.prod(axis=1) * _bytes_a_pixel(origin))
        self._starts = np.concatenate([[0], ends])
        self.kept = int(np.searchsorted(ends, limit, side="right"))
        # Anonymous and shared: forked workers fill it together, and no limit of /dev/shm applies.
        self._memory = mmap.mmap(-1, max(1, int(self._starts[self.kept]) + self.kept))
        self._pixels = np.frombuffer(self._memory, np.uint8, int(self._starts[self.kept]))
        self._filled = np.frombuffer(self._memory, np.uint8, self.kept, int(self._starts[self.kept]))

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> ImageDataset:
        return Subset(self, np.asarray(indices, np.int64))

    def lazy_image(self, index: int) -> LazyImage:
        height, width = (int(side) for side in self.shapes[index])
        if not height:  # its header is corrupt; decoding raises the error
            return self.origin.lazy_image(index)
        if index >= self.kept:
            return DecodedImage(self._shrunk(index, width, height))
        is_picture = self.channels in COLOR_MODES
        place: NDArray[Any] = self._pixels[self._starts[index] : self._starts[index + 1]]
        place = place.view(np.uint8 if is_picture else np.float32).reshape(height, width, self.channels)
        if not self._filled[index]:
            place[:] = np.asarray(self._shrunk(index, width, height)).reshape(place.shape)
            self._filled[index] = 1  # after the pixels: two processes may write the same ones, none reads half of them
        if not is_picture:
            return DecodedImage(place.astype(np.float32, copy=False))
        return DecodedImage(Image.fromarray(place[..., 0] if self.channels == 1 else place))

    def _shrunk(self, index: int, width: int, height: int) -> Pixels:
        stored = self.origin.lazy_image(index)
        image = stored.decode(min_side=self.side)
        return image if size_of(image) == (width, height) else resize(image, (width, height), Image.Resampling.BICUBIC)

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
        room -= _bytes_a_pixel(origin) * int(shapes[index].prod())
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


def _bytes_a_pixel(dataset: ImageDataset) -> int:
    return dataset.channels * (1 if dataset.channels in COLOR_MODES else np.dtype(np.float32).itemsize)


def _shape(origin: ImageDataset, index: int, side: int) -> tuple[int, int]:
    """Return (height, width) of an image shrunk to `side`; zeros if its header is corrupt."""
    try:
        width, height = origin.lazy_image(index).size()
    except ImageError:
        return 0, 0
    scale = min(1.0, side / min(width, height))
    return math.ceil(height * scale), math.ceil(width * scale)
