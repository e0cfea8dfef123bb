"""Images to compare a model and its export on: what photographs look like to a network, and what they never do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnets.inference.pixels import normalise_pixels
from effnets.spec.specs import PreprocessSpec

__all__ = ["normalised", "probe_images"]


def probe_images(count: int, height: int, width: int, channels: int, *, seed: int) -> NDArray[np.uint8]:
    """`count` images, uint8 ``[N, H, W, channels]``: clouds, then clouds over a gradient, over a checkerboard, …

    None is smooth or periodic all over: where channels are constant, networks multiply rounding errors beyond measure.
    """
    generator = np.random.default_rng(seed)
    backgrounds = (_nothing, _gradient, _checkerboard)
    images = []
    for index in range(count):
        background = backgrounds[index % len(backgrounds)](generator, height, width, channels)
        images.append(np.clip(background + _clouds(generator, height, width, channels), 0, 255))
    return np.stack(images).astype(np.uint8)


def normalised(images: NDArray[np.uint8], preprocess: PreprocessSpec) -> NDArray[np.float32]:
    """The images as a network's input, float32 ``[N, channels, H, W]``, without resizing."""
    if images.shape[3] not in (1, len(preprocess.mean)):
        preprocess = PreprocessSpec(mean=(0.5,) * images.shape[3], std=(0.25,) * images.shape[3])
    return np.stack([normalise_pixels(image, preprocess) for image in images])


def _clouds(generator: np.random.Generator, height: int, width: int, channels: int) -> NDArray[np.float64]:
    """As in photographs, coarse structure is strong and fine structure weak, and the colours go together."""
    total = np.zeros((height, width, channels))
    cells = 1
    while cells < max(height, width):
        grey = generator.normal(size=(min(cells, height), min(cells, width), 1))
        coarse = grey + 0.4 * generator.normal(size=(*grey.shape[:2], channels))
        total += np.stack([_enlarge(coarse[..., c], height, width) for c in range(channels)], -1) / cells**0.5
        cells *= 2
    return 128 + 50 * total / total.std().clip(1e-6)


def _nothing(_: np.random.Generator, height: int, width: int, channels: int) -> NDArray[np.float64]:
    return np.zeros((height, width, channels))


def _enlarge(plane: NDArray[np.float64], height: int, width: int) -> NDArray[np.float32]:
    image = Image.fromarray(plane.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _gradient(generator: np.random.Generator, height: int, width: int, channels: int) -> NDArray[np.float64]:
    down, across = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    slant = generator.uniform(size=channels)
    return 255 * (slant * down + (1 - slant) * across) - 128


def _checkerboard(_: np.random.Generator, height: int, width: int, channels: int) -> NDArray[np.float64]:
    """Squares that no stride divides, in contrast enough for black and white, the extremes of any input."""
    squares = (np.arange(height)[:, None] // 3 + np.arange(width)[None, :] // 5) % 2
    return np.broadcast_to(300.0 * squares[..., None] - 150, (height, width, channels))
