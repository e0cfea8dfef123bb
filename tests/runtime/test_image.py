from __future__ import annotations

import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effnets.errors import ArgumentError, ImageError, MissingFileError
from effnets.runtime.image import check_size, color_mode, image_to_array, load_rgb
from effnets.spec import PreprocessSpec

PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "data" / "photos"
BANDS = {"LA": 2, "La": 2, "PA": 2, "RGB": 3, "YCbCr": 3, "LAB": 3, "HSV": 3}
BANDS |= dict.fromkeys(("RGBA", "RGBa", "RGBX", "CMYK"), 4)
UNITS = [0, 1, 128, 129, 256, 257, 32767, 32768, 65278, 65535, 5000, 40000]  # of a 3×4 16-bit image
UNITS_IN_8_BITS = [0, 0, 0, 1, 1, 1, 127, 128, 254, 255, 19, 156]


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def random_array(*shape: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def random_image(mode: str, width: int = 6, height: int = 5) -> Image.Image:
    return Image.frombytes(mode, (width, height), random_array(height, width, BANDS[mode]).tobytes())


def pixels(image: Image.Image) -> list:
    return np.asarray(image).tolist()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(8)))


# Modes


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LA"])
@pytest.mark.parametrize("channels", [3, 1])
def test_colors_are_pillows(mode, channels):
    image = random_image(mode)
    target = "RGB" if channels == 3 else "L"
    assert load_rgb(image, channels).mode == target
    assert pixels(load_rgb(image, channels)) == pixels(image.convert(target))


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
    actual = np.asarray(load_rgb(image)).reshape(-1, 3)
    assert np.abs(actual.astype(int) - expected).max() <= (1 if mode in ("La", "RGBa", "LAB") else 0)
    grey = np.asarray(load_rgb(image, channels=1))
    luma = np.dot(expected, (0.299, 0.587, 0.114))
    assert np.abs(grey - luma).max() <= 1.5


def test_alpha_is_dropped_not_blended():
    assert load_rgb(Image.new("RGBA", (1, 1), (200, 100, 50, 0))).getpixel((0, 0)) == (200, 100, 50)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_premultiplied_alpha_is_undone(mode):
    image = random_image(mode)
    image.putalpha(255)
    premultiplied = image.convert(mode[:-1] + "a")
    assert pixels(load_rgb(premultiplied)) == pixels(image.convert("RGB"))


@pytest.mark.parametrize("transparency", [None, 0, bytes([0, 128, 255])], ids=["none", "index", "bytes"])
@pytest.mark.parametrize("channels", [3, 1])
def test_palette(tmp_path, transparency, channels):
    palette = [(255, 0, 0), (0, 255, 0), (9, 8, 7)]
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette(sum(palette, ()))
    assert image.mode == "P"
    image.save(tmp_path / "p.png", **({} if transparency is None else {"transparency": transparency}))
    loaded = load_rgb(tmp_path / "p.png", channels)
    expected = palette if channels == 3 else [76, 150, 8]
    assert [loaded.getpixel((x, 0)) for x in range(3)] == expected


def test_palette_with_alpha():
    image = Image.new("P", (2, 1), 1)
    image.putpalette([0, 0, 0, 40, 50, 60])
    with_alpha = image.convert("PA")
    with_alpha.putalpha(0)
    assert with_alpha.mode == "PA"
    assert load_rgb(with_alpha).getpixel((0, 0)) == (40, 50, 60)


@pytest.mark.parametrize(("mode", "dtype"), [("I;16", "<u2"), ("I;16L", "<u2"), ("I;16B", ">u2"), ("I", "=i4")])
@pytest.mark.parametrize("channels", [3, 1])
def test_16_bits_are_scaled(mode, dtype, channels):
    image = Image.frombytes(mode, (3, 4), np.array(UNITS, dtype).tobytes())
    loaded = np.asarray(load_rgb(image, channels)).reshape(12, channels)
    assert loaded.tolist() == [[value] * channels for value in UNITS_IN_8_BITS]


def test_16_bit_png_file(tmp_path):
    Image.frombytes("I;16", (3, 4), np.array(UNITS, "<u2").tobytes()).save(tmp_path / "deep.png")
    assert np.asarray(load_rgb(tmp_path / "deep.png"))[..., 1].ravel().tolist() == UNITS_IN_8_BITS


@pytest.mark.parametrize(("mode", "value"), [("I", 65536), ("I", -1), ("F", 0.5), ("F", float("nan"))])
def test_values_of_unknown_scale_are_refused(mode, value):
    image = Image.new(mode, (2, 2), value)
    with pytest.raises(ImageError, match=rf"mode {mode}, with values from .* scale them to 0..255"):
        load_rgb(image)


def test_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime", "blue")]
    for name in ("a.gif", "a.tif", "a.png", "a.webp"):
        options = {"lossless": True} if name.endswith("webp") else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert load_rgb(tmp_path / name).getpixel((2, 2)) == (255, 0, 0), name


# Arrays


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
def test_uint8_arrays(shape):
    array = random_array(*shape)
    colors = array[..., :3] if len(shape) == 3 else array[..., None]
    assert pixels(load_rgb(array)) == np.broadcast_to(colors, (4, 5, 3)).tolist()


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_uint16_arrays_are_scaled(dtype):
    array = random_array(4, 5, 3, dtype="uint16")
    assert pixels(load_rgb(array.astype(dtype))) == np.round(array / 257).astype(int).tolist()


