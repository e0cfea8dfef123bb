from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from effnets.data import DataConfig, open_data
from effnets.data.augmentation import Augmentation
from effnets.data.dataset import CachedDataset, ImageDataset
from effnets.data.sampling import Stream, seeded
from effnets.data.transforms import TrainTransform
from effnets.errors import ArgumentError
from effnets.spec.specs import PreprocessSpec
from tests.support.data_sets import by_class, write

PREPROCESS = PreprocessSpec(input_size=32)
STILL = Augmentation(horizontal_flip=0.0)


class OneImage(ImageDataset):
    """One picture, as the file that it is given in."""

    def __init__(self, image, kind="PNG", **saving):
        file = io.BytesIO()
        image.save(file, kind, **saving)
        self.data = file.getvalue()
        self.labels, self.class_names = np.zeros(1, np.int64), ("only",)

    def name(self, index):
        return f"picture {index}"

    def read(self, index):
        assert index == 0
        return self.data

    def sizes(self):
        return np.array([len(self.data)])


def gradient(width, height):
    """Red grows to the right, green downwards, so that a crop tells where it was taken."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


def sample(source, augmentation, key=0, size=32):
    return TrainTransform(PREPROCESS, size, augmentation)(source.lazy_image(0), (Stream.SAMPLE, 0, 0, key, 0))


def extent(tensor, width, height):
    """Width and height of the crop that a gradient's sample shows, in pixels."""
    across = (tensor[0].float().amax() - tensor[0].float().amin()) / 255 * width
    down = (tensor[1].float().amax() - tensor[1].float().amin()) / 255 * height
    return across.item(), down.item()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_crops_have_the_area_and_ratio_asked_for(kind):
    source = OneImage(gradient(640, 480), kind, **({"quality": 95} if kind == "JPEG" else {}))
    shares, ratios, lefts = [], [], []
    for key in range(300):
        tensor = sample(source, replace(STILL, scale=(0.2, 0.6), ratio=(0.8, 1.25)), key)
        width, height = extent(tensor, 640, 480)
        shares.append(width * height / (640 * 480))
        ratios.append(width / height)
        lefts.append(tensor[0].float().amin().item() / 255)
    assert 0.17 < min(shares) < 0.24
    assert 0.53 < max(shares) < 0.63
    assert 0.36 < np.mean(shares) < 0.44
    assert 0.75 < min(ratios) < 0.87
    assert 1.15 < max(ratios) < 1.34
    assert min(lefts) < 0.03
    assert max(lefts) > 0.4


