"""Colours: every mode of an image becomes RGB or grey as Pillow would, 16 bits scaled and alpha dropped."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from effnets.errors import ImageError
from effnets.inference.image import load_image
from tests.support.image_bytes import pixels, random_array

pytestmark = pytest.mark.filterwarnings("error")

BANDS = {"LA": 2, "La": 2, "PA": 2, "RGB": 3, "YCbCr": 3, "LAB": 3, "HSV": 3}
BANDS |= dict.fromkeys(("RGBA", "RGBa", "RGBX", "CMYK"), 4)
UNITS = [0, 1, 128, 129, 256, 257, 32767, 32768, 65278, 65535, 5000, 40000]  # of a 3×4 16-bit image
UNITS_IN_8_BITS = [0, 0, 0, 1, 1, 1, 127, 128, 254, 255, 19, 156]


def random_image(mode: str, width: int = 6, height: int = 5) -> Image.Image:
    return Image.frombytes(mode, (width, height), random_array(height, width, BANDS[mode]).tobytes())


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LA"])
@pytest.mark.parametrize("channels", [3, 1])
def test_colors_are_pillows(mode, channels):
    image = random_image(mode)
    target = "RGB" if channels == 3 else "L"
    assert load_image(image, channels).mode == target
    assert pixels(load_image(image, channels)) == pixels(image.convert(target))


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 0), (77, 77, 77)),
        ("La", (50, 128), (100, 100, 100)),
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (10, 20, 30)),
        ("RGBa", (64, 32, 16, 128), (127, 63, 31)),
        ("RGBX", (10, 20, 30, 5), (10, 20, 30)),
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
        ("YCbCr", (128, 128, 128), (128, 128, 128)),
        ("HSV", (0, 255, 255), (255, 0, 0)),
        ("LAB", (255, 128, 128), (255, 255, 255)),
        ("I;16", 65535, (255, 255, 255)),
        ("I", 257 * 9, (9, 9, 9)),
    ],
)
def test_one_pixel_of_each_mode(mode, value, expected):
    image = Image.new(mode, (2, 3), value)
    actual = np.asarray(load_image(image)).reshape(-1, 3)
    assert np.abs(actual.astype(int) - expected).max() <= (1 if mode in ("La", "RGBa", "LAB") else 0)
    grey = np.asarray(load_image(image, channels=1))
    luma = np.dot(expected, (0.299, 0.587, 0.114))
    assert np.abs(grey - luma).max() <= 1.5


def test_alpha_is_dropped_not_blended():
    assert load_image(Image.new("RGBA", (1, 1), (200, 100, 50, 0))).getpixel((0, 0)) == (200, 100, 50)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_premultiplied_alpha_is_undone(mode):
    image = random_image(mode)
    image.putalpha(255)
    premultiplied = image.convert(mode[:-1] + "a")
    assert pixels(load_image(premultiplied)) == pixels(image.convert("RGB"))


@pytest.mark.parametrize("transparency", [None, 0, bytes([0, 128, 255])], ids=["none", "index", "bytes"])
@pytest.mark.parametrize("channels", [3, 1])
def test_palette(tmp_path, transparency, channels):
    palette = [(255, 0, 0), (0, 255, 0), (9, 8, 7)]
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette(sum(palette, ()))
    assert image.mode == "P"
    image.save(tmp_path / "p.png", **({} if transparency is None else {"transparency": transparency}))
    loaded = load_image(tmp_path / "p.png", channels)
    expected = palette if channels == 3 else [76, 150, 8]
    assert [loaded.getpixel((x, 0)) for x in range(3)] == expected


def test_palette_with_alpha():
    image = Image.new("P", (2, 1), 1)
    image.putpalette([0, 0, 0, 40, 50, 60])
    with_alpha = image.convert("PA")
    with_alpha.putalpha(0)
    assert with_alpha.mode == "PA"
    assert load_image(with_alpha).getpixel((0, 0)) == (40, 50, 60)


@pytest.mark.parametrize(("mode", "dtype"), [("I;16", "<u2"), ("I;16L", "<u2"), ("I;16B", ">u2"), ("I", "=i4")])
@pytest.mark.parametrize("channels", [3, 1])
def test_16_bits_are_scaled(mode, dtype, channels):
    image = Image.frombytes(mode, (3, 4), np.array(UNITS, dtype).tobytes())
    loaded = np.asarray(load_image(image, channels)).reshape(12, channels)
    assert loaded.tolist() == [[value] * channels for value in UNITS_IN_8_BITS]


def test_16_bit_png_file(tmp_path):
    Image.frombytes("I;16", (3, 4), np.array(UNITS, "<u2").tobytes()).save(tmp_path / "deep.png")
    assert np.asarray(load_image(tmp_path / "deep.png"))[..., 1].ravel().tolist() == UNITS_IN_8_BITS


@pytest.mark.parametrize(("mode", "value"), [("I", 65536), ("I", -1), ("F", 0.5), ("F", float("nan"))])
def test_values_of_unknown_scale_are_refused(mode, value):
    image = Image.new(mode, (2, 2), value)
    with pytest.raises(ImageError, match=rf"mode {mode}, with values from .* scale them to 0..255"):
        load_image(image)


def test_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime", "blue")]
    for name in ("a.gif", "a.tif", "a.png", "a.webp"):
        options = {"lossless": True} if name.endswith("webp") else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert load_image(tmp_path / name).getpixel((2, 2)) == (255, 0, 0), name
