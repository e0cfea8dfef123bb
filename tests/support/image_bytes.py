"""What the tests of images share: reproducible noise, and pixels as lists."""

from __future__ import annotations

import numpy as np
from PIL import Image


def random_array(*shape: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def pixels(image: Image.Image) -> list:
    return np.asarray(image).tolist()