def test_views_of_arrays():
    array = random_array(8, 6, 3)
    assert pixels(load_rgb(array[::-2, ::3, ::-1])) == array[::-2, ::3, ::-1].tolist()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 5, 3), np.float32),
        np.zeros((4, 5, 3), np.int64),
        np.zeros((4, 5, 3), bool),
        np.zeros((3, 4, 5), np.uint8),
        np.zeros((1, 4, 5, 3), np.uint8),
        np.zeros((4, 5, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.array("photo.jpg"),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_other_arrays_are_refused(array):
    with pytest.raises(ArgumentError, match=r"image is a .* array of shape .*; pass uint8 \(0..255\)") as caught:
        load_rgb(array)
    assert str(array.dtype) in str(caught.value)
    assert str(list(array.shape)) in str(caught.value)


@pytest.mark.parametrize("source", [np.zeros((0, 5, 3), np.uint8), Image.new("RGB", (5, 0)), Image.new("I", (0, 1))])
def test_images_without_pixels_are_refused(source):
    with pytest.raises(ImageError, match=r"pixels"):
        load_rgb(source)


@pytest.mark.parametrize("source", [None, b"photo.jpg", 3, [[1, 2], [3, 4]]])
def test_other_sources_are_refused(source):
    with pytest.raises(ArgumentError, match=rf"type {type(source).__name__}; pass a path, a PIL image"):
        load_rgb(source)


@pytest.mark.parametrize("channels", [0, 2, 4, "RGB"])
def test_other_channel_counts_are_refused(channels):
    with pytest.raises(ArgumentError, match="channels is"):
        load_rgb(Image.new("RGB", (1, 1)), channels)
    assert color_mode(1) == "L"


# Orientation


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
    assert load_rgb(tmp_path / "damaged.jpg").size == ((24, 32) if turned else (32, 24))


# Files that are no images


def error_of(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        load_rgb(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(MissingFileError, match=r"nowhere\.jpg does not exist; check its spelling"):
        load_rgb(tmp_path / "nowhere.jpg")
    with pytest.raises(MissingFileError):
        load_rgb(str(tmp_path / "nowhere.jpg"))


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
    load_rgb(whole)
    path = tmp_path / f"cut.{suffix}"
    for length in np.linspace(1, len(data), 40, endpoint=False, dtype=int):
        path.write_bytes(data[:length])
        try:
            load_rgb(path)  # Some formats can do without their last bytes.
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
            load_rgb(path)
        except ImageError as error:
            assert str(path) in str(error)  # noqa: PT017


def test_truncated_image_opened_by_the_caller(tmp_path):
    path = tmp_path / "cut.jpg"
    Image.fromarray(random_array(64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with Image.open(path) as image, pytest.raises(ImageError, match=r"cut\.jpg cannot be read .*cut short"):
        load_rgb(image)


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


def test_below_the_bomb_limit_there_is_no_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = tmp_path / "large.png"
    Image.new("RGB", (15, 10), "red").save(path)
    with pytest.warns(Image.DecompressionBombWarning), Image.open(path):
        pass
    assert load_rgb(path).getpixel((14, 9)) == (255, 0, 0)
    Image.new("RGB", (21, 10)).save(path)
    assert "210 pixels" in error_of(path)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="/proc lists this process's open files")
def test_files_are_closed(tmp_path):
    good = [tmp_path / name for name in ("a.jpg", "a.png", "a.gif", "a.tif", "a.bmp", "a.webp")]
    for path in good:
        Image.new("L", (8, 8)).save(path)
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "cut.png").write_bytes(good[1].read_bytes()[:40])
    held = [load_rgb(path, channels=1) for path in good]
    for name in ("text.jpg", "cut.png"):
        error_of(tmp_path / name)
    open_files = {os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()}
    assert len(held) == 6
    assert not [path for path in open_files if path.startswith(str(tmp_path))]


def test_the_callers_image_is_untouched(tmp_path, upright):
    upright.save(tmp_path / "turned.jpg", exif=exif(6))
    with Image.open(tmp_path / "turned.jpg") as image:
        before = image.info.copy()
        load_rgb(image)
        assert (image.size, image.info) == ((32, 24), before)
    rgb = Image.new("RGB", (2, 2))
    load_rgb(rgb).putpixel((0, 0), (1, 2, 3))
    assert rgb.getpixel((0, 0)) == (0, 0, 0)


# Arrays for the network (that they equal timm's is tested in tests/test_preprocess.py)


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
        image_to_array(load_rgb(path), PreprocessSpec())


def test_elongated_images_within_the_limit_are_taken():
    assert image_to_array(Image.new("RGB", (20, 4000)), PreprocessSpec(), 64).shape == (3, 64, 64)


@pytest.mark.parametrize("mode", ["RGBA", "P", "I;16"])
def test_other_modes_are_refused(mode):
    with pytest.raises(ArgumentError, match=f"mode {mode}; bring it to RGB or L with load_rgb"):
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


def test_photographs_are_read():
    if not PHOTOS.is_dir():
        pytest.skip("../shared/data/photos is absent")
    for path in PHOTOS.glob("*.*"):
        with Image.open(path) as image:
            assert np.array_equal(load_rgb(path), image.convert("RGB")), path


def test_nothing_heavy_is_imported():
    code = "import sys, effnets.runtime.image, effnets.runtime.labels; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "PIL.Image" in modules
    assert not {"torch", "torchvision", "timm"} & set(modules)
