"""Orientation: pictures are turned upright as their EXIF or XMP says, damaged or not."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from effnets.inference.image import decode_image, image_size, load_image
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


FORMATS = {
    "jpg": {"quality": 95, "subsampling": 0},
    "mpo": {"quality": 95, "subsampling": 0, "save_all": True},
    "png": {},
    "tif": {},
    "webp": {"lossless": True},
    **({"avif": {"quality": 100, "subsampling": "4:4:4"}} if features.check("avif") else {}),
}


def encode(image: Image.Image, orientation: int, suffix: str, **options: object) -> bytes:
    """The file of a picture as a camera that was turned stores it."""
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(image))))
    if suffix == "mpo":
        options["append_images"] = [stored]
    file = io.BytesIO()
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix)
    stored.save(file, kind, exif=exif(orientation), **FORMATS[suffix], **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", FORMATS)
def test_orientation(tmp_path, upright, orientation, suffix):
    path = tmp_path / f"turned.{suffix}"
    path.write_bytes(encode(upright, orientation, suffix))
    loaded = load_image(path)
    assert image_size(path.read_bytes(), suffix) == upright.size
    assert loaded.size == upright.size
    assert np.abs(np.asarray(loaded).astype(int) - np.asarray(upright)).max() <= 4
    assert pixels(load_image(loaded)) == pixels(loaded), "an upright image is turned once more"
    with Image.open(path) as opened:
        assert pixels(load_image(opened)) == pixels(loaded)
    assert load_image(path, channels=1).size == upright.size


def test_orientation_from_xmp(tmp_path, upright):
    upright.save(tmp_path / "xmp.jpg", xmp=XMP)
    assert load_image(tmp_path / "xmp.jpg").size == (24, 32)


@settings(max_examples=60, deadline=None)
@example(width=1, height=1, orientation=1, suffix="jpg", mode="RGB", reduce=2, compression=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    orientation=st.sampled_from(list(STORED)),
    suffix=st.sampled_from(list(FORMATS)),
    mode=st.sampled_from(["RGB", "L"]),
    reduce=st.sampled_from([1, 2, 4, 8]),
    compression=st.sampled_from([None, "tiff_lzw", "jpeg"]),
)
def test_the_size_in_the_header_is_that_of_the_upright_image(
    width, height, orientation, suffix, mode, reduce, compression
):
    image = Image.linear_gradient("L").resize((width, height)).convert(mode)
    options = {"compression": compression} if suffix == "tif" and compression else {}
    data = encode(image, orientation, suffix, **options)
    assert image_size(data, "photo") == (width, height) == decode_image(data, "photo").size
    least = (width, height) if suffix not in ("jpg", "mpo") else (-(-width // reduce), -(-height // reduce))
    reduced = decode_image(data, "photo", min_side=min(width, height) / reduce)
    assert all(low <= side <= whole for low, side, whole in zip(least, reduced.size, (width, height), strict=True))
    top, bottom = (np.asarray(reduced.convert("L"))[row].mean() for row in (0, -1))
    assert top <= bottom + 4


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize(
    ("kind", "options", "turned"),
    [
        ("TIFF", {"tiffinfo": {700: XMP}}, True),
        ("TIFF", {"tiffinfo": {700: XMP}, "compression": "tiff_lzw"}, True),
        ("TIFF", {"tiffinfo": {700: XMP, 274: 8}}, True),
        ("TIFF", {"tiffinfo": {700: XMP, 274: 1}}, False),
        ("JPEG", {"xmp": XMP}, True),
        ("WEBP", {"xmp": XMP}, True),
    ],
)
def test_sizes_of_files_with_xmp(kind, options, turned):
    file = io.BytesIO()
    Image.new("RGB", (32, 24)).save(file, kind, **options)
    size = (24, 32) if turned else (32, 24)
    assert image_size(file.getvalue(), kind) == decode_image(file.getvalue(), kind).size == size


def test_a_png_may_state_its_orientation_after_the_pixels(upright):
    data = encode(upright, 6, "png")
    at = data.index(b"eXIf") - 4
    chunk = data[at : at + 12 + int.from_bytes(data[at : at + 4], "big")]
    moved = data.replace(chunk, b"")
    moved = moved[:-12] + chunk + moved[-12:]  # before IEND
    assert image_size(moved, "late.png") == decode_image(moved, "late.png").size == upright.size


def test_the_directory_of_icons_may_lie():
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "ICO", sizes=[(32, 32)])
    data = bytearray(file.getvalue())
    data[6:8] = 48, 40
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow mentions it
        assert image_size(bytes(data), "icon") == decode_image(bytes(data), "icon").size == (32, 32)


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
        assert load_image(tmp_path / "damaged.jpg").size == ((24, 32) if turned else (32, 24))


def test_the_callers_image_is_untouched(tmp_path, upright):
    upright.save(tmp_path / "turned.jpg", exif=exif(6))
    with Image.open(tmp_path / "turned.jpg") as image:
        before = image.info.copy()
        load_image(image)
        assert (image.size, image.info) == ((32, 24), before)
    rgb = Image.new("RGB", (2, 2))
    load_image(rgb).putpixel((0, 0), (1, 2, 3))
    assert rgb.getpixel((0, 0)) == (0, 0, 0)
