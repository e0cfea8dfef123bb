"""Orientation: pictures are turned upright as their EXIF or XMP says, damaged or not."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from effnets.inference.image import load_rgb
from tests.support.image_bytes import pixels

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def upright() -> Image.Image:
    """A picture of 32×24 pixels in four colours, which JPEG keeps nearly exactly."""
    corners = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    return Image.fromarray(corners.repeat(12, axis=0).repeat(16, axis=1))


# How a camera stores an upright picture for a viewer that follows the tag (EXIF 2.32, 4.6.4).
STORED = {
    1: lambda array: array,
    2: lambda array: array[:, ::-1],
    3: lambda array: array[::-1, ::-1],
    4: lambda array: array[::-1],
    5: lambda array: array.swapaxes(0, 1),
    6: lambda array: np.rot90(array, 1),
    7: lambda array: array[::-1, ::-1].swapaxes(0, 1),
    8: lambda array: np.rot90(array, -1),
}


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_orientation(tmp_path, upright, orientation, suffix):
    path = tmp_path / f"turned.{suffix}"
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(upright))))
    options = {"jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    stored.save(path, exif=exif(orientation), **options)
    loaded = load_rgb(path)
    assert loaded.size == upright.size
    assert np.abs(np.asarray(loaded).astype(int) - np.asarray(upright)).max() <= 4
    assert pixels(load_rgb(loaded)) == pixels(loaded), "an upright image is turned once more"
    with Image.open(path) as opened:
        assert pixels(load_rgb(opened)) == pixels(loaded)
    assert load_rgb(path, channels=1).size == upright.size


def test_orientation_from_xmp(tmp_path, upright):
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    upright.save(tmp_path / "xmp.jpg", xmp=xmp)
    assert load_rgb(tmp_path / "xmp.jpg").size == (24, 32)


TIFF_HEAD = b"Exif\0\0II*\0\x08\0\0\0"


TURN_6 = struct.pack("<HHII", 0x0112, 3, 1, 6)


@pytest.mark.parametrize(
    ("damaged", "turned"),
    [
        (b"Exif\0\0garbage", False),
        (b"Exif\0\0", False),
        (TIFF_HEAD, False),
        (TIFF_HEAD + struct.pack("<H", 500), False),
        (TIFF_HEAD + struct.pack("<H", 1) + struct.pack("<HHII", 0x0112, 2, 40, 9999), False),
        (TIFF_HEAD + struct.pack("<H", 1) + struct.pack("<HHII", 0x0112, 3, 1, 77), False),
        (TIFF_HEAD + struct.pack("<H", 9) + TURN_6, True),
        # 0x9003 says it is a rational, and is an offset beyond the end; rewriting such EXIF fails in Pillow.
        (TIFF_HEAD + struct.pack("<H", 2) + TURN_6 + struct.pack("<HHII", 0x9003, 5, 1, 99999), True),
        (TIFF_HEAD + struct.pack("<H", 2) + TURN_6 + struct.pack("<HHII", 0x8769, 4, 1, 99999), True),
        (TIFF_HEAD + struct.pack("<H", 2) + TURN_6 + struct.pack("<HH4sI", 0x0131, 4, b"\1\0\0\0", 1), True),
    ],
)
def test_damaged_exif(tmp_path, upright, damaged, turned):
    upright.save(tmp_path / "damaged.jpg", exif=damaged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow mentions the damage
        assert load_rgb(tmp_path / "damaged.jpg").size == ((24, 32) if turned else (32, 24))


def test_the_callers_image_is_untouched(tmp_path, upright):
    upright.save(tmp_path / "turned.jpg", exif=exif(6))
    with Image.open(tmp_path / "turned.jpg") as image:
        before = image.info.copy()
        load_rgb(image)
        assert (image.size, image.info) == ((32, 24), before)
    rgb = Image.new("RGB", (2, 2))
    load_rgb(rgb).putpixel((0, 0), (1, 2, 3))
    assert rgb.getpixel((0, 0)) == (0, 0, 0)
