"""Settings of augmentation for detection. Free of torch and torchvision."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from effnets.errors import ArgumentError
from effnets.utils.arguments import Range, check_fields

_SHARE = Range(0, 1)
_STRENGTH = Range(0, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionAugmentation:
    """Settings of the training transform of detectors, in the order in which they are applied.

    Crops, smaller images and colors are those of SSD (Liu et al. 2016, arXiv:1512.02325, section 2.2), less strong: the
    defaults suit some hundred photographs. Of what has no up and down, such as cells, also set `vertical_flip`.

    Raises:
        ArgumentError: if a setting is out of its range.
    """

    zoom_out: Annotated[
        float, _SHARE, "Probability of placing the image on a larger canvas of the mean color, so that objects shrink."
    ] = 0.3
    zoom_out_scale: Annotated[float, Range(1, 8), "Largest side of the canvas, in sides of the image."] = 2.0
    crop: Annotated[
        float,
        _SHARE,
        "Probability of a crop of random size and aspect ratio, which overlaps an object by a part drawn from 0, 0.1, "
        "0.3, 0.5, 0.7 and 0.9, or is the whole image. Objects whose middle is outside of it are left out.",
    ] = 0.8
    crop_scale: Annotated[tuple[float, float], _SHARE, "Smallest and largest part of the image's sides in a crop."] = (
        0.5,
        1.0,
    )
    crop_ratio: Annotated[
        tuple[float, float], Range(0, 100), "Smallest and largest ratio of its width to its height, in pixels."
    ] = (0.5, 2.0)
    horizontal_flip: Annotated[float, _SHARE, "Probability of a horizontal flip."] = 0.5
    vertical_flip: Annotated[float, _SHARE, "Probability of a vertical flip."] = 0.0
    distortion: Annotated[
        float, _SHARE, "Probability of each change of brightness, contrast, saturation and hue; 0: colors stay."
    ] = 0.5
    brightness: Annotated[float, _STRENGTH, "Factor drawn from 1 - x to 1 + x."] = 0.125
    contrast: Annotated[float, _STRENGTH, "Factor drawn from 1 - x to 1 + x."] = 0.3
    saturation: Annotated[float, _STRENGTH, "Factor drawn from 1 - x to 1 + x."] = 0.3
    hue: Annotated[float, Range(0, 0.5), "Shift drawn from -x to x turns of the color wheel."] = 0.02
    min_box: Annotated[float, Range(1, 100), "Boxes with a shorter side, in pixels of the input, are left out."] = 2.0

    def __post_init__(self) -> None:
        check_fields(self, ArgumentError)
        pairs = {"crop_scale": "parts of the sides, such as (0.5, 1.0)", "crop_ratio": "ratios, such as (0.5, 2.0)"}
        for name, hint in pairs.items():
            value = getattr(self, name)
            if not isinstance(value, tuple | list) or len(value) != 2 or not 0 < value[0] <= value[1]:
                raise ArgumentError(f"{name} is {value!r}; give two {hint}")

    @classmethod
    def none(cls) -> DetectionAugmentation:
        """Return settings without randomness: every image whole."""
        return cls(zoom_out=0.0, crop=0.0, horizontal_flip=0.0, distortion=0.0)

    def __str__(self) -> str:
        changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in changed) or "default augmentation"
