"""Settings of augmentation. Free of torch and torchvision."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from effnets.errors import ArgumentError
from effnets.utils.arguments import Range, check_fields

_SHARE = Range(0, 1)
_STRENGTH = Range(0, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Settings of the training transform and of mixing within batches; the defaults suit photographs of objects.

    Raises:
        ArgumentError: if a setting is out of its range.
    """

    crop: Annotated[
        Literal["resized", "padded", "center"],
        "``resized``: a part of random area and aspect ratio, resized to the input (Szegedy et al. 2015); ``padded``: "
        "the whole image at input size, shifted by up to `padding` pixels with its border mirrored, as is usual for "
        "CIFAR; ``center``: always the same place.",
    ] = "resized"
    scale: Annotated[
        tuple[float, float], _SHARE, "Smallest and largest part of the image's area in a resized crop."
    ] = (0.35, 1.0)
    ratio: Annotated[
        tuple[float, float], Range(0, 100), "Smallest and largest ratio of its width to its height, times the input's."
    ] = (3 / 4, 4 / 3)
    padding: Annotated[int, Range(0, 8192), "Maximal shift of a padded crop in pixels."] = 4
    horizontal_flip: Annotated[float, _SHARE, "Probability of a horizontal flip."] = 0.5
    vertical_flip: Annotated[float, _SHARE, "Probability of a vertical flip."] = 0.0
    rotation: Annotated[float, Range(0, 180), "Maximal angle in degrees, either way."] = 0.0
    brightness: Annotated[float, _STRENGTH, "Factor drawn from 1 - x to 1 + x."] = 0.0
    contrast: Annotated[float, _STRENGTH, "Factor drawn from 1 - x to 1 + x."] = 0.0
    saturation: Annotated[float, _STRENGTH, "Factor drawn from 1 - x to 1 + x."] = 0.0
    hue: Annotated[float, Range(0, 0.5), "Shift drawn from -x to x turns of the color wheel; slow."] = 0.0
    grayscale: Annotated[float, _SHARE, "Probability of an image without color."] = 0.0
    policy: Annotated[
        Literal["none", "randaugment", "autoaugment", "trivialaugment"],
        "``randaugment`` (Cubuk et al. 2019, arXiv:1909.13719), ``autoaugment`` (Cubuk et al. 2018, arXiv:1805.09501, "
        "ImageNet's policy), ``trivialaugment`` (Müller and Hutter 2021, arXiv:2103.10158), or ``none``.",
    ] = "none"
    policy_layers: Annotated[int, Range(0, 1000), "Operations of RandAugment per image."] = 2
    policy_magnitude: Annotated[int, Range(0, 30), "Strength of RandAugment's operations."] = 9
    random_erasing: Annotated[
        float, _SHARE, "Probability of filling a rectangle with the mean color (Zhong et al. 2017, arXiv:1708.04896)."
    ] = 0.0
    mixup: Annotated[
        float,
        _STRENGTH,
        "α of the Beta distribution for blending images (Zhang et al. 2017, arXiv:1710.09412); 0: off.",
    ] = 0.0
    cutmix: Annotated[
        float,
        _STRENGTH,
        "Likewise for exchanging patches (Yun et al. 2019, arXiv:1905.04899). With both, a coin decides.",
    ] = 0.0

    def __post_init__(self) -> None:
        check_fields(self, ArgumentError)
        pairs = {"scale": "parts of the area, such as (0.35, 1.0)", "ratio": "aspect ratios, such as (0.75, 1.33)"}
        for name, hint in pairs.items():
            value = getattr(self, name)
            if not isinstance(value, tuple | list) or len(value) != 2 or not 0 < value[0] <= value[1]:
                raise ArgumentError(f"{name} is {value!r}; give two {hint}")

    @classmethod
    def none(cls) -> Augmentation:
        """Return settings without randomness: the center of every image."""
        return cls(crop="center", horizontal_flip=0.0)

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed, so that targets are not single classes."""
        return self.mixup > 0 or self.cutmix > 0

    def for_channels(self, channels: int) -> tuple[Augmentation, tuple[str, ...]]:
        """Return the settings without those that images of so many channels cannot have, and the names of these.

        Policies move and recolor images at once, and know RGB and gray; jitter and grayscale leave a fourth channel as
        it is, and mean nothing for others.
        """
        colors = ("brightness", "contrast", "saturation", "hue", "grayscale")
        names = () if channels in (1, 3) else ("policy",) if channels == 4 else ("policy", *colors)
        defaults: dict[str, Any] = {field.name: field.default for field in fields(self)}
        unused = {name: defaults[name] for name in names if getattr(self, name) != defaults[name]}
        return replace(self, **unused), tuple(unused)

    def notes(self, channels: int) -> tuple[str, ...]:
        """Return a note on the settings without effect on images of so many channels, if there are any."""
        _, unused = self.for_channels(channels)
        return (f"without effect on images of {channels} channels: {', '.join(unused)}",) if unused else ()

    def __str__(self) -> str:
        changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in changed) or "default augmentation"
