"""Crop boxes lie within their image, for every size and crop; one function computes them."""

from __future__ import annotations

import math
import random

import pytest
import torch
from PIL import Image

from effnets.data.augmentation import Augmentation
from effnets.data.dataset import DecodedImage
from effnets.data.transforms import TrainTransform
from effnets.inference.image import center_crop, crop_box
from effnets.spec.models import load_spec

# Sizes for which (height - share * height) / 2 plus that height again comes out above the image's.
TROUBLE = [(74, 62), (393, 124), (357, 248), (496, 639), (62, 74), (639, 496)]


def within(box: tuple[float, float, float, float], width: int, height: int) -> bool:
    return 0 <= box[0] <= box[2] <= width and 0 <= box[1] <= box[3] <= height


def test_crops_of_100_000_sizes_lie_within_their_image():
    draw = random.Random(0)
    for _ in range(100_000):
        width, height = draw.randint(1, 5000), draw.randint(1, 5000)
        side = draw.randint(1, 400)
        share = min(width / side, height / side)
        assert within(crop_box((width, height), side * share, side * share), width, height)
        # A random crop, then the same in an image that a decoder has reduced to an eighth, rounded up.
        across, down = draw.random() * width, draw.random() * height
        left, top = draw.random() * (width - across), draw.random() * (height - down)
        box = crop_box((width, height), across, down, left, top)
        assert within(box, width, height)
        small = math.ceil(width / 8), math.ceil(height / 8)
        scale = small[0] / width, small[1] / height
        reduced = crop_box(
            small, (box[2] - box[0]) * scale[0], (box[3] - box[1]) * scale[1], box[0] * scale[0], box[1] * scale[1]
        )
        assert within(reduced, *small)


def test_a_crop_that_ends_at_the_edge_is_not_moved_or_shrunk():
    assert crop_box((10, 20), 4, 6) == (3, 7, 7, 13)
    assert crop_box((10, 20), 4, 6, 6, 14) == (6, 14, 10, 20)
    assert crop_box((10, 20), 4.0000001, 6, 6, 14) == (6, 14, 10, 20)


@pytest.mark.parametrize(("width", "height"), TROUBLE)
@pytest.mark.parametrize("crop", ["resized", "center", "padded"])
def test_pillow_takes_the_boxes_of_training(width, height, crop):
    image = DecodedImage(Image.new("RGB", (width, height), "red"))
    spec = load_spec("mobilenetv1_025")
    for side in (32, 224, (48, 64)):
        transform = TrainTransform(spec.preprocess, side, Augmentation(crop=crop, scale=(0.999, 1.0)))
        for key in range(20):
            sample = transform(image, (key,))
            assert sample.shape == (3, *((side, side) if isinstance(side, int) else side))
            assert sample.dtype == torch.uint8


def test_the_center_is_that_of_torchvision():
    from torchvision.transforms.v2.functional import center_crop as theirs

    for width, height in ((9, 8), (10, 7), (11, 31)):
        image = Image.radial_gradient("L").resize((width, height))
        assert center_crop(image, 6, 7).tobytes() == theirs(image, [6, 7]).tobytes()
