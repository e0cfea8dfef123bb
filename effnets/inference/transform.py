"""The transform from an image to a model's input, a torch tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from effnets.errors import ArgumentError, ConfigError
from effnets.inference.image import ImageSource, color_mode, image_to_array, load_image
from effnets.spec.specs import Interpolation, ModelSpec, PreprocessSpec
from effnets.utils.arguments import check_size


@runtime_checkable
class _Model(Protocol):
    """A model with its spec and its number of input channels."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def in_chans(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Transform:
    """From an image to a model's input, a contiguous float32 tensor of shape [C, H, W].

    Equal, bit for bit, to timm's evaluation transform. `effnets.inference.image.load_image` lists the accepted images
    (a path, the content of a file, a PIL image, an array, a tensor) and, as `image_to_array`, the errors for others.

    Attributes:
        preprocess: crop share, interpolation, mean and std; its input size is that of the weights.
        size: side of the square that comes out, or its (height, width), in pixels.
        channels: 3 for RGB, 1 for grayscale, 4 for RGBA, or the network's own number.
    """

    preprocess: PreprocessSpec
    size: int | tuple[int, int]
    channels: int = 3

    def __call__(self, image: ImageSource) -> Tensor:
        """Return the image as the model's input."""
        array = image_to_array(load_image(image, self.channels), self.preprocess, self.size)
        return torch.from_numpy(array)

    def __repr__(self) -> str:
        height, width = check_size(self.size)
        preprocess = self.preprocess
        return (
            f"Transform({color_mode(self.channels)} {height}×{width}, crop_pct={preprocess.crop_pct:g}, "
            f"{preprocess.interpolation}, mean={preprocess.mean}, std={preprocess.std})"
        )


def create_transform(
    model: _Model | ModelSpec,
    *,
    input_size: int | tuple[int, int] | None = None,
    crop_pct: float | None = None,
    interpolation: Interpolation | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    use_test_size: bool = False,
) -> Transform:
    """Make the transform that a model's weights were measured with.

    Args:
        model: from `effnets.create_model`, or a `ModelSpec` (3 channels).
        input_size: side of a square, or (height, width), in pixels.
        crop_pct: the crop's share of the resized image's side.
        interpolation: "bicubic" or "bilinear".
        mean: one number, or one for each channel, of values in 0..1; three of red, green and blue do for 1 and 4
            channels as well (`PreprocessSpec.for_channels`).
        std: likewise.
        use_test_size: take the size and crop share at which the weights are most accurate, if they are known.
            Arguments given explicitly take precedence.

    Raises:
        ArgumentError: if an argument is out of range.
    """
    if isinstance(model, ModelSpec):
        preprocess, channels = model.preprocess, 3
    elif isinstance(model, _Model):
        preprocess, channels = model.spec.preprocess, model.in_chans
    else:
        raise ArgumentError(
            f"model is of type {type(model).__name__}; pass a model from effnets.create_model, or its ModelSpec"
        )
    color_mode(channels)
    if use_test_size:
        preprocess = _at_test_size(preprocess)
    size = preprocess.input_size if input_size is None else input_size
    check_size(size, "input_size")
    try:
        preprocess = replace(
            preprocess,
            crop_pct=preprocess.crop_pct if crop_pct is None else _number("crop_pct", crop_pct),
            interpolation=preprocess.interpolation if interpolation is None else interpolation,
        )
    except ConfigError as error:
        raise ArgumentError(str(error)) from error
    preprocess = preprocess.normalized_by(channels, mean, std)
    preprocess.for_channels(channels)  # to refuse other numbers of means at once
    return Transform(preprocess=preprocess, size=size, channels=channels)


def _at_test_size(preprocess: PreprocessSpec) -> PreprocessSpec:
    return replace(
        preprocess,
        input_size=preprocess.test_input_size or preprocess.input_size,
        crop_pct=preprocess.test_crop_pct or preprocess.crop_pct,
    )


def _number(argument: str, value: object) -> float:
    if isinstance(value, Real):
        return float(value)
    raise ArgumentError(f"{argument} is {value!r}; give a number")
