"""Whether preprocessing inside of a graph gives the pixels that it should."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnets.engines.metadata import Description
from effnets.errors import VerificationError
from effnets.inference.pixels import center_crop, normalise_pixels, resized_size

__all__ = ["compare_pixels"]

_MAX_STRAY_PIXELS = 0.01  # that differ by one level of 255
_MAX_FAR_PIXELS = 1e-4  # that differ by two


def compare_pixels(images: NDArray[np.uint8], inputs: NDArray[np.float32], description: Description, name: str) -> None:
    """See that preprocessing in the graph gives the pixels of `runtime.pixels`.

    Some may be at one level's distance, where sums end near a half, and few at two, where both directions' do.

    Args:
        images: uint8 ``[N, H, W, C]``.
        inputs: what the graph made of them, ``[N, C, *image_size]``.
        description: of the graph.
        name: the engine's, for the message.

    Raises:
        VerificationError: more differ, or differ more.
    """
    squeezed = images[..., 0] if description.channels == 1 else images
    expected = np.stack([_resized_across_first(Image.fromarray(image), description) for image in squeezed])
    # In units of one level of 255, whatever the channel's std.
    levels = np.abs(inputs - expected) * 255 * np.reshape(_stds(description), (1, -1, 1, 1))
    stray, far = float((levels > 0.01).mean()), int((levels > 1.01).sum())
    if not (levels.max() < 2.01 and stray < _MAX_STRAY_PIXELS and far <= max(1, _MAX_FAR_PIXELS * levels.size)):
        raise VerificationError(
            f"{name}: preprocessing of images {list(images.shape)} is wrong: {100 * stray:.1f} % of the pixels differ, "
            f"by up to {levels.max():.1f} of 255"
        )


def _resized_across_first(image: Image.Image, description: Description) -> NDArray[np.float32]:
    """As `image_to_array`, but always across before down, as the graph resizes: Pillow did so until its version 13.

    Since then it takes pictures that are much higher than wide the other way round, which rounds otherwise.
    """
    (height, width), preprocess = description.image_size, description.preprocess
    new_width, new_height = resized_size(image, height, width, preprocess)
    for size in ((new_width, image.height), (new_width, new_height)):
        image = image.resize(size, Image.Resampling[preprocess.interpolation.upper()])
    cropped = np.asarray(center_crop(image, height, width))
    return normalise_pixels(cropped.reshape(height, width, description.channels), preprocess)


def _stds(description: Description) -> NDArray[np.float64]:
    std = np.array(description.preprocess.std)
    return std.mean(keepdims=True) if description.channels == 1 else std
