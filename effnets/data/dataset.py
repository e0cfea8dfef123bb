"""Labeled images, the common form of every kind of data set. Free of torch."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnets.inference.image import decode_rgb, image_size


class LazyImage(Protocol):
    """An image whose size is known before it is decoded."""

    def size(self) -> tuple[int, int]:
        """Return (width, height) in pixels, upright."""
        ...

    def decode(self, reduce: int = 1) -> Image.Image:
        """Decode the image, RGB and upright.

        Args:
            reduce: 2, 4 or 8 allows a faster decoder to return the image at that fraction of its size or more.

        Raises:
            ImageError: if it is unreadable; the message names it.
        """
        ...


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """The content of an image file."""

    data: bytes
    name: str

    def size(self) -> tuple[int, int]:
        """Return (width, height) in pixels, upright, as stated by the header."""
        return image_size(self.data, self.name)

    def decode(self, reduce: int = 1) -> Image.Image:
        """Decode the image, RGB and upright; only JPEGs are reduced."""
        return decode_rgb(self.data, self.name, reduce=reduce)


class ImageDataset(ABC):
    """Labeled images with random access.

    Attributes:
        class_names: of all classes, in the order of the network's outputs.
        labels: [len]; each image's index into `class_names`.
        shards: [len]; the number of the file that holds each image, if the data set is streamed: random access fetches
            that whole file. None if random access is cheap.
    """

    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
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

    @abstractmethod
    def sizes(self) -> NDArray[np.int64]:
        """Return the bytes of every image's file, [len], if possible without reading the files."""

    def lazy_image(self, index: int) -> LazyImage:
        """Read an image without decoding it.

        Raises:
            ImageError: if it cannot be read.
        """
        return EncodedImage(self.read(index), self.name(index))

    def image(self, index: int) -> Image.Image:
        """Read and decode an image, RGB and upright.

        Raises:
            ImageError: if it is unreadable; the message names it.
        """
        return self.lazy_image(index).decode()

    @contextmanager
    def holding(self, shard: int, folder: Path) -> Iterator[None]:  # noqa: ARG002 (local files are at hand)
        """Hold one of `shards` in `folder` while its images are read, if it is not on this machine."""
        yield

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> ImageDataset:
        """Return the images at `indices`, in their order."""
        return Subset(self, np.asarray(indices, np.int64))

    def digest(self) -> str:
        """Return a hash of the images' file names and labels, which identifies the data set after it has moved."""
        digest = hashlib.sha256(np.ascontiguousarray(self.labels).tobytes())
        for index in range(len(self)):
            name = self.name(index).replace("\\", "/").rpartition("/")[2]  # Path would be slow for millions
            digest.update(f"\n{name}".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images, {len(self.class_names)} classes)"


class Subset(ImageDataset):
    """Some images of another data set.

    Args:
        origin: the other data set.
        indices: [len]; into `origin`.
    """

    def __init__(self, origin: ImageDataset, indices: NDArray[np.int64]) -> None:
        self.origin, self.indices = origin, indices
        self.class_names, self.labels = origin.class_names, origin.labels[indices]
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
