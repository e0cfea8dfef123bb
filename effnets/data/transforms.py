"""Training transform: crop, flip, colors, erasing, mixing. Knows torch and torchvision."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from effnets.data.augmentation import Augmentation
from effnets.data.dataset import LazyImage
from effnets.data.sampling import seeded
from effnets.inference.image import crop_box
from effnets.spec.specs import PreprocessSpec
from effnets.utils.arguments import check_size

_CROP_ATTEMPTS = 10


class TrainTransform:
    """Augments images into training samples, uint8 tensors [3, H, W] that are still to be normalized.

    Their memory format is [H, W, 3], as Pillow's: a stack of them is channels_last without a copy.

    Random draws for a sample are a function of its key only.

    Args:
        preprocess: of the weights: interpolation, mean (the color of erased parts), std.
        size: side of the square output, or its (height, width), in pixels; by default that of the weights.
        augmentation: its settings.
    """

    def __init__(
        self,
        preprocess: PreprocessSpec,
        size: int | tuple[int, int] | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.preprocess = preprocess
        self.height, self.width = check_size(preprocess.input_size if size is None else size)
        self.augmentation = Augmentation() if augmentation is None else augmentation
        self._resample = Image.Resampling[preprocess.interpolation.upper()]
        mean = preprocess.mean * 3 if len(preprocess.mean) == 1 else preprocess.mean
        color = [round(255 * value) for value in mean]
        self._on_images = _on_images(self.augmentation, color)
        self._erase = v2.RandomErasing(self.augmentation.random_erasing, value=[float(value) for value in color])

    def __call__(self, stored: LazyImage, key: tuple[int, ...]) -> Tensor:
        """Return an augmented sample, uint8 [3, H, W].

        Args:
            stored: the image.
            key: integers that seed everything random: (stream, seed, epoch, index, …).

        Raises:
            ImageError: if the image is unreadable.
        """
        with seeded(*key):
            image = self._crop(stored)
            for change in self._on_images:
                image = change(image)
            sample = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            return self._erase(sample) if self.augmentation.random_erasing else sample

    def mixing(self, classes: int) -> v2.Transform | None:
        """Return a transform that mixes a batch [N, 3, H, W] and makes targets [N, classes]; None for no mixing."""
        kinds = ((v2.MixUp, self.augmentation.mixup), (v2.CutMix, self.augmentation.cutmix))
        choices = [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha]
        return v2.RandomChoice(choices) if len(choices) == 2 else next(iter(choices), None)

    def _crop(self, stored: LazyImage) -> Image.Image:
        if self.augmentation.crop == "resized":
            return self._resized_crop(stored)
        image = stored.decode()
        scale = max(self.width / image.width, self.height / image.height)
        box = crop_box(image.size, self.width / scale, self.height / scale)
        image = image.resize((self.width, self.height), self._resample, box)
        if self.augmentation.crop == "center":
            return image
        padding = self.augmentation.padding
        pixels = np.pad(np.asarray(image), ((padding, padding), (padding, padding), (0, 0)), mode="reflect")
        top, left = (int(torch.randint(2 * padding + 1, ())) for _ in range(2))
        return Image.fromarray(pixels[top : top + self.height, left : left + self.width])

    def _resized_crop(self, stored: LazyImage) -> Image.Image:
        """Choose the crop first, so that a large JPEG is decoded no larger than needed."""
        width, height = stored.size()
        left, top, right, bottom = self._random_box(width, height)
        spare = min((right - left) / self.width, (bottom - top) / self.height)
        image = stored.decode(reduce=max(power for power in (1, 2, 4, 8) if power == 1 or power <= spare))
        across, down = image.width / width, image.height / height
        box = crop_box(image.size, (right - left) * across, (bottom - top) * down, left * across, top * down)
        return image.resize((self.width, self.height), self._resample, box)

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
        return f"TrainTransform({self.height}×{self.width}, {self.augmentation})"


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + share * (limits[1] - limits[0])


def _on_images(augmentation: Augmentation, fill: list[int]) -> tuple[Callable[[Image.Image], Image.Image], ...]:
    changes: list[Callable[[Image.Image], Image.Image]] = []
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
    jitter = (augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue)
    if any(jitter):
        changes.append(v2.ColorJitter(*jitter))
    if augmentation.grayscale:
        changes.append(v2.RandomGrayscale(augmentation.grayscale))
    return tuple(changes)
