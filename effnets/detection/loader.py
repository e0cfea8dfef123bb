"""Batches of training images with boxes, prepared in this process or in workers. Knows torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Unpack

import torch
from torch import Tensor

from effnets.data.dataset import CACHE_BYTES, LazyImage
from effnets.data.loader import BatchDataset, BatchLoader, BatchLoaderSettings, BatchResult
from effnets.detection.dataset import BoxDataset
from effnets.detection.transforms import BoxSample, DetectionTransform
from effnets.inference.arrays import size_of

# Images are kept at up to so many sides of the input: crops of them are enlarged no more than needed.
SPARE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxBatch:
    """Some images with boxes, as torchvision's detectors take them.

    Attributes:
        number: of the global micro-batch within its epoch, from 0.
        images: float32 [3, H, W] in 0..1 each, not normalized.
        targets: of each image, ``boxes``, float32 [n, 4], x1, y1, x2, y2 in its pixels, and ``labels``, int64 [n], from
            1. Images may be without boxes.
        indices: int64 [N], on the CPU; into the data set.
    """

    number: int
    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    indices: Tensor


class PackedSamples(NamedTuple):
    """Samples in few tensors, since each one that a worker sends takes a file descriptor.

    Attributes:
        pixels: uint8; those of all images, one after the other.
        sizes: int64 [N, 3]; height, width and number of boxes.
        boxes: float32 [M, 4]. labels: int64 [M].
    """

    pixels: Tensor
    sizes: Tensor
    boxes: Tensor
    labels: Tensor

    def unpack(self) -> list[BoxSample]:
        """Return the samples."""
        samples = []
        pixel = row = 0
        for height, width, count in self.sizes.tolist():
            end = pixel + 3 * height * width
            image = self.pixels[pixel:end].reshape(3, height, width)
            samples.append(BoxSample(image, self.boxes[row : row + count], self.labels[row : row + count]))
            pixel, row = end, row + count
        return samples


class BoxBatches(BatchDataset):
    """Prepares batches of images with boxes; those around groups are left out.

    Args:
        dataset: of the images.
        transform: of images and boxes.
        seed: of everything random.
    """

    def __init__(self, dataset: BoxDataset, transform: DetectionTransform, seed: int) -> None:
        super().__init__(dataset, seed)
        self.boxes, self.transform = dataset, transform

    def _sample(self, index: int, image: LazyImage, key: tuple[int, ...]) -> BoxSample:
        pixels = image.decode()
        taken = ~self.boxes.crowd(index)
        boxes = self.boxes.boxes(index)[taken] * self.boxes.scale(index, size_of(pixels))
        return self.transform(pixels, boxes, self.boxes.box_labels(index)[taken], key)

    def _collate(self, samples: list[BoxSample]) -> PackedSamples:
        sizes = [(*sample.image.shape[-2:], len(sample.labels)) for sample in samples]
        return PackedSamples(
            torch.cat([sample.image.flatten() for sample in samples] or [torch.zeros(0, dtype=torch.uint8)]),
            torch.tensor(sizes, dtype=torch.int64).reshape(-1, 3),
            torch.cat([sample.boxes for sample in samples] or [torch.zeros(0, 4)]),
            torch.cat([sample.labels for sample in samples] or [torch.zeros(0, dtype=torch.int64)]),
        )


class BoxLoader(BatchLoader[BoxBatch]):
    """Batches of images with boxes; see `effnets.data.loader.BatchLoader`.

    Images of more than twice the input's size are shrunk to that beforehand, and kept in memory as far as they fit.

    Args:
        dataset: the images.
        transform: of images and boxes.
        seed: of order and augmentation.
        cache_bytes: of memory for decoded images; 0 keeps none. Batches do not depend on it.
        settings: as of `BatchLoader`.
    """

    def __init__(
        self,
        dataset: BoxDataset,
        transform: DetectionTransform,
        *,
        seed: int = 0,
        cache_bytes: int = CACHE_BYTES,
        **settings: Unpack[BatchLoaderSettings],
    ) -> None:
        cached = dataset.cached(math.ceil(SPARE * max(transform.size)), cache_bytes)
        super().__init__(BoxBatches(cached, transform, seed), **settings)

    def _finish(self, result: BatchResult, epoch: int, number: int) -> BoxBatch:  # noqa: ARG002 (nothing is mixed)
        pixels, sizes, boxes, labels = result.samples
        moved = (part.to(self.device, non_blocking=True) for part in (boxes, labels))
        samples = PackedSamples(pixels.to(self.device, non_blocking=True), sizes, *moved).unpack()
        return BoxBatch(
            number=number,
            images=[sample.image.to(torch.float32).div_(255) for sample in samples],
            targets=[{"boxes": sample.boxes, "labels": sample.labels} for sample in samples],
            indices=torch.from_numpy(result.indices),
        )
