"""Arrays in and arrays out: which ones are taken for an image, and what a network is fed."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from effnets.errors import ArgumentError, ImageError
from effnets.inference.image import color_mode, image_to_array, load_image
from effnets.spec.specs import PreprocessSpec
from effnets.utils.arguments import check_size
from tests.support.image_bytes import pixels, random_array

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
def test_uint8_arrays(shape):
    array = random_array(*shape)
    colors = array[..., :3] if len(shape) == 3 else array[..., None]
    assert pixels(load_image(array)) == np.broadcast_to(colors, (4, 5, 3)).tolist()


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_uint16_arrays_are_scaled(dtype):
    array = random_array(4, 5, 3, dtype="uint16")
    assert pixels(load_image(array.astype(dtype))) == np.round(array / 257).astype(int).tolist()


def test_views_of_arrays():
    array = random_array(8, 6, 3)
    assert pixels(load_image(array[::-2, ::3, ::-1])) == array[::-2, ::3, ::-1].tolist()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 5, 2), np.float32),
        np.zeros((4, 5, 3), np.int64),
        np.zeros((4, 5, 3), bool),
        np.zeros((3, 4, 5), np.uint8),
        np.zeros((1, 4, 5, 3), np.uint8),
        np.zeros((4, 5, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.array("photo.jpg").astype("S9"),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_other_arrays_are_refused(array):
    with pytest.raises(ArgumentError, match=r"image is an? .* array of shape .*; pass uint8 \(0..255\)") as caught:
        load_image(array)
    assert str(array.dtype) in str(caught.value)
    assert str(list(array.shape)) in str(caught.value)


@pytest.mark.parametrize("source", [np.zeros((0, 5, 3), np.uint8), Image.new("RGB", (5, 0)), Image.new("I", (0, 1))])
def test_images_without_pixels_are_refused(source):
    with pytest.raises(ImageError, match=r"pixels"):
        load_image(source)


@pytest.mark.parametrize("source", [None, 3, [[1, 2], [3, 4]]])
def test_other_sources_are_refused(source):
    with pytest.raises(ArgumentError, match=rf"type {type(source).__name__}; pass a path, a PIL image"):
        load_image(source)


@pytest.mark.parametrize("channels", [0, -3, 2.5, "RGB"])
def test_other_channel_counts_are_refused(channels):
    with pytest.raises(ArgumentError, match="channels is"):
        load_image(Image.new("RGB", (1, 1)), channels)
    assert [color_mode(count) for count in (1, 3, 4, 6)] == ["L", "RGB", "RGBA", "6 channels"]


# Arrays for the network (that they equal timm's is tested in tests/inference/test_transform.py)


def test_array_layout():
    image = Image.new("RGB", (300, 200), (255, 0, 51))
    array = image_to_array(image, PreprocessSpec(mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 0.1)), (64, 48))
    assert array.shape == (3, 64, 48)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array[:, 10, 20] == pytest.approx([1.0, -0.5, 2.0])


def test_default_size_is_the_weights():
    assert image_to_array(Image.new("RGB", (9, 9)), PreprocessSpec(input_size=32)).shape == (3, 32, 32)


def test_grey_takes_the_average_of_mean_and_std():
    preprocess = PreprocessSpec(mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.6))
    array = image_to_array(Image.new("L", (30, 30), 51), preprocess, 16)
    assert array.shape == (1, 16, 16)
    assert np.allclose(array, (0.2 - 0.4) / 0.3)


def test_number_of_means_must_be_that_of_channels():
    with pytest.raises(ArgumentError, match=r"preprocess\.mean has 2 numbers"):
        image_to_array(Image.new("RGB", (9, 9)), PreprocessSpec(mean=(0.5, 0.5), std=(0.5, 0.5)))


@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1), (40, 20_000_000)])
@pytest.mark.parametrize("crop", [224, (224, 192)])
def test_very_elongated_images_are_refused(size, crop):
    class Claims(Image.Image):
        size = property(lambda _: claimed)
        width = property(lambda _: claimed[0])
        height = property(lambda _: claimed[1])
        mode = property(lambda _: "RGB")

        def resize(self, *_):
            raise AssertionError("must be refused before anything is allocated")

    claimed = size
    with pytest.raises(ImageError, match=rf"{size[0]}×{size[1]} pixels would be .* limit of 89478485; crop it"):
        image_to_array(Claims(), PreprocessSpec(), crop)


def test_the_file_of_an_elongated_image_is_named(tmp_path):
    path = tmp_path / "strip.png"
    Image.new("RGB", (1, 10_000)).save(path)
    with pytest.raises(ImageError, match=r"strip\.png of 1×10000 pixels would be resized to 256×2560000"):
        image_to_array(load_image(path), PreprocessSpec())


def test_elongated_images_within_the_limit_are_taken():
    assert image_to_array(Image.new("RGB", (20, 4000)), PreprocessSpec(), 64).shape == (3, 64, 64)


@pytest.mark.parametrize("mode", ["RGBX", "P", "I;16"])
def test_other_modes_are_refused(mode):
    with pytest.raises(ArgumentError, match=f"mode {mode}; bring it to RGB or L with load_image"):
        image_to_array(Image.new(mode, (9, 9)), PreprocessSpec())


@pytest.mark.parametrize("size", [0, -5, 2.5, "224", (224,), (3, 224, 224), (0, 224), (224, 1e9), 8193, [1, "2"]])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ArgumentError, match=r"size is .*; give a side or \(height, width\), each from 1 to 8192"):
        image_to_array(Image.new("RGB", (9, 9)), PreprocessSpec(), size)


def test_check_size():
    assert check_size(7) == (7, 7)
    assert check_size((7, 9)) == (7, 9)
    with pytest.raises(ArgumentError, match="input_size is 0;"):
        check_size(0, "input_size")
