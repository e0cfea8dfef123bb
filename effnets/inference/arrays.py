"""Arrays as images: those and the tensors of a program, ``.npy`` files, and images of any number of channels.

Images of 1, 3 or 4 channels are PIL images of mode "L", "RGB" or "RGBA". Pillow has no others, so an image of 2, or of
more than 4, is an array: float32 ``[H, W, C]``, called planes here. Free of torch.
"""

from __future__ import annotations

import sys
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnets.errors import ArgumentError, ImageError

Pixels: TypeAlias = Image.Image | NDArray[np.float32]

COLOR_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
NPY = b"\x93NUMPY"

_HALF_LEVEL = 0.5 / 255
_LARGEST = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


def is_array(source: object) -> bool:
    """Return whether `source` is a NumPy array or a torch tensor; torch is not imported for this."""
    return isinstance(source, np.ndarray) or _is_tensor(source)


def image_from_array(source: Any, channels: int, name: str = "image") -> Pixels:
    """Return an array or a tensor as an image: a PIL image of 8 bits, in its own mode, if `channels` is 1, 3 or 4.

    Args:
        source: a NumPy array ``[H, W]`` or ``[H, W, C]``, or a tensor ``[C, H, W]``, on any device: uint8 (0..255),
            uint16 (0..65535), or floats. C is 1, 3 (RGB) or 4 (RGBA), and the floats are in 0..1; or C is `channels`,
            if these are 2 or more than 4, and the floats have the unit of the weights' mean and std. In this last
            case an array may also be ``[C, H, W]``.
        channels: of the network.
        name: of the image, for errors.

    Raises:
        ArgumentError: if the array has another shape or type, or values beyond 0..1.
        ImageError: if it has no pixels, or values that are not finite.
    """
    layout = _layout(source, channels, name)
    array = _to_numpy(source, name) if _is_tensor(source) else np.asarray(source)
    if 0 in array.shape:
        raise ImageError(f"{name} is an array without pixels: its shape is {list(array.shape)}")
    array = np.moveaxis(array, 0, -1) if layout == "CHW" else array
    if channels not in COLOR_MODES:
        return _to_planes(array, name)
    if array.dtype.kind == "f":
        _check_finite(array, name)
        low, high = float(array.min()), float(array.max())
        if low < -_HALF_LEVEL or high > 1 + _HALF_LEVEL:
            looks = (
                "they look normalized already: pass the image before that, it is normalized here"
                if low < 0
                else "they look like 0..255: divide them by 255, or convert them to uint8"
            )
            raise ArgumentError(f"{name} has floats from {low:.4g} to {high:.4g}, and they must be in 0..1; {looks}")
        array = np.round(array.astype(np.float32).clip(0, 1) * 255).astype(np.uint8)
    elif array.dtype.itemsize == 2:
        array = uint16_to_uint8(array)
    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)


def _to_planes(array: NDArray[Any], name: str) -> NDArray[np.float32]:
    _check_finite(array, name)
    largest = _LARGEST.get(array.dtype.newbyteorder("="), 1)
    return np.ascontiguousarray(array, np.float32) / np.float32(largest)


def _check_finite(array: NDArray[Any], name: str) -> None:
    if not np.isfinite(array).all():
        raise ImageError(f"{name} has values that are NaN or infinite; replace them first")


def uint16_to_uint8(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale 0..65535 to 0..255."""
    # 65535 / 255 = 257; half of it rounds to nearest.
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def read_npy(file: IO[bytes], name: str) -> NDArray[Any]:
    """Read an array from a ``.npy`` file; raises an ImageError if it is damaged or holds Python objects."""
    try:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # Damaged headers raise nearly anything: they are Python literals.
        raise ImageError(f"{name} cannot be read as a .npy file ({error}); save it again with numpy.save") from error
    return array


def npy_size(array: NDArray[Any], channels: int, name: str) -> tuple[int, int]:
    """Return the (width, height) of an array's image; raises as `image_from_array`."""
    is_first = _layout(array, channels, name) == "CHW"
    height, width = array.shape[1:] if is_first else array.shape[:2]
    return width, height


def read_pages(image: Image.Image, channels: int, name: str) -> NDArray[np.float32]:
    """Return the pages of an open TIFF as planes: 8 and 16 bits as 0..1, floats as they are.

    Raises:
        ImageError: if it has another number of pages than `channels`, or a page has several channels or another size.
    """
    count = getattr(image, "n_frames", 1)
    if count != channels:
        raise ImageError(
            f"{name} has {count} page{'s' if count > 1 else ''} of mode {image.mode}, and the network has {channels} "
            f"input channels; save it as a TIFF with a page for each channel, or as .npy, [height, width, {channels}]"
        )
    pages: list[NDArray[np.float32]] = []
    begin = image.tell()
    for page in range(count):
        image.seek(page)
        image.load()
        values = np.asarray(image)
        if image.mode == "I" and values.min() >= 0 and values.max() <= 65535:
            values = values.astype(np.uint16)
        if image.mode not in ("L", "F") and values.dtype.newbyteorder("=") != np.uint16:
            raise ImageError(f"{name}: page {page + 1} is of mode {image.mode}; save 8 or 16 bits, or floats, of gray")
        pages.append(_to_planes(values[..., None], f"{name}: page {page + 1}"))
        if pages[-1].shape != pages[0].shape:
            raise ImageError(f"{name}: page {page + 1} has another size than page 1; bring all channels to one size")
    image.seek(begin)  # it may be the caller's
    return np.concatenate(pages, axis=2)


def size_of(image: Pixels) -> tuple[int, int]:
    """Return the (width, height) of an image in pixels."""
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])


