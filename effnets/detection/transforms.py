"""Training transform of detectors: images and their boxes together. Knows torch and torchvision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat
from torchvision.tv_tensors import Image as ImageTensor

from effnets.data.detection_augmentation import DetectionAugmentation
from effnets.data.sampling import seeded
from effnets.errors import ArgumentError
from effnets.inference.arrays import Pixels
from effnets.utils.arguments import check_integer, check_size

Fit = Literal["stretch", "shorter"]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_LEAST_SIDE = 8  # of a part of fewer pixels nothing would be left
# Of SSD, and a crop that is the whole image.
_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


class BoxSample(NamedTuple):
    """An image, uint8 [3, H, W], with its boxes, float32 [n, 4] in pixels, and their classes, int64 [n], from 1."""

    image: Tensor
    boxes: Tensor
    labels: Tensor


class DetectionTransform:
    """Augments images with boxes into training samples of the detector's input size.

    The resize is the one of torchvision's detectors, bilinear without antialiasing, so that they are trained on what
    they see later. Random draws for a sample are a function of its key only.

    Args:
        size: side of the square output, or its (height, width), in pixels; with ``shorter``, a side.
        fit: "stretch": to this size, whatever the aspect ratio, as SSD; "shorter": until the shorter side has it, the
            aspect ratio kept, as Faster R-CNN and RetinaNet.
        max_size: of the longer side with ``shorter``; by default 1333 / 800 of `size`, as in torchvision.
        augmentation: its settings.
        fill: color around an image on a larger canvas, in 0..1; the mean of the weights.

    Raises:
        ArgumentError: if an argument is out of its range.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        *,
        fit: Fit = "stretch",
        max_size: int | None = None,
        augmentation: DetectionAugmentation | None = None,
        fill: Sequence[float] = _IMAGENET_MEAN,
    ) -> None:
        if fit not in get_args(Fit):
            raise ArgumentError(f"fit is {fit!r}; choose one of {', '.join(get_args(Fit))}")
        height, width = check_size(size)
        if fit == "shorter" and height != width:
            raise ArgumentError(f"size is {size!r}; the shorter side is one number")
        self.size, self.fit = (height, width), fit
        self.max_size = check_integer("max_size", max_size or round(height * 1333 / 800), 1, "give pixels, from 1")
        self.augmentation = augmentation or DetectionAugmentation()
        self._changes = self._compose([round(255 * value) for value in fill])

    def __call__(
        self, image: Pixels, boxes: NDArray[np.float32], labels: NDArray[np.int64], key: tuple[int, ...]
    ) -> BoxSample:
        """Return an augmented sample.

        Args:
            image: of mode "RGB".
            boxes: [n, 4]; x1, y1, x2, y2 in its pixels.
            labels: [n]; from 1.
            key: integers that seed everything random: (stream, seed, epoch, index, …).
        """
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        canvas: Any = BoundingBoxes(
            torch.from_numpy(np.array(boxes, np.float32)),
            format=BoundingBoxFormat.XYXY,
            canvas_size=tuple(pixels.shape[-2:]),
        )
        sample = {"image": ImageTensor(pixels), "boxes": canvas, "labels": torch.from_numpy(np.array(labels))}
        with seeded(*key):
            for change in self._changes:
                sample = change(sample)
        return BoxSample(sample["image"].as_subclass(Tensor), sample["boxes"].as_subclass(Tensor), sample["labels"])

    def _compose(self, fill: list[int]) -> tuple[Callable[[Any], Any], ...]:
        settings, changes = self.augmentation, list[Callable[[Any], Any]]()
        if settings.zoom_out:
            scales = (1.0, max(settings.zoom_out_scale, 1.0))
            changes.append(v2.RandomZoomOut({ImageTensor: fill, "others": 0}, scales, settings.zoom_out))
        if settings.crop:
            crop = v2.RandomIoUCrop(*settings.crop_scale, *settings.crop_ratio, sampler_options=list(_OVERLAPS))
            changes.append(_WithBoxes(v2.RandomApply([crop], settings.crop)))
        if settings.horizontal_flip:
            changes.append(v2.RandomHorizontalFlip(settings.horizontal_flip))
        if settings.vertical_flip:
            changes.append(v2.RandomVerticalFlip(settings.vertical_flip))
        size, longest = (self.size, None) if self.fit == "stretch" else (self.size[0], self.max_size)
        changes.append(v2.Resize(size, max_size=longest, antialias=False))
        changes.append(v2.ClampBoundingBoxes())  # of rounding, for which the next would remove them
        changes.append(v2.SanitizeBoundingBoxes(min_size=settings.min_box))
        # Last, since the fewest pixels are left then.
        for color in ("brightness", "contrast", "saturation", "hue"):
            if settings.distortion and (strength := getattr(settings, color)):
                changes.append(v2.RandomApply([v2.ColorJitter(**{color: strength})], settings.distortion))
        return tuple(changes)

    def __repr__(self) -> str:
        height, width = self.size
        size = f"{height}×{width}" if self.fit == "stretch" else f"shorter side {height}, longer up to {self.max_size}"
        return f"DetectionTransform({size}, {self.augmentation})"


class _WithBoxes:
    """A crop of images that have boxes: in others `RandomIoUCrop` would look for one for a long time."""

    def __init__(self, change: Callable[[Any], Any]) -> None:
        self.change = change

    def __call__(self, sample: Any) -> Any:
        is_croppable = len(sample["boxes"]) and min(sample["image"].shape[-2:]) >= _LEAST_SIDE
        return self.change(sample) if is_croppable else sample
