"""From an image to the network's input, with NumPy and Pillow alone; `runtime.image` reads the image.

Bit for bit what timm's evaluation transform gives, with which the weights were measured.
"""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnets.errors import ArgumentError, ImageError
from effnets.inference.image import name_of
from effnets.spec.specs import PreprocessSpec
from effnets.utils.arguments import check_size

_MAX_RESIZED_PIXELS = 89_478_485  # Pillow's default of what is worth decoding


def image_to_array(
    image: Image.Image, preprocess: PreprocessSpec, size: int | tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Resize, crop and normalise an image, bit for bit as timm's evaluation transform does.

    The image is resized, its aspect ratio kept, until it just covers the size divided by `crop_pct`; its
    centre is cropped to the size; values become (x/255 - mean) / std. The array is contiguous, of shape
    [C, H, W], with C = 3 for RGB and 1 for L.

    Args:
        image: of mode "RGB" or "L", from `load_rgb`.
        preprocess: of the weights. A grey image takes the averages of the three means and stds.
        size: side of a square, or (height, width), in pixels; by default the input size of the weights.

    Raises:
        ImageError: the image is so elongated that it would be resized to over 89,478,485 pixels.
        ArgumentError: the size is no size, or the image of another mode.
    """
    if image.mode not in ("RGB", "L"):
        raise ArgumentError(f"image is of mode {image.mode}; bring it to RGB or L with load_rgb first")
    height, width = check_size(preprocess.input_size if size is None else size)
    new_size = resized_size(image, height, width, preprocess)
    image = center_crop(image.resize(new_size, Image.Resampling[preprocess.interpolation.upper()]), height, width)
    return normalise_pixels(np.asarray(image).reshape(height, width, len(image.getbands())), preprocess)


def normalise_pixels(pixels: NDArray[np.uint8], preprocess: PreprocessSpec) -> NDArray[np.float32]:
    """Pixels [H, W, C] of 0..255 as a network's input, contiguous and of shape [C, H, W]: (x/255 - mean) / std."""
    channels = pixels.shape[2]
    mean = _per_channel("mean", preprocess.mean, channels)
    std = _per_channel("std", preprocess.std, channels)
    return np.ascontiguousarray((pixels.astype(np.float32).transpose(2, 0, 1) / np.float32(255) - mean) / std)


def cover_size(height: int, width: int, preprocess: PreprocessSpec) -> tuple[int, int]:
    """The (height, width) that a resized image just covers, before its centre is cropped to `height` and `width`."""
    return math.floor(height / preprocess.crop_pct), math.floor(width / preprocess.crop_pct)


def resized_size(image: Image.Image, height: int, width: int, preprocess: PreprocessSpec) -> tuple[int, int]:
    """The (width, height) that an image is resized to, before its centre is cropped to `height` and `width`.

    Raises:
        ImageError: these are over 89,478,485 pixels.
    """
    cover_height, cover_width = cover_size(height, width, preprocess)
    if cover_height == cover_width:  # torchvision's Resize, which truncates the longer side, …
        shorter = min(image.size)
        new_width = int(cover_width * image.width / shorter)
        new_height = int(cover_height * image.height / shorter)
    else:  # … or timm's ResizeKeepRatio, which rounds it.
        ratio = min(image.width / cover_width, image.height / cover_height)
        new_width = round(image.width / ratio)
        new_height = round(image.height / ratio)
    if new_width * new_height > _MAX_RESIZED_PIXELS:
        raise ImageError(
            f"{name_of(image)} of {image.width}×{image.height} pixels would be resized to {new_width}×{new_height}, "
            f"above the limit of {_MAX_RESIZED_PIXELS}; crop it to a less elongated shape, or choose a smaller size"
        )
    return new_width, new_height


def center_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """The middle of an image that is no smaller."""
    # The image covers the crop, as crop_pct is at most 1. Halves are rounded to even, as in torchvision.
    left = round((image.width - width) / 2)
    top = round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _per_channel(name: str, values: tuple[float, ...], channels: int) -> NDArray[np.float32]:
    """Return the values as [C, 1, 1], or as [1, 1, 1] where one serves all channels."""
    if channels == 1:
        values = (fmean(values),)
    if len(values) not in (1, channels):
        raise ArgumentError(f"preprocess.{name} has {len(values)} numbers; give one for each channel")
    return np.array(values, np.float32).reshape(-1, 1, 1)
