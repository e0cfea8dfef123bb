"""Files: photographs are read; what is damaged, huge or no image is refused by name, and every file is closed."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effnets.errors import ImageError, MissingFileError
from effnets.inference.image import load_image
from tests.support.image_bytes import random_array

PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "data" / "photos"
pytestmark = pytest.mark.filterwarnings("error")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(8)))


def error_of(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(MissingFileError, match=r"nowhere\.jpg does not exist; check its spelling"):
        load_image(tmp_path / "nowhere.jpg")
    with pytest.raises(MissingFileError):
        load_image(str(tmp_path / "nowhere.jpg"))


def test_folder(tmp_path):
    assert "is a folder; name an image file in it" in error_of(tmp_path)


def test_empty_file(tmp_path):
    path = tmp_path / "empty.jpg"
    path.touch()
    assert "is empty (0 bytes); copy or download it again" in error_of(path)


def test_text_file(tmp_path):
    path = tmp_path / "text.jpg"
    path.write_text("not an image")
    assert "is not an image that Pillow can read; convert it to JPEG or PNG" in error_of(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tif", "webp", "ppm", "tga", "ico", "pcx"])
def test_truncated_at_every_length(tmp_path, suffix):
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(random_array(32, 32, 3)).save(whole)
    data = whole.read_bytes()
    load_image(whole)
    path = tmp_path / f"cut.{suffix}"
    for length in np.linspace(1, len(data), 40, endpoint=False, dtype=int):
        path.write_bytes(data[:length])
        try:
            load_image(path)  # Some formats can do without their last bytes.
        except ImageError as error:
            assert str(path) in str(error)  # noqa: PT017
    path.write_bytes(data[: len(data) // 2])
    assert "convert it" in error_of(path) or "cut short" in error_of(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tif", "webp", "ppm", "tga", "ico", "pcx", "jp2"])
def test_flipped_bytes_raise_nothing_else(tmp_path, suffix):
    path = tmp_path / f"noisy.{suffix}"
    Image.fromarray(random_array(24, 24, 3)).save(path)
    data = path.read_bytes()
    rng = np.random.default_rng(len(suffix))
    for _ in range(100):
        noisy = bytearray(data)
        for position in rng.integers(0, min(len(data), 200), 4):
            noisy[position] = rng.integers(256)
        path.write_bytes(noisy)
        try:
            load_image(path)
        except ImageError as error:
            assert str(path) in str(error)  # noqa: PT017


def test_truncated_image_opened_by_the_caller(tmp_path):
    path = tmp_path / "cut.jpg"
    Image.fromarray(random_array(64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with Image.open(path) as image, pytest.raises(ImageError, match=r"cut\.jpg cannot be read .*cut short"):
        load_image(image)


@pytest.mark.parametrize("failure", [MemoryError(), EOFError(), zlib.error("bad"), KeyError("x"), RecursionError()])
def test_whatever_pillow_raises(tmp_path, monkeypatch, failure):
    path = tmp_path / "odd.png"
    Image.new("RGB", (2, 2)).save(path)

    def fail(*_):
        raise failure

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    message = error_of(path)
    assert "()" not in message
    assert str(failure) in message


def test_decompression_bomb(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_claiming(30_000, 30_000))
    message = error_of(path)
    assert "900000000 pixels" in message
    assert "raise PIL.Image.MAX_IMAGE_PIXELS if you trust it" in message


def test_from_half_the_bomb_limit_on_pillow_warns(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = tmp_path / "large.png"
    Image.new("RGB", (15, 10), "red").save(path)
    with pytest.warns(Image.DecompressionBombWarning):
        assert load_image(path).getpixel((14, 9)) == (255, 0, 0)
    assert "exceeds limit of 100 pixels" in error_of(path)  # here warnings are errors: the user's word counts
    Image.new("RGB", (21, 10)).save(path)
    assert "210 pixels" in error_of(path)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="/proc lists this process's open files")
def test_files_are_closed(tmp_path):
    good = [tmp_path / name for name in ("a.jpg", "a.png", "a.gif", "a.tif", "a.bmp", "a.webp")]
    for path in good:
        Image.new("L", (8, 8)).save(path)
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "cut.png").write_bytes(good[1].read_bytes()[:40])
    held = [load_image(path, channels=1) for path in good]
    for name in ("text.jpg", "cut.png"):
        error_of(tmp_path / name)
    open_files = {os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()}
    assert len(held) == 6
    assert not [path for path in open_files if path.startswith(str(tmp_path))]


def test_photographs_are_read():
    if not PHOTOS.is_dir():
        pytest.skip("../shared/data/photos is absent")
    for path in PHOTOS.glob("*.*"):
        with Image.open(path) as image:
            assert np.array_equal(load_image(path), image.convert("RGB")), path


def test_nothing_heavy_is_imported():
    code = "import sys, effnets.inference.image, effnets.inference.labels; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "PIL.Image" in modules
    assert not {"torch", "torchvision", "timm"} & set(modules)
