"""Read images, list those of folders, and bring them to a network's input, without torch."""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from effnets.errors import ArgumentError, EffnetsError, ImageError, MissingFileError
from effnets.inference.arrays import (
    COLOR_MODES,
    NPY,
    Pixels,
    image_from_array,
    is_array,
    npy_size,
    read_npy,
    read_pages,
    resize,
    size_of,
    uint16_to_uint8,
)
from effnets.spec.specs import PreprocessSpec
from effnets.utils.arguments import check_integer, check_size
from effnets.utils.junk import is_junk

if TYPE_CHECKING:
    from torch import Tensor

    from effnets.inference.labels import Prediction


ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[Any] | Tensor"
)
_T = TypeVar("_T")

# EXIF 2.32, tag Orientation: what turns the stored pixels upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What stands before an orientation in a PNG: its own chunk, ImageMagick's text, XMP.
_PNG_ORIENTATION = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
_SWAPPING_SIDES = {_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8]}


def load_image(source: ImageSource, channels: int = 3, *, min_side: float | None = None) -> Pixels:
    """Read an image, turn it upright as its EXIF says, and bring it to a network's channels.

    Modes are converted as by the loaders of timm and torchvision, with which the networks were trained:
    transparency is dropped, not blended. Only 16-bit grays, which these saturate, are scaled to 8 bits;
    Pillow's 32-bit mode I passes for 16 bits while its values fit. Of an animation the first frame counts.

    A file whose header claims more than twice ``PIL.Image.MAX_IMAGE_PIXELS`` (179 megapixels by default) is
    refused undecoded; from half of that on Pillow warns (DecompressionBombWarning), and a program that turns this
    warning into an error has the file refused too.

    Args:
        source: a path; the content of an image file, or a binary file, which is read from where it stands and not
            closed; a PIL image; a NumPy array or a torch tensor, as `effnets.inference.arrays.image_from_array` takes
            it, in RGB: of OpenCV's BGR pass ``image[..., ::-1]``. Floats are rounded to 8 bits.
        channels: 3 gives an image of mode "RGB", 1 of mode "L", 4 of mode "RGBA", opaque if the image has no
            transparency. Other numbers give float32 ``[H, W, channels]``, from a ``.npy`` file, a TIFF with a page for
            each channel, or an array: uint8 and uint16 as 0..1, floats as they are.
        min_side: as of `decode_image`.

    Raises:
        MissingFileError: if the file does not exist.
        ImageError: if the image is unreadable, has no pixels, or values of unknown scale (modes F and I).
        ArgumentError: if the source is of another type, or the array of a wrong shape, type or range.
    """
    color_mode(channels)
    if isinstance(source, str | os.PathLike):
        return _load_file(source, channels, min_side)
    if is_array(source):
        return _in_channels(image_from_array(source, channels), channels)
    if isinstance(source, Image.Image):
        with _pillow_at_work(name_of(source)):
            return _upright(source, channels)
    if isinstance(source, bytes | bytearray | memoryview):
        return decode_image(bytes(source), f"the image of {len(source)} bytes", channels, min_side=min_side)
    if hasattr(source, "read"):
        name = str(getattr(source, "name", None) or "the image in the file")
        data = source.read()
        if not isinstance(data, bytes):
            raise ArgumentError(f"{name} was opened as text; open it with mode 'rb'")
        if not data:
            raise ImageError(f"{name} is at its end, or empty; go to the image first, with seek(0) for example")
        return decode_image(data, name, channels, min_side=min_side)
    raise ArgumentError(
        f"image is of type {type(source).__name__}; pass a path, a PIL image, a uint8 NumPy array of shape [height, "
        "width, 3] (RGB), a tensor [3, height, width], or the content of an image file as bytes or as a binary file"
    )


