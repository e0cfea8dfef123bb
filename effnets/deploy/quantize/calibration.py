"""Calibration: images from a folder, and the range of each value that they give a network."""

from __future__ import annotations

import hashlib
import os
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from effnets.deploy.export.verify_onnx import session_of
from effnets.deploy.quantize.qdq_graph import Ranges, Values
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, ImageError, MissingFileError
from effnets.inference.arrays import COLOR_MODES
from effnets.inference.image import find_photos, image_to_array, load_image, normalize_pixels
from effnets.inference.labels import find_outputs
from effnets.spec.specs import PreprocessSpec
from effnets.utils.machine import cpu_count
from effnets.utils.threads import map_in_order

_BATCH = 8
_BINS = 2048
_LEVELS = 256
_STEP, _LARGE = 7, 20_000  # from that many values on, every seventh is counted
_SHARES = np.linspace(0.2, 1.0, 41)  # of the whole range, to try


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationImages:
    """Resized and cropped images, kept in 8 bits, a quarter of the memory of a network's input.

    Attributes:
        paths: of the files.
        pixels: uint8 ``[N, H, W, C]``.
        labels: the class of each image by its folder's name (`effnets.inference.labels.find_outputs`), int64 ``[N]``;
            -1 if that is not a class of the model.
        preprocess: with which `batches` normalizes.
    """

    paths: tuple[str, ...]
    pixels: NDArray[np.uint8] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    preprocess: PreprocessSpec

    def __len__(self) -> int:
        return len(self.paths)

    def first(self, count: int) -> CalibrationImages:
        """Return at most `count` of them."""
        return replace(self, paths=self.paths[:count], pixels=self.pixels[:count], labels=self.labels[:count])

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """Yield the network's inputs, float32 ``[N, C, H, W]``, a few at a time."""
        for start in range(0, len(self), _BATCH):
            yield np.stack([normalize_pixels(image, self.preprocess) for image in self.pixels[start : start + _BATCH]])


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSplit:
    """Images for calibration, others for the accuracy gate, and the files that were left out.

    Attributes:
        calibration, held_out: with no file and no content in common.
        broken: why each unusable file could not be read.
        duplicates: number of files with the content of another.
        unknown_folders: names of folders that sort the images, and are not classes of the model.
    """

    calibration: CalibrationImages
    held_out: CalibrationImages
    broken: tuple[str, ...] = ()
    duplicates: int = 0
    unknown_folders: tuple[str, ...] = ()


def split_images(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    metadata: ModelMetadata,
    *,
    calibration_images: int,
    held_out_images: int,
    min_held_out: int,
    seed: int,
) -> CalibrationSplit:
    """Read the images of a folder, or those listed, and split them at random; at most half calibrate.

    Raises MissingFileError without the folder, ArgumentError for too few images or a network that takes none.
    """
    if metadata.channels not in COLOR_MODES:
        raise ArgumentError(
            f"int8 is calibrated with images of 3, 1 or 4 channels, and this model takes {metadata.channels}"
        )
    paths, broken = _list_images(source, warnings.warn)
    order = np.random.default_rng(seed).permutation(len(paths))
    wanted = calibration_images + held_out_images
    loaded: list[tuple[str, NDArray[np.uint8]]] = []
    seen: set[bytes] = set()
    duplicates = 0
    shuffled = [paths[index] for index in order]
    read = map_in_order(partial(_read, metadata=metadata), shuffled, workers=cpu_count(), ahead=2 * cpu_count())
    for path, (digest, pixels) in zip(shuffled, read, strict=True):
        if isinstance(pixels, str):
            broken.append(pixels)
        elif digest in seen:
            duplicates += 1
        else:
            loaded.append((path, pixels))
            seen.add(digest)
        if len(loaded) == wanted:
            break
    count = _share(len(loaded), broken, calibration_images, min_held_out)
    folders = {_folder(path) for path in paths}
    outputs = find_outputs(folders, metadata.labels)
    return CalibrationSplit(
        calibration=_images(loaded[:count], metadata, outputs),
        held_out=_images(loaded[count:], metadata, outputs),
        broken=tuple(broken),
        duplicates=duplicates,
        # A single folder sorts nothing.
        unknown_folders=tuple(sorted(folders - outputs.keys())) if len(folders) > 1 else (),
    )