def test_large_jpegs_are_decoded_no_larger_than_needed():
    source = OneImage(gradient(1600, 1200), "JPEG", quality=95)
    decoded = []
    picture_class = type(source.lazy_image(0))
    plain = picture_class.decode

    class Watched(OneImage):
        def lazy_image(self, index):
            encoded = super().lazy_image(index)
            watched = type("Watched", (), {})()
            watched.size = encoded.size

            def decode(min_side=None):
                image = plain(encoded, min_side)
                decoded.append(image.size)
                return image

            watched.decode = decode
            return watched

    watched = Watched(gradient(1600, 1200), "JPEG", quality=95)
    whole = replace(STILL, scale=(1.0, 1.0), ratio=(4 / 3, 4 / 3))
    small = sample(watched, whole, size=64)
    assert decoded == [(200, 150)]  # an eighth; 64 pixels need no more
    expected = np.asarray(gradient(1600, 1200).resize((64, 64), Image.Resampling.BICUBIC), np.int16)
    assert np.abs(small.permute(1, 2, 0).numpy().astype(np.int16) - expected).max() <= 6
    sample(watched, whole, size=500)
    assert decoded[-1] == (800, 600)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_images_are_upright_before_they_are_cropped(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = OneImage(gradient(640, 320), kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    cached = CachedDataset(turned, 160)
    assert cached.shapes.tolist() == [[320, 160]]
    for source in (turned, cached):
        tensor = sample(source, replace(STILL, scale=(1.0, 1.0), ratio=(0.5, 0.5)))
        # Turned by 90 degrees clockwise, red grows downwards and green to the left.
        assert tensor[0, 0, 16] < 20
        assert tensor[0, -1, 16] > 235
        assert tensor[1, 16, 0] > 235


def test_a_padded_crop_shifts_by_at_most_the_padding():
    source = OneImage(gradient(32, 32))
    seen = set()
    for key in range(200):
        tensor = sample(source, replace(STILL, crop="padded", padding=2), key)
        inner = tensor[:, 4:-4, 4:-4].permute(1, 2, 0).numpy()
        whole = np.asarray(gradient(32, 32))
        places = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if np.array_equal(inner, whole[4 + dy : 28 + dy, 4 + dx : 28 + dx])
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 25


def test_no_augmentation_is_the_centre():
    source = OneImage(gradient(64, 32))
    tensor = sample(source, Augmentation.none())
    assert torch.equal(tensor, sample(source, Augmentation.none(), key=1))
    assert np.array_equal(tensor.permute(1, 2, 0).numpy(), np.asarray(gradient(64, 32))[:, 16:48])


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
@pytest.mark.parametrize("crop", ["resized", "padded", "center"])
def test_images_of_any_size(size, crop):
    source = OneImage(Image.new("RGB", size, (10, 200, 30)))
    tensor = sample(source, replace(STILL, crop=crop))
    assert tensor.shape == (3, 32, 32)
    assert (tensor.permute(1, 2, 0).reshape(-1, 3) == torch.tensor([10, 200, 30])).all()


@pytest.mark.parametrize(
    "change",
    [
        {"horizontal_flip": 1.0}, {"vertical_flip": 1.0}, {"rotation": 30.0}, {"brightness": 0.5}, {"contrast": 0.5},
        {"saturation": 0.5}, {"hue": 0.3}, {"grayscale": 1.0}, {"policy": "randaugment"}, {"policy": "autoaugment"},
        {"policy": "trivialaugment"}, {"random_erasing": 1.0},
    ],
)  # fmt: skip
def test_every_setting_changes_images(change):
    source = OneImage(gradient(48, 48))
    plain = [sample(source, replace(STILL, crop="center"), key) for key in range(6)]
    changed = [sample(source, replace(STILL, crop="center", **change), key) for key in range(6)]
    again = [sample(source, replace(STILL, crop="center", **change), key) for key in range(6)]
    assert any(not torch.equal(a, b) for a, b in zip(plain, changed, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(changed, again, strict=True))


def test_erased_places_have_the_mean_colour():
    source = OneImage(Image.new("RGB", (32, 32)))
    tensor = sample(source, replace(STILL, random_erasing=1.0))
    colors = {tuple(color) for color in tensor.permute(1, 2, 0).reshape(-1, 3).tolist()}
    assert colors == {(0, 0, 0), (124, 116, 104)}


def test_what_is_drawn_depends_on_the_key_alone():
    with seeded(Stream.SAMPLE, 1, 2):
        first = torch.rand(3)
    torch.rand(100)
    with seeded(Stream.SAMPLE, 1, 2):
        assert torch.equal(torch.rand(3), first)
    with seeded(Stream.BATCH, 1, 2):
        assert not torch.equal(torch.rand(3), first)


@given(st.tuples(st.integers(0, 2**40), st.integers(0, 1000), st.integers(0, 2**31)))
def test_neighbouring_keys_are_strangers(key):
    draws = []
    for last in range(3):
        with seeded(Stream.SAMPLE, *key, last):
            draws.append(torch.rand(2).tolist())
    assert len({tuple(draw) for draw in draws}) == 3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"crop": "round"}, "crop is 'round'; choose one of resized, padded, center"),
        ({"policy": "random"}, "policy is 'random'; choose one of none, randaugment"),
        ({"scale": (0.5, 0.2)}, r"scale is \(0.5, 0.2\); give two parts of the area"),
        ({"horizontal_flip": 2}, r"horizontal_flip is 2; it must lie in 0\.\.1"),
        ({"mixup": -1}, "mixup is -1"),
        ({"policy_magnitude": 31}, r"policy_magnitude is 31; it must lie in 0\.\.30"),
        ({"hue": 0.6}, "hue is 0.6"),
    ],
)
def test_impossible_settings(setting, message):
    with pytest.raises(ArgumentError, match=message):
        Augmentation(**setting)


def test_settings_read_well():
    assert str(Augmentation()) == "default augmentation"
    assert str(Augmentation(mixup=0.2)) == "mixup=0.2"
    assert Augmentation(cutmix=1.0).mixes
    assert not Augmentation().mixes


def test_a_folder_of_images(tmp_path):
    source = open_data(DataConfig(write(tmp_path, by_class(2)), val_share=0)).train
    assert TrainTransform(PREPROCESS)(source.lazy_image(1), (Stream.SAMPLE, 0, 0, 1, 0)).shape == (3, 32, 32)