def decode_image(data: bytes, name: str, channels: int | None = 3, *, min_side: float | None = None) -> Pixels:
    """Read an image from the bytes of its file, as `load_image` does from a path.

    Args:
        data: the file's content.
        name: of the image, for errors.
        channels: of the result, as of `load_image`; None for those of the file, to check whether it can be read.
        min_side: allows a JPEG to be decoded at a half, a quarter or an eighth of its size, which is faster, as long
            as its shorter side keeps so many pixels; other formats come whole, and so does everything with None.

    Raises:
        ImageError: if the image is unreadable, has no pixels, or values of unknown scale (modes F and I).
    """
    with _pillow_at_work(name):
        return _decode(_nonempty(data, name), name, channels, min_side)


def image_size(data: bytes, name: str, channels: int = 3) -> tuple[int, int]:
    """Return the (width, height) in pixels of the whole image that `decode_image` returns, upright, from the header.

    Raises:
        ImageError: if the data is not an image.
    """
    if data.startswith(NPY):
        with _array_in_file():
            return npy_size(read_npy(BytesIO(data), name), channels, name)
    with _pillow_at_work(name), Image.open(_nonempty(data, name)) as image:
        if image.format in ("ICO", "ICNS"):
            image.load()  # The directory of a file of icons may state another size than the icon has.
        width, height = image.size
        if image.format == "PNG" and not any(mark in data for mark in _PNG_ORIENTATION):
            return width, height  # Otherwise Pillow would decode it, since EXIF may come after the pixels.
        # Pillow itself turns TIFFs: as soon as they are opened if the tag says so, only with the pixels if XMP does.
        is_swapped = getattr(image, "tag_v2", {}).get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        return (height, width) if (_turn(image) in _SWAPPING_SIDES) != is_swapped else (width, height)


def color_mode(channels: int) -> str:
    """Return Pillow's mode for a network with 3, 1 or 4 input channels, or the number of others as text.

    Raises:
        ArgumentError: if it is not a number of channels.
    """
    check_integer("channels", channels, 1, "images have 3 (RGB), 1 (grayscale), 4 (RGBA), or the network's own number")
    return COLOR_MODES.get(channels, f"{channels} channels")


@contextmanager
def _array_in_file() -> Iterator[None]:
    """Turn an ArgumentError about an array into an ImageError: the file is at fault, not an argument."""
    try:
        yield
    except ArgumentError as error:
        raise ImageError(str(error)) from error


