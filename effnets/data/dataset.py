"""Pictures with labels: what every kind of data set is brought to. Free of torch."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnets.inference.image import decode_rgb, image_size


class Picture(Protocol):
    """A picture whose size is known before it is decoded."""

    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, upright."""
        ...

    def decode(self, reduce: int = 1) -> Image.Image:
        """The picture, RGB and upright.

        Args:
            reduce: 2, 4 or 8 allows it to come at no less than that part of its size, if that is faster.

        Raises:
            ImageError: it is unreadable; the message names it.
        """
        ...


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """The content of a picture's file."""

    data: bytes
    name: str

    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, upright, as the header states them."""
        return image_size(self.data, self.name)

    def decode(self, reduce: int = 1) -> Image.Image:
        """The picture, RGB and upright; a JPEG comes reduced."""
        return decode_rgb(self.data, self.name, reduce=reduce)


class ImageDataset(ABC):
    """Pictures with labels that can be had in any order.

    Attributes:
        class_names: of all classes, in the order of the network's outputs.
        labels: [len]; each picture's index into `class_names`.
        shards: [len]; the file that each picture lies in, as a number, where few of these can be read from at a time;
            None where any picture is as near as any other.
    """

    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    shards: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def name(self, index: int) -> str:
        """Path or key of a picture, for messages and reports."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The picture's file as it is stored.

        Raises:
            ImageError: it cannot be read.
        """

    @abstractmethod
    def sizes(self) -> NDArray[np.int64]:
        """[len]; bytes of every picture's file, had without reading the files where that can be."""

    def picture(self, index: int) -> Picture:
        """The picture, of which nothing is decoded yet.

        Raises:
            ImageError: it cannot be read.
        """
        return EncodedPicture(self.read(index), self.name(index))

    def image(self, index: int) -> Image.Image:
        """The picture, RGB and upright.

        Raises:
            ImageError: it is unreadable; the message names it.
        """
        return self.picture(index).decode()

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> ImageDataset:
        """The pictures at `indices` only, in their order."""
        return Subset(self, np.asarray(indices, np.int64))

    def digest(self) -> str:
        """Which pictures these are, as a hash of their file names and labels: the whole may lie elsewhere by now."""
        digest = hashlib.sha256(np.ascontiguousarray(self.labels).tobytes())
        for index in range(len(self)):
            name = self.name(index).replace("\\", "/").rpartition("/")[2]  # of millions, Path would take long
            digest.update(f"\n{name}".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} pictures, {len(self.class_names)} classes)"


class Subset(ImageDataset):
    """Some pictures of another source.

    Args:
        origin: the other source.
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

    def picture(self, index: int) -> Picture:
        return self.origin.picture(int(self.indices[index]))

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> ImageDataset:
        return Subset(self.origin, self.indices[np.asarray(indices, np.int64)])
