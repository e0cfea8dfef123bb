"""Photographs for quantisation: found, read, and split into those that calibrate and those held out to judge."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effnets.engines.metadata import Description
from effnets.errors import ArgumentError, ImageError, MissingFileError
from effnets.inference.image import color_mode, find_photos, load_rgb
from effnets.inference.labels import find_outputs
from effnets.inference.pixels import image_to_array, normalise_pixels
from effnets.spec.specs import PreprocessSpec

_BATCH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Photos:
    """Prepared photographs.

    Attributes:
        paths: of the files. pixels: uint8 ``[N, H, W, C]``, resized and cropped.
        labels: the class of each by its folder's name (`effnets.inference.labels.find_outputs`), int64 ``[N]``, -1 where
            that is no class of the model.
        preprocess: with which `batches` normalises.
    """

    paths: tuple[str, ...]
    pixels: NDArray[np.uint8] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    preprocess: PreprocessSpec

    def __len__(self) -> int:
        return len(self.paths)

    def first(self, count: int) -> Photos:
        """No more than `count` of them."""
        return replace(self, paths=self.paths[:count], pixels=self.pixels[:count], labels=self.labels[:count])

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """The network's inputs, float32 ``[N, C, H, W]``, a few at a time."""
        for start in range(0, len(self), _BATCH):
            yield np.stack([normalise_pixels(image, self.preprocess) for image in self.pixels[start : start + _BATCH]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Photographs that calibrate, others that judge, and what became of the rest.

    Attributes:
        calibration, held_out: with no file and no content in common.
        broken: why each unusable file could not be read. duplicates: files with the content of another.
        unknown_folders: names of folders by which photographs are sorted, and which are no classes of the model.
    """

    calibration: Photos
    held_out: Photos
    broken: tuple[str, ...] = ()
    duplicates: int = 0
    unknown_folders: tuple[str, ...] = ()


def split_photos(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    description: Description,
    *,
    calibration_images: int,
    held_out_images: int,
    min_held_out: int,
    seed: int,
) -> Split:
    """Read the photographs of a folder, or those listed, split at random: at most half of them calibrate.

    Raises:
        MissingFileError: no such folder.
        ArgumentError: too few readable photographs, or a network that takes no images.
    """
    color_mode(description.channels)
    paths, broken = _find(source)
    order = np.random.default_rng(seed).permutation(len(paths))
    wanted = calibration_images + held_out_images
    loaded: list[tuple[str, NDArray[np.uint8]]] = []
    seen: set[bytes] = set()
    duplicates = 0
    for index in order:
        if len(loaded) == wanted:
            break
        path = paths[index]
        try:
            digest = hashlib.sha256(Path(path).read_bytes()).digest()
            if digest in seen:
                duplicates += 1
                continue
            loaded.append((path, _pixels(path, description)))
            seen.add(digest)
        except (ImageError, MissingFileError) as error:
            broken.append(str(error))
        except OSError as error:
            broken.append(f"{path}: cannot be read ({error.strerror or error})")
    count = min(calibration_images, len(loaded) // 2)
    if len(loaded) - count < min_held_out or count < 1:
        unusable = f" ({len(broken)} could not be read, the first: {broken[0]})" if broken else ""
        raise ArgumentError(
            f"calibration has {len(loaded)} different photographs{unusable}; give at least {2 * min_held_out}: half "
            "calibrate, the others judge the result"
        )
    folders = {_folder(path) for path in paths}
    outputs = find_outputs(folders, description.labels)
    return Split(
        calibration=_photos(loaded[:count], description, outputs),
        held_out=_photos(loaded[count:], description, outputs),
        broken=tuple(broken),
        duplicates=duplicates,
        # One folder alone sorts nothing.
        unknown_folders=tuple(sorted(folders - outputs.keys())) if len(folders) > 1 else (),
    )


def _folder(path: str) -> str:
    return Path(path).parent.name


def _find(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> tuple[list[str], list[str]]:
    if isinstance(source, str | os.PathLike):
        if not Path(source).is_dir():
            raise MissingFileError(f"{source}: no such folder; give a folder of photographs for calibration")
        source = [source]
    results = list(find_photos((os.fspath(path) for path in source), _mention))
    found = [result.path for result in results if not result.error]
    return found, [result.error for result in results if result.error]


def _pixels(path: str, description: Description) -> NDArray[np.uint8]:
    """Kept in 8 bits, a quarter of the memory: the same pixels as in `image_to_array`, before they are normalised."""
    plain = replace(description.preprocess, mean=(0.0,), std=(1.0,))
    array = image_to_array(load_rgb(path, description.channels), plain, description.image_size)
    return np.round(array * 255).astype(np.uint8).transpose(1, 2, 0)


def _photos(
    loaded: Sequence[tuple[str, NDArray[np.uint8]]], description: Description, outputs: Mapping[str, int]
) -> Photos:
    return Photos(
        paths=tuple(path for path, _ in loaded),
        pixels=np.stack([pixels for _, pixels in loaded]),
        labels=np.array([outputs.get(_folder(path), -1) for path, _ in loaded], np.int64),
        preprocess=description.preprocess,
    )


def _mention(text: str) -> None:
    warnings.warn(text, stacklevel=2)