def _decode(file: IO[bytes], name: str, channels: int | None, min_side: float | None = None) -> Pixels:
    if file.read(len(NPY)) == NPY:
        file.seek(0)
        array = read_npy(file, name)
        if channels is None:
            return array
        with _array_in_file():
            return _in_channels(image_from_array(array, channels, name), channels)
    file.seek(0)
    try:
        opened = Image.open(file)
    except UnidentifiedImageError as error:
        if channels is None or channels in COLOR_MODES:
            raise
        raise ImageError(
            f"{name} is not an image that Pillow can read; save its {channels} channels as .npy, [height, width, "
            f"{channels}], or as a TIFF with a page for each"
        ) from error
    with opened as image:
        setattr(image, "filename", name)  # noqa: B010 (for later errors; Pillow's stubs lack it)
        if min_side is not None and channels in COLOR_MODES:
            reduce = next((power for power in (8, 4, 2) if min(image.size) >= power * min_side), 1)
            if reduce > 1:  # otherwise a draft would still change how gray is computed
                image.draft(COLOR_MODES[channels], (max(1, image.width // reduce), max(1, image.height // reduce)))
        return _upright(image, channels, is_ours=True)


def _load_file(source: str | os.PathLike[str], channels: int, min_side: float | None) -> Pixels:
    path = Path(source)
    with _pillow_at_work(str(path)):
        if not os.path.lexists(path):
            if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fspath(source)):
                raise ArgumentError(
                    f"{os.fspath(source)} is an address, and images are not downloaded; save it as a file first, or "
                    "pass its content: urllib.request.urlopen(url).read()"
                )
            raise MissingFileError(f"{path} does not exist; check its spelling and the current folder")
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{path} is a folder; name an image file in it")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{path} is not a regular file; name an image file")
        if status.st_size == 0:
            raise ImageError(f"{path} is empty (0 bytes); copy or download it again")
        with path.open("rb") as file:
            return _decode(file, str(path), channels, min_side)


def _nonempty(data: bytes, name: str) -> BytesIO:
    if not data:
        raise ImageError(f"{name} is empty (0 bytes); copy or download it again")
    return BytesIO(data)


@contextmanager
def _pillow_at_work(name: str) -> Iterator[None]:
    """Turn what Pillow raises into an ImageError about the image of that name."""
    try:
        yield
    except EffnetsError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not an image that Pillow can read; convert it to JPEG or PNG") from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name} was not decoded, because of the size it claims: {error} "
            "Scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        ) from error
    except OSError as error:
        if error.errno is None:  # Pillow's own, about the content
            raise _damaged(name, error) from error
        raise ImageError(f"{name} cannot be opened ({error.strerror})") from error
    except Exception as error:  # Over damaged files Pillow stumbles in any way: struct.error, KeyError, …
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> ImageError:
    return ImageError(
        f"{name} cannot be read as an image ({str(error) or type(error).__name__}); "
        "it may be damaged or cut short: copy it again, or save it again as JPEG or PNG"
    )


def _upright(image: Image.Image, channels: int | None, *, is_ours: bool = False) -> Pixels:
    name = name_of(image)
    pages = getattr(image, "n_frames", 1) if image.format == "TIFF" and channels not in (1, 3) else 1
    if channels is None and pages > 1 and image.mode[0] in "FI":
        channels = pages
    elif channels == 4 and pages == 4 and len(image.getbands()) == 1:
        return image_from_array(read_pages(image, 4, name), 4, name)
    if channels is not None and channels not in COLOR_MODES:
        return read_pages(image, channels, name)
    image.load()
    if 0 in image.size:
        raise ImageError(f"{name} has no pixels: its size is {image.width}×{image.height}")
    turn = _turn(image)
    if is_ours and image.mode == COLOR_MODES[channels or 3] and not image.readonly:  # that is, no view of the file
        upright: Any = cast(Any, image)._new(image.im)  # the same pixels, without the file; convert would copy them
    else:
        upright = _in_channels(_to_8_bits(image), channels or 3)
    if turn is not None:
        upright = upright.transpose(turn)
        upright.info.clear()  # Otherwise its EXIF would turn the image once more.
    setattr(upright, "filename", getattr(image, "filename", ""))  # noqa: B010 (for later errors; Pillow's stubs lack it)
    return upright


def _in_channels(image: Any, channels: int) -> Any:
    """Return a PIL image in the mode of so many channels; planes as they are."""
    if channels not in COLOR_MODES:
        return image
    if channels == 4 and image.mode == "RGBX":  # how Pillow opens a TIFF of four channels
        return Image.merge("RGBA", image.split())
    if channels == 4 and image.mode in ("CMYK", "YCbCr", "HSV"):
        image = image.convert("RGB")  # Pillow has no direct conversion.
    return image.convert(COLOR_MODES[channels])


def image_turn(data: bytes) -> Image.Transpose | None:
    """Return what turns the stored pixels of an image file upright; None if they are."""
    with suppress(Exception), Image.open(BytesIO(data)) as image:
        return _turn(image)
    return None


def _turn(image: Image.Image) -> Image.Transpose | None:
    # Not ImageOps.exif_transpose: it also rewrites the EXIF, and fails if any of it is damaged.
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Viewers show an image with unreadable EXIF as it is stored.
        return None


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Convert the modes for which Pillow's ``convert`` is wrong or lacking to one for which it is right."""
    if image.mode in ("La", "LAB"):
        return image.convert("LA" if image.mode == "La" else "RGB")
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        return image.convert("RGBA")  # The same colors; Pillow warns about the direct conversion.
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{name_of(image)} is of mode {image.mode}, with values from {values.min()} to {values.max()}; "
            "scale them to 0..255 and pass a uint8 array"
        )
    return Image.fromarray(uint16_to_uint8(values))


