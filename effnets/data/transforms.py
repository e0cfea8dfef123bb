"""Training transform: crop, flip, colors, erasing, mixing. Knows torch and torchvision."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from effnets.data.augmentation import Augmentation
from effnets.data.dataset import LazyImage
from effnets.data.sampling import seeded
from effnets.inference.arrays import COLOR_MODES, Pixels, resize, size_of
from effnets.inference.image import color_mode, crop_box
from effnets.spec.specs import PreprocessSpec
from effnets.utils.arguments import check_size

_CROP_ATTEMPTS = 10


class TrainTransform:
    """Augments images into training samples, uint8 tensors [C, H, W] that are still to be normalized.

    Their memory format is [H, W, C], as Pillow's: a stack of them is channels_last without a copy. Samples of 2 or more
    than 4 channels are float32, and normalized.

    Random draws for a sample are a function of its key only.

    Args:
        preprocess: of the weights: interpolation, mean (the color of erased parts), std.
        size: side of the square output, or its (height, width), in pixels; by default that of the weights.
        augmentation: its settings; those that images of so many channels cannot have do nothing.
        channels: of the images.
    """

    def __init__(
        self,
        preprocess: PreprocessSpec,
        size: int | tuple[int, int] | None = None,
        augmentation: Augmentation | None = None,
        channels: int = 3,
    ) -> None:
        self.preprocess, self.channels = preprocess.for_channels(channels), channels
        self.height, self.width = check_size(preprocess.input_size if size is None else size)
        self.augmentation, _ = (augmentation or Augmentation()).for_channels(channels)
        self._resample = Image.Resampling[preprocess.interpolation.upper()]
        mean = self.preprocess.mean
        color = [round(255 * value) for value in mean] if channels in COLOR_MODES else list(mean)
        self._on_images = _on_images(self.augmentation, color, channels)
        self._erase = v2.RandomErasing(self.augmentation.random_erasing, value=[float(value) for value in color])

    def __call__(self, stored: LazyImage, key: tuple[int, ...]) -> Tensor:
        """Return an augmented sample, [C, H, W].

        Args:
            stored: the image.
            key: integers that seed everything random: (stream, seed, epoch, index, …).

        Raises:
            ImageError: if the image is unreadable.
        """
        with seeded(*key):
            sample: Any = self._crop(stored)
            if self.channels not in (1, 3):  # Torchvision knows these as tensors alone.
                sample = _to_tensor(sample)
            for change in self._on_images:
                sample = change(sample)
            sample = sample if isinstance(sample, Tensor) else _to_tensor(sample)
            if self.augmentation.random_erasing:
                sample = self._erase(sample)
            return sample if sample.dtype == torch.uint8 else self._normalize(sample)

    def _normalize(self, sample: Tensor) -> Tensor:
        mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (self.preprocess.mean, self.preprocess.std))
        return sample.sub(mean).div(std)

    def mixing(self, classes: int) -> v2.Transform | None:
        """Return a transform that mixes a batch [N, C, H, W] and makes targets [N, classes]; None for no mixing."""
        kinds = ((v2.MixUp, self.augmentation.mixup), (v2.CutMix, self.augmentation.cutmix))
        choices = [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha]
        return v2.RandomChoice(choices) if len(choices) == 2 else next(iter(choices), None)

    def _crop(self, stored: LazyImage) -> Pixels:
        if self.augmentation.crop == "resized":
            return self._resized_crop(stored)
        image = stored.decode()
        width, height = size_of(image)
        scale = max(self.width / width, self.height / height)
        box = crop_box(size_of(image), self.width / scale, self.height / scale)
        image = resize(image, (self.width, self.height), self._resample, box)
        if self.augmentation.crop == "center":
            return image
        padding, pixels = self.augmentation.padding, np.asarray(image)
        pixels = np.pad(pixels, ((padding, padding), (padding, padding), (0, 0))[: pixels.ndim], mode="reflect")
        top, left = (int(torch.randint(2 * padding + 1, ())) for _ in range(2))
        pixels = pixels[top : top + self.height, left : left + self.width]
        return Image.fromarray(pixels) if isinstance(image, Image.Image) else pixels

    def _resized_crop(self, stored: LazyImage) -> Pixels:
        """Choose the crop first, so that a large JPEG is decoded no larger than needed."""
        width, height = stored.size()
        left, top, right, bottom = self._random_box(width, height)
        spare = min((right - left) / self.width, (bottom - top) / self.height)
        image = stored.decode(min_side=min(width, height) / spare)
        width_here, height_here = size_of(image)
        across, down = width_here / width, height_here / height
        box = crop_box(
            (width_here, height_here), (right - left) * across, (bottom - top) * down, left * across, top * down
        )
        return resize(image, (self.width, self.height), self._resample, box)

    def _random_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Draw a crop by share of the area and aspect ratio (Szegedy et al. 2015, arXiv:1409.4842, section 6)."""
        augmentation = self.augmentation
        target = self.width / self.height
        for _ in range(_CROP_ATTEMPTS):
            share, ratio, right, down = torch.rand(4, dtype=torch.float64).tolist()
            area = width * height * _between(augmentation.scale, share)
            aspect = target * math.exp(
                _between((math.log(augmentation.ratio[0]), math.log(augmentation.ratio[1])), ratio)
            )
            crop_width, crop_height = math.sqrt(area * aspect), math.sqrt(area / aspect)
            if crop_width <= width and crop_height <= height:
                left, top = right * (width - crop_width), down * (height - crop_height)
                return crop_box((width, height), crop_width, crop_height, left, top)
        low, high = (target * limit for limit in augmentation.ratio)
        return crop_box((width, height), min(width, height * high), min(height, width / low))

    def __repr__(self) -> str:
        channels = "" if self.channels == 3 else f"{color_mode(self.channels)}, "
        return f"TrainTransform({self.height}×{self.width}, {channels}{self.augmentation})"


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + share * (limits[1] - limits[0])


