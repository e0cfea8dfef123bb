"""Read images, list those of folders, and bring them to a network's input, without torch."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from effnets.errors import ArgumentError, EffnetsError, ImageError, MissingFileError
from effnets.spec.specs import PreprocessSpec
from effnets.utils.arguments import check_size
from effnets.utils.junk import is_junk

if TYPE_CHECKING:
    from effnets.inference.labels import Prediction


ImageSource: TypeAlias = Image.Image | NDArray[Any] | str | os.PathLike[str]

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
_SWAPPING_SIDES = {_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8]}


def load_rgb(source: ImageSource, channels: int = 3) -> Image.Image:
    """Read an image, turn it upright as its EXIF says, and convert it to 8-bit RGB or grayscale.

    Modes are converted as by the loaders of timm and torchvision, with which the networks were trained:
    transparency is dropped, not blended. Only 16-bit grays, which these saturate, are scaled to 8 bits;
    Pillow's 32-bit mode I passes for 16 bits while its values fit. Of an animation the first frame counts.

    A file whose header claims more than twice ``PIL.Image.MAX_IMAGE_PIXELS`` (179 megapixels by default) is
    refused undecoded; from half of that on Pillow warns (DecompressionBombWarning), and a program that turns this
    warning into an error has the file refused too.

    Args:
        source: a path; a PIL image; or an array, uint8 or uint16, of shape [H, W], [H, W, 1], [H, W, 3] (RGB)
            or [H, W, 4] (RGBA).
        channels: 3 gives an image of mode "RGB", 1 of mode "L".

    Raises:
        MissingFileError: if the file does not exist.
        ImageError: if the image is unreadable, has no pixels, or values of unknown scale (modes F and I).
        ArgumentError: if the source is of another type, or channels is neither 1 nor 3.
    """
    mode = color_mode(channels)
    if isinstance(source, str | os.PathLike):
        return _load_file(Path(source), mode)
    if isinstance(source, np.ndarray):
        return _image_from_array(source).convert(mode)
    if isinstance(source, Image.Image):
        with _pillow_at_work(name_of(source)):
            return _upright_in_mode(source, mode)
    raise ArgumentError(
        f"image is of type {type(source).__name__}; pass a path, a PIL image, "
        "or a uint8 NumPy array of shape [height, width, 3]"
    )


def decode_rgb(data: bytes, name: str, channels: int = 3, *, reduce: int = 1) -> Image.Image:
    """Read an image from the bytes of its file, as `load_rgb` does from a path.

    Args:
        data: the file's content.
        name: of the image, for errors.
        channels: 3 gives an image of mode "RGB", 1 of mode "L".
        reduce: 2, 4 or 8 allows a JPEG to be decoded at no less than that part of its size, which is faster by
            as much; other formats come whole.

    Raises:
        ImageError: if the image is unreadable, has no pixels, or values of unknown scale (modes F and I).
        ArgumentError: if channels is neither 1 nor 3.
    """
    mode = color_mode(channels)
    with _pillow_at_work(name), Image.open(_nonempty(data, name)) as image:
        setattr(image, "filename", name)  # noqa: B010 (for later errors; Pillow's stubs lack it)
        if reduce > 1:
            image.draft(mode, (-(-image.width // reduce), -(-image.height // reduce)))
        return _upright_in_mode(image, mode)


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """Return the (width, height) in pixels, upright, that the header of an image file states.

    Raises:
        ImageError: if the data is not an image.
    """
    with _pillow_at_work(name), Image.open(_nonempty(data, name)) as image:
        width, height = image.size
        return (height, width) if _turn(image) in _SWAPPING_SIDES else (width, height)


def color_mode(channels: int) -> str:
    """Return Pillow's mode for a network with 3 or 1 input channels, or raise an ArgumentError."""
    modes = {3: "RGB", 1: "L"}
    if channels not in modes:
        raise ArgumentError(f"channels is {channels!r}; images have 3 (RGB) or 1 (grayscale)")
    return modes[channels]


def _load_file(path: Path, mode: str) -> Image.Image:
    with _pillow_at_work(str(path)):
        if not os.path.lexists(path):
            raise MissingFileError(f"{path} does not exist; check its spelling and the current folder")
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{path} is a folder; name an image file in it")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{path} is not a regular file; name an image file")
        if status.st_size == 0:
            raise ImageError(f"{path} is empty (0 bytes); copy or download it again")
        with Image.open(path) as image:
            return _upright_in_mode(image, mode)


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


def _upright_in_mode(image: Image.Image, mode: str) -> Image.Image:
    image.load()
    if 0 in image.size:
        raise ImageError(f"{name_of(image)} has no pixels: its size is {image.width}×{image.height}")
    turn = _turn(image)
    upright = _to_8_bits(image).convert(mode)
    if turn is not None:
        upright = upright.transpose(turn)
        upright.info.clear()  # Otherwise its EXIF would turn the image once more.
    setattr(upright, "filename", getattr(image, "filename", ""))  # noqa: B010 (for later errors; Pillow's stubs lack it)
    return upright


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
    return Image.fromarray(_uint16_to_uint8(values))


