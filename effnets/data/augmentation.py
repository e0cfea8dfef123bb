"""Settings of augmentation. Free of torch and torchvision."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

from effnets.errors import ArgumentError
from effnets.utils.arguments import check_integer

Crop = Literal["resized", "padded", "center"]
Policy = Literal["none", "randaugment", "autoaugment", "trivialaugment"]

_SHARES = ("horizontal_flip", "vertical_flip", "grayscale", "random_erasing")
_STRENGTHS = ("brightness", "contrast", "saturation", "mixup", "cutmix")


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Settings of the training transform and of mixing within batches; the defaults suit photographs of objects.

    Attributes:
        crop: "resized": a part of random area and aspect ratio, resized to the input size (Szegedy et al. 2015);
            "padded": the whole image at input size, shifted by up to `padding` pixels with its border mirrored, as
            is usual for CIFAR; "center": always the same place.
        scale: smallest and largest part of the image's area in a resized crop.
        ratio: smallest and largest ratio of its width to its height, times that of the input.
        padding: maximal shift of a padded crop in pixels.
        horizontal_flip, vertical_flip: their probabilities.
        rotation: maximal angle in degrees, either way.
        brightness, contrast, saturation: factor drawn from 1 - x to 1 + x.
        hue: shift drawn from -x to x turns of the color wheel, at most 0.5; slow.
        grayscale: its probability.
        policy: "randaugment" (Cubuk et al. 2019, arXiv:1909.13719), "autoaugment" (Cubuk et al. 2018,
            arXiv:1805.09501, ImageNet's policy), "trivialaugment" (Müller and Hutter 2021, arXiv:2103.10158), "none".
        policy_layers, policy_magnitude: of RandAugment: operations per image, and their strength from 0 to 30.
        random_erasing: probability of filling a rectangle with the mean color (Zhong et al. 2017, arXiv:1708.04896).
        mixup: α of the Beta distribution for blending images (Zhang et al. 2017, arXiv:1710.09412); 0 for none.
        cutmix: likewise for exchanging patches (Yun et al. 2019, arXiv:1905.04899). With both, a coin decides.

    Raises:
        ArgumentError: if a setting is out of its range.
    """

    crop: Crop = "resized"
    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    padding: int = 4
    horizontal_flip: float = 0.5
    vertical_flip: float = 0.0
    rotation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grayscale: float = 0.0
    policy: Policy = "none"
    policy_layers: int = 2
    policy_magnitude: int = 9
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        _check_choice("crop", self.crop, get_args(Crop))
        _check_choice("policy", self.policy, get_args(Policy))
        for name in _SHARES:
            self._check(name, 1.0, "give a probability from 0 to 1")
        for name in _STRENGTHS:
            self._check(name, 10.0, "give a number from 0 (off) to 10")
        self._check("hue", 0.5, "give a number from 0 (off) to 0.5")
        self._check("rotation", 180.0, "give degrees from 0 (off) to 180")
        self._check_range("scale", 1.0, "give two parts of the area, such as (0.35, 1.0)")
        self._check_range("ratio", 100.0, "give two aspect ratios, such as (0.75, 1.33)")
        check_integer("padding", self.padding, 0, "give pixels, from 0")
        check_integer("policy_layers", self.policy_layers, 0, "give the operations per image, from 0")
        if check_integer("policy_magnitude", self.policy_magnitude, 0, "give a strength from 0 to 30") > 30:
            raise ArgumentError(f"policy_magnitude is {self.policy_magnitude}; give a strength from 0 to 30")

    @classmethod
    def none(cls) -> Augmentation:
        """Return settings without randomness: the center of every image."""
        return cls(crop="center", horizontal_flip=0.0)

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed, so that targets are not single classes."""
        return self.mixup > 0 or self.cutmix > 0

    def __str__(self) -> str:
        changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in changed) or "default augmentation"

    def _check(self, name: str, highest: float, hint: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= highest:
            raise ArgumentError(f"{name} is {value!r}; {hint}")

    def _check_range(self, name: str, highest: float, hint: str) -> None:
        value = getattr(self, name)
        numbers = isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(v, int | float) for v in value)
        if not numbers or not 0 < value[0] <= value[1] <= highest:
            raise ArgumentError(f"{name} is {value!r}; {hint}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ArgumentError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