def check_number(folder: str | os.PathLike[str], *, calibration_images: int, min_held_out: int) -> None:
    """Raise as `split_images` if the images of a folder can only be too few, without reading them."""
    paths, broken = _list_images(folder, lambda _: None)
    _share(len(paths), broken, calibration_images, min_held_out)


def _list_images(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], warn: Callable[[str], object]
) -> tuple[list[str], list[str]]:
    """Return the paths of a folder's images, or of those listed, unread, and why others were not found."""
    if isinstance(source, str | os.PathLike):
        if not Path(source).is_dir():
            raise MissingFileError(f"{source}: no such folder; give a folder of photographs for calibration")
        source = [source]
    results = list(find_photos([os.fspath(path) for path in source], warn))
    paths = [result.path for result in results if not result.error]
    return paths, [result.error for result in results if result.error]


def _share(images: int, broken: Sequence[str], calibration_images: int, min_held_out: int) -> int:
    """Return how many of the images calibrate; raises ArgumentError if too few are left."""
    count = min(calibration_images, images // 2)
    if images - count < min_held_out or count < 1:
        unusable = f" ({len(broken)} could not be read, the first: {broken[0]})" if broken else ""
        raise ArgumentError(
            f"calibration has {images} different photographs{unusable}; give at least {2 * min_held_out}: half "
            "calibrate, the others test the result"
        )
    return count


def _folder(path: str) -> str:
    return unicodedata.normalize("NFC", Path(path).parent.name)


def _read(path: str, metadata: ModelMetadata) -> tuple[bytes, NDArray[np.uint8] | str]:
    """Return the hash of a file, and its pixels or why there are none."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).digest(), _pixels(path, metadata)
    except (ImageError, MissingFileError) as error:
        return b"", str(error)
    except OSError as error:
        return b"", f"{path}: cannot be read ({error.strerror or error})"


def _pixels(path: str, metadata: ModelMetadata) -> NDArray[np.uint8]:
    """Return the pixels of `image_to_array` before they are normalized."""
    plain = replace(metadata.preprocess, mean=(0.0,), std=(1.0,))
    array = image_to_array(load_image(path, metadata.channels), plain, metadata.image_size)
    return np.round(array * 255).astype(np.uint8).transpose(1, 2, 0)


def _images(
    loaded: Sequence[tuple[str, NDArray[np.uint8]]], metadata: ModelMetadata, outputs: Mapping[str, int]
) -> CalibrationImages:
    return CalibrationImages(
        paths=tuple(path for path, _ in loaded),
        pixels=np.stack([pixels for _, pixels in loaded]),
        labels=np.array([outputs.get(_folder(path), -1) for path, _ in loaded], np.int64),
        preprocess=metadata.preprocess,
    )


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values in 2048 equal bins between `low` and `high`."""

    low: float
    high: float
    counts: NDArray[np.float64]

    @property
    def centers(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        width = (self.high - self.low) / len(self.counts)
        return np.asarray(self.low + width * (np.arange(len(self.counts)) + 0.5), np.float64)


def collect(model: onnx.ModelProto, batches: Callable[[], Iterable[NDArray[np.float32]]]) -> dict[str, Histogram]:
    """Return a histogram of every value that a float32 network computes, its input included.

    `batches` returns the calibration images, float32 ``[N, C, H, W]``; it is called twice.
    """
    source = model.graph.input[0].name
    clipped = _clipped(model)
    names = [name for node in model.graph.node for name in node.output if name not in clipped]
    session = session_of(model, names)

    def values() -> Iterator[tuple[str, torch.Tensor]]:
        for images in batches():
            yield source, torch.from_numpy(images)
            for name, value in zip(names, session.run(names, {source: images}), strict=True):
                if value.dtype == np.float32:
                    yield name, torch.from_numpy(value)

    bounds: Ranges = {}
    for name, value in values():
        low, high = bounds.get(name, (np.inf, -np.inf))
        least, most = torch.aminmax(value)
        bounds[name] = min(low, least.item()), max(high, most.item())
    counts = {name: torch.zeros(_BINS, dtype=torch.float64) for name in bounds}
    for name, value in values():
        low, high = bounds[name]
        # A prime step, so that no column of the map is skipped throughout.
        sample = value.flatten()[:: _STEP if value.numel() > _LARGE else 1]
        counts[name] += torch.histc(sample, _BINS, low, max(high, low + 1e-9))
    histograms = {name: Histogram(*bounds[name], count.numpy()) for name, count in counts.items()}
    return histograms | {name: histograms[after] for name, after in clipped.items()}


def _clipped(model: onnx.ModelProto) -> dict[str, str]:
    """Return values that only a clipping activation reads, each with its output: int8 never stores them."""
    values = Values(model)
    clips = [node for node in model.graph.node if node.op_type in ("Clip", "Relu")]
    found = {node.input[0]: node.output[0] for node in clips if len(values.readers[node.input[0]]) == 1}
    return {name: after for name, after in found.items() if name in values.writer and name not in values.outputs}


def ranges_by(method: str, histograms: dict[str, Histogram]) -> Ranges:
    """Return the range that `method`, one of `METHODS`, keeps of each value; values outside are clipped to it."""
    return {name: METHODS[method](histogram) for name, histogram in histograms.items()}


def _percentile(share: float, histogram: Histogram) -> tuple[float, float]:
    """Drop (1 - share) of the values at each end."""
    below = np.cumsum(histogram.counts) / histogram.counts.sum()
    edges = np.linspace(histogram.low, histogram.high, len(below) + 1)
    low = edges[int(np.searchsorted(below, 1 - share))]
    high = edges[min(int(np.searchsorted(below, share)) + 1, len(below))]
    return float(low), float(high)


def _least(loss: Callable[[Histogram, float, float], float], histogram: Histogram) -> tuple[float, float]:
    """Shrink the range towards zero to the share with the least loss."""
    tried = [(float(share * min(histogram.low, 0)), float(share * max(histogram.high, 0))) for share in _SHARES]
    return min(tried, key=lambda bounds: loss(histogram, *bounds))


def _squared_error(histogram: Histogram, low: float, high: float) -> float:
    centers = histogram.centers
    step = max((high - low) / (_LEVELS - 1), 1e-12)
    rounded = np.clip(np.round(centers / step), np.round(low / step), np.round(high / step)) * step
    return float((histogram.counts * (centers - rounded) ** 2).sum())


def _divergence(histogram: Histogram, low: float, high: float) -> float:
    """Return the Kullback-Leibler divergence of the clipped values from the same in 256 levels.

    Zeros do not count: every quantization represents them exactly, and after a ReLU they would outweigh all else.
    """
    centers = histogram.centers
    counts = np.where(np.abs(centers) == np.abs(centers).min(), 0.0, histogram.counts)
    inside = (centers >= low) & (centers <= high)
    if not inside.any():
        return np.inf
    clipped = counts[inside].copy()
    clipped[0] += counts[centers < low].sum()
    clipped[-1] += counts[centers > high].sum()
    levels = np.minimum(np.arange(len(clipped)) * _LEVELS // len(clipped), _LEVELS - 1)
    held = counts[inside] > 0
    sums = np.bincount(levels, counts[inside], _LEVELS)
    sizes = np.bincount(levels, held, _LEVELS)
    coarse = np.where(held, sums[levels] / np.maximum(sizes[levels], 1), 0)
    p, q = clipped / max(clipped.sum(), 1), np.maximum(coarse / max(coarse.sum(), 1), 1e-9)
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / q[seen])).sum())


METHODS: dict[str, Callable[[Histogram], tuple[float, float]]] = {
    "minmax": lambda histogram: (histogram.low, histogram.high),
    "percentile 99.99": partial(_percentile, 0.9999),
    "percentile 99.9": partial(_percentile, 0.999),
    "mse": partial(_least, _squared_error),
    "entropy": partial(_least, _divergence),
}