def _image_from_array(array: NDArray[Any]) -> Image.Image:
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if not is_image or array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise ArgumentError(
            f"image is a {array.dtype} array of shape {list(array.shape)}; pass uint8 (0..255) or uint16 "
            "(0..65535), of shape [height, width], or [height, width, channels] with 1, 3 or 4 channels"
        )
    if array.size == 0:
        raise ImageError(f"image is an array without pixels: its shape is {list(array.shape)}")
    if array.dtype.itemsize == 2:
        array = _uint16_to_uint8(array)
    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)


def _uint16_to_uint8(values: NDArray[Any]) -> NDArray[np.uint8]:
    # 65535 / 255 = 257; half of it rounds to nearest.
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def name_of(image: Image.Image) -> str:
    """Return the name of an image for messages: its file, if known."""
    return str(getattr(image, "filename", "")) or "the image"


# Pillow recognizes these, but they are documents, films and data.
_NOT_IMAGES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"})


@dataclass(slots=True)
class PhotoResult:
    """The predictions for an image file, or the error that prevented them; both are empty before prediction."""

    path: str
    predictions: Sequence[Prediction] = ()
    error: str | None = None


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
    """Return the suffixes, lower case and with their dot, of files that Pillow reads as images."""
    from PIL import Image

    formats = Image.registered_extensions()
    return {suffix for suffix, name in formats.items() if name in Image.OPEN and name not in _NOT_IMAGES}


_MAX_RESIZED_PIXELS = 89_478_485  # Pillow's default limit for decoding


def image_to_array(
    image: Image.Image, preprocess: PreprocessSpec, size: int | tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Resize, crop and normalize an image, bit for bit as timm's evaluation transform does.

    The image is resized, its aspect ratio kept, until it just covers the size divided by `crop_pct`; its
    center is cropped to the size; values become (x/255 - mean) / std. The array is contiguous, of shape
    [C, H, W], with C = 3 for RGB and 1 for L.

    Args:
        image: of mode "RGB" or "L", from `load_rgb`.
        preprocess: of the weights. A grayscale image takes the averages of the three means and stds.
        size: side of a square, or (height, width), in pixels; by default the input size of the weights.

    Raises:
        ImageError: if the image is so elongated that it would be resized to over 89,478,485 pixels.
        ArgumentError: if the size is out of range, or the image has another mode.
    """
    if image.mode not in ("RGB", "L"):
        raise ArgumentError(f"image is of mode {image.mode}; bring it to RGB or L with load_rgb first")
    height, width = check_size(preprocess.input_size if size is None else size)
    new_size = resized_size(image, height, width, preprocess)
    image = center_crop(image.resize(new_size, Image.Resampling[preprocess.interpolation.upper()]), height, width)
    return normalize_pixels(np.asarray(image).reshape(height, width, len(image.getbands())), preprocess)


def normalize_pixels(pixels: NDArray[np.uint8], preprocess: PreprocessSpec) -> NDArray[np.float32]:
    """Return pixels [H, W, C] of 0..255 as a network's input, contiguous [C, H, W]: (x/255 - mean) / std."""
    channels = pixels.shape[2]
    mean = _per_channel("mean", preprocess.mean, channels)
    std = _per_channel("std", preprocess.std, channels)
    return np.ascontiguousarray((pixels.astype(np.float32).transpose(2, 0, 1) / np.float32(255) - mean) / std)


def cover_size(height: int, width: int, preprocess: PreprocessSpec) -> tuple[int, int]:
    """Return the (height, width) that a resized image just covers, before the center crop of `height` × `width`."""
    return math.floor(height / preprocess.crop_pct), math.floor(width / preprocess.crop_pct)


def resized_size(image: Image.Image, height: int, width: int, preprocess: PreprocessSpec) -> tuple[int, int]:
    """Return the (width, height) that an image is resized to, before the center crop of `height` × `width`.

    Raises:
        ImageError: if these are over 89,478,485 pixels.
    """
    cover_height, cover_width = cover_size(height, width, preprocess)
    if cover_height == cover_width:  # torchvision's Resize, which truncates the longer side, …
        shorter = min(image.size)
        new_width = int(cover_width * image.width / shorter)
        new_height = int(cover_height * image.height / shorter)
    else:  # … or timm's ResizeKeepRatio, which rounds it.
        ratio = min(image.width / cover_width, image.height / cover_height)
        new_width = round(image.width / ratio)
        new_height = round(image.height / ratio)
    if new_width * new_height > _MAX_RESIZED_PIXELS:
        raise ImageError(
            f"{name_of(image)} of {image.width}×{image.height} pixels would be resized to {new_width}×{new_height}, "
            f"above the limit of {_MAX_RESIZED_PIXELS}; crop it to a less elongated shape, or choose a smaller size"
        )
    return new_width, new_height


def center_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """Return the center of an image of at least that size."""
    # The image covers the crop, as crop_pct is at most 1. Halves are rounded to even, as in torchvision.
    left, top = (round(edge) for edge in crop_box(image.size, width, height)[:2])
    return image.crop((left, top, left + width, top + height))


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


def _per_channel(name: str, values: tuple[float, ...], channels: int) -> NDArray[np.float32]:
    """Return the values as [C, 1, 1], or as [1, 1, 1] if one serves all channels."""
    if channels == 1:
        values = (fmean(values),)
    if len(values) not in (1, channels):
        raise ArgumentError(f"preprocess.{name} has {len(values)} numbers; give one for each channel")
    return np.array(values, np.float32).reshape(-1, 1, 1)