def name_of(image: Pixels) -> str:
    """Return the name of an image for messages: its file, if known."""
    return str(getattr(image, "filename", "")) or "the image"


# Pillow recognizes these, but they are documents, films and data.
NOT_IMAGES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"})


@dataclass(slots=True)
class PhotoResult:
    """The predictions for an image file, or the error that prevented them; both are empty before prediction."""

    path: str
    predictions: Sequence[Prediction] = ()
    error: str | None = None

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        if self.error:
            return {"path": self.path, "error": self.error}
        return {"path": self.path, "predictions": [asdict(prediction) for prediction in self.predictions]}


def find_photos(paths: Iterable[str], report: Callable[[str], object]) -> Iterator[PhotoResult]:
    """Yield every path that is not a folder, and the image files in folders and their subfolders.

    A folder that cannot be read, or has no image, yields a result with an error. `report` is called with a message
    about the other files in a folder; junk is skipped silently.
    """
    for path in paths:
        if not path:
            yield PhotoResult(path, error="'' is not a path")
        elif os.path.isdir(path):
            yield from _search(path, image_suffixes(), report)
        else:
            yield PhotoResult(path)


def _search(folder: str, suffixes: set[str], report: Callable[[str], object]) -> Iterator[PhotoResult]:
    others: list[str] = []
    unreadable: list[OSError] = []
    found = False
    for root, folders, files in os.walk(folder, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not is_junk(name))
        others += [f"{name} (a link to a folder)" for name in folders if os.path.islink(os.path.join(root, name))]
        for name in sorted(name for name in files if not is_junk(name)):
            if Path(name).suffix.lower() in suffixes:
                found = True
                yield PhotoResult(os.path.join(root, name))
            else:
                others.append(name)
    for error in unreadable:
        yield PhotoResult(str(error.filename), error=f"{error.filename}: cannot be read ({error.strerror})")
    if others:
        shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        report(f"{folder}: passed over {len(others)} that are no image files by their names: {shown}")
    if not found and not unreadable:
        yield PhotoResult(folder, error=f"{folder}: no image file in this folder")


def image_suffixes() -> set[str]:
    """Return the suffixes, lower case and with their dot, of files that are read as images, Pillow's and .npy."""
    formats = Image.registered_extensions()
    return {suffix for suffix, name in formats.items() if name in Image.OPEN and name not in NOT_IMAGES} | {".npy"}


_MAX_RESIZED_PIXELS = 89_478_485  # Pillow's default limit for decoding


def image_to_array(
    image: Pixels, preprocess: PreprocessSpec, size: int | tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Resize, crop and normalize an image, bit for bit as timm's evaluation transform does.

    The image is resized, its aspect ratio kept, until it just covers the size divided by `crop_pct`; its
    center is cropped to the size; values become (x/255 - mean) / std, planes' (x - mean) / std. The array is
    contiguous, of shape [C, H, W].

    Args:
        image: of mode "RGB", "L" or "RGBA", or planes, from `load_image`.
        preprocess: of the weights, for any number of channels that `PreprocessSpec.for_channels` knows.
        size: side of a square, or (height, width), in pixels; by default the input size of the weights.

    Raises:
        ImageError: if the image is so elongated that it would be resized to over 89,478,485 pixels.
        ArgumentError: if the size is out of range, the image has another mode, or mean and std another number.
    """
    return normalize_pixels(crop_pixels(image, preprocess, size), preprocess)


def crop_pixels(image: Pixels, preprocess: PreprocessSpec, size: int | tuple[int, int] | None = None) -> NDArray[Any]:
    """Return an image resized and cropped as by `image_to_array`, but not normalized: ``[H, W, C]``; raises as that."""
    if isinstance(image, Image.Image) and image.mode not in COLOR_MODES.values():
        raise ArgumentError(f"image is of mode {image.mode}; bring it to RGB or L with load_image first")
    height, width = check_size(preprocess.input_size if size is None else size)
    new_size = resized_size(image, height, width, preprocess)
    image = center_crop(resize(image, new_size, Image.Resampling[preprocess.interpolation.upper()]), height, width)
    return np.asarray(image).reshape(height, width, -1)


def normalize_pixels(pixels: NDArray[Any], preprocess: PreprocessSpec) -> NDArray[np.float32]:
    """Return pixels [H, W, C] as a network's input, contiguous [C, H, W]: (x/255 - mean) / std; floats without /255."""
    preprocess = preprocess.for_channels(pixels.shape[2])
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (preprocess.mean, preprocess.std))
    values = pixels.transpose(2, 0, 1).astype(np.float32, order="C")
    if pixels.dtype == np.uint8:
        values /= np.float32(255)
    values -= mean
    values /= std
    return values