def resize(
    image: Pixels,
    size: tuple[int, int],
    resample: Image.Resampling,
    box: tuple[float, float, float, float] | None = None,
) -> Pixels:
    """Resize an image, or the part of it in `box` (left, upper, right, lower), to (width, height).

    Channels are independent of each other: Pillow itself would weight the colors of RGBA by alpha, which may be
    infrared as well.
    """
    if not isinstance(image, Image.Image):
        planes = (Image.fromarray(np.ascontiguousarray(image[..., channel])) for channel in range(image.shape[2]))
        return np.stack([np.asarray(plane.resize(size, resample, box)) for plane in planes], axis=2)
    if image.mode == "RGBA":
        return Image.merge("RGBA", [band.resize(size, resample, box) for band in image.split()])
    return image.resize(size, resample, box)


def _is_tensor(source: object) -> bool:
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    return torch is not None and isinstance(source, torch.Tensor)


def _to_numpy(tensor: Any, name: str) -> NDArray[Any]:
    if tensor.is_meta:
        raise ArgumentError(f"{name} is a tensor on the meta device, which has no values; pass one on a real device")
    tensor = tensor.detach().cpu()
    array: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # NumPy has no bfloat16
    return array


def _layout(source: Any, channels: int, name: str) -> str:
    """Return "HW", "HWC" or "CHW"; raises an ArgumentError for an array that is no image for so many channels."""
    shape, is_tensor, in_color = tuple(source.shape), _is_tensor(source), channels in COLOR_MODES
    allowed = tuple(COLOR_MODES) if in_color else (channels,)
    kind = str(source.dtype).removeprefix("torch.").lstrip("<>")
    first, last = (len(shape) == 3 and shape[place] in allowed for place in (0, -1))
    if kind in ("uint8", "uint16", "u2", "float16", "bfloat16", "float32", "float64") or kind in ("f2", "f4", "f8"):
        if is_tensor and first:
            return "CHW"
        if not is_tensor and in_color and (len(shape) == 2 or last):
            return "HW" if len(shape) == 2 else "HWC"
        if not is_tensor and not in_color and first != last:
            return "CHW" if first else "HWC"
    of = "1, 3 (RGB) or 4 (RGBA) channels" if in_color else f"{channels} channels"
    wanted = "[channels, height, width]" if is_tensor else "[height, width, channels]"
    gray = " [height, width], or" if in_color and not is_tensor else ""
    floats = "floats (0..1)" if in_color else "floats"
    raise ArgumentError(
        f"{name} is {'an' if kind[0] == 'i' else 'a'} {kind} {'tensor' if is_tensor else 'array'} of shape "
        f"{list(shape)}; pass uint8 (0..255), uint16 (0..65535) or {floats}, of shape{gray} {wanted} with {of}"
        f"{_hint(shape, first, last, is_tensor, in_color)}"
    )


def _hint(shape: tuple[int, ...], first: bool, last: bool, is_tensor: bool, in_color: bool) -> str:
    """Return what may have happened, as the end of a sentence."""
    if len(shape) == 4:
        return ". It looks like a batch: pass its images one by one, or the batch to effnets.predict"
    if first and last and not in_color:
        return f". It may have its {shape[0]} channels first or last: pass an image of another size"
    if is_tensor and last:
        return ". It looks like [height, width, channels]: pass image.permute(2, 0, 1)"
    if first and not last and not is_tensor:
        return ". It looks like [channels, height, width]: pass image.transpose(1, 2, 0)"
    return ". OpenCV's images are BGR: pass image[..., ::-1]" if last else ""