def _to_tensor(image: Pixels) -> Tensor:
    """Return an image as [C, H, W], with the memory format [H, W, C]."""
    array = np.array(image)
    return torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)


@dataclass(frozen=True, slots=True)
class _OnColors:
    """A change of the first three of four channels, [4, H, W]."""

    change: Callable[[Tensor], Tensor]

    def __call__(self, sample: Tensor) -> Tensor:
        return torch.cat([self.change(sample[:3]), sample[3:]])


def _as_is(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return change


def _on_images(augmentation: Augmentation, fill: Sequence[float], channels: int) -> tuple[Callable[[Any], Any], ...]:
    changes: list[Callable[[Any], Any]] = []
    if augmentation.horizontal_flip:
        changes.append(v2.RandomHorizontalFlip(augmentation.horizontal_flip))
    if augmentation.vertical_flip:
        changes.append(v2.RandomVerticalFlip(augmentation.vertical_flip))
    if augmentation.rotation:
        changes.append(v2.RandomRotation(augmentation.rotation, v2.InterpolationMode.BILINEAR, fill=fill))
    match augmentation.policy:
        case "randaugment":
            changes.append(v2.RandAugment(augmentation.policy_layers, augmentation.policy_magnitude, fill=fill))
        case "autoaugment":
            changes.append(v2.AutoAugment(fill=fill))
        case "trivialaugment":
            changes.append(v2.TrivialAugmentWide(fill=fill))
    on_colors = _OnColors if channels == 4 else _as_is
    jitter = (augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue)
    if any(jitter):
        changes.append(on_colors(v2.ColorJitter(*jitter)))
    if augmentation.grayscale:
        changes.append(on_colors(v2.RandomGrayscale(augmentation.grayscale)))
    return tuple(changes)