def cover_size(height: int, width: int, preprocess: PreprocessSpec) -> tuple[int, int]:
    """Return the (height, width) that a resized image just covers, before the center crop of `height` × `width`."""
    return math.floor(height / preprocess.crop_pct), math.floor(width / preprocess.crop_pct)


def fast_side(preprocess: PreprocessSpec, size: int | tuple[int, int] | None = None) -> float:
    """Return the `min_side` of `decode_image` that leaves the resize twice the pixels that it needs, across and down.

    That much libjpeg's averages of 2 × 2, 4 × 4 and 8 × 8 pixels do not show after it (docs/throughput.md).
    """
    height, width = check_size(preprocess.input_size if size is None else size)
    return 2.0 * max(cover_size(height, width, preprocess))


def resized_size(image: Pixels, height: int, width: int, preprocess: PreprocessSpec) -> tuple[int, int]:
    """Return the (width, height) that an image is resized to, before the center crop of `height` × `width`.

    Raises:
        ImageError: if these are over 89,478,485 pixels.
    """
    cover_height, cover_width = cover_size(height, width, preprocess)
    old_width, old_height = size_of(image)
    if cover_height == cover_width:  # torchvision's Resize, which truncates the longer side, …
        shorter = min(old_width, old_height)
        new_width = int(cover_width * old_width / shorter)
        new_height = int(cover_height * old_height / shorter)
    else:  # … or timm's ResizeKeepRatio, which rounds it.
        ratio = min(old_width / cover_width, old_height / cover_height)
        new_width = round(old_width / ratio)
        new_height = round(old_height / ratio)
    if new_width * new_height > _MAX_RESIZED_PIXELS:
        raise ImageError(
            f"{name_of(image)} of {old_width}×{old_height} pixels would be resized to {new_width}×{new_height}, "
            f"above the limit of {_MAX_RESIZED_PIXELS}; crop it to a less elongated shape, or choose a smaller size"
        )
    return new_width, new_height


def center_crop(image: Pixels, height: int, width: int) -> Pixels:
    """Return the center of an image of at least that size."""
    # The image covers the crop, as crop_pct is at most 1. Halves are rounded to even, as in torchvision.
    left, top = (round(edge) for edge in crop_box(size_of(image), width, height)[:2])
    if isinstance(image, Image.Image):
        return image.crop((left, top, left + width, top + height))
    return image[top : top + height, left : left + width]


def crop_box(
    size: tuple[int, int], width: float, height: float, left: float | None = None, top: float | None = None
) -> tuple[float, float, float, float]:
    """Return the box (left, top, right, bottom) in pixels of a crop of an image of `size`, (width, height).

    The crop is central by default. The box is clamped to the image: for one size in fifty, rounding would put an edge
    1e-14 pixels outside of it, which Pillow refuses.
    """
    left = (size[0] - width) / 2 if left is None else left
    top = (size[1] - height) / 2 if top is None else top
    left, top = min(max(left, 0.0), size[0]), min(max(top, 0.0), size[1])
    return left, top, min(left + width, size[0]), min(top + height, size[1])
