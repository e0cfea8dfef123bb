"""Find photographs that are copies of each other: saved again, resized, or cropped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnets.bulk.photos import run_photos
from effnets.embeddings.crops import Crop, find_crop, thumbnail
from effnets.embeddings.embed import finish
from effnets.embeddings.neighbors import nearest
from effnets.errors import ArgumentError, ImageError
from effnets.inference.arrays import COLOR_MODES
from effnets.inference.image import PhotoResult, image_size, load_image
from effnets.inference.pipeline import Pipeline

THRESHOLD = 0.85  # least correlation of pixels, by measurement (docs/embeddings.md)

_CANDIDATES = 10  # neighbors of each photo that are compared with it by their pixels
_CERTAIN = 0.99  # agreement from which on the other way round is not tried
_WHOLE = 0.98  # share of the area from which on a copy counts as whole


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A photo with what it is compared by.

    Attributes:
        path, width, height: of the file, upright. bytes: its size.
        picture: a thumbnail, as of `effnets.embeddings.crops`. vector: its embedding, of length 1.
    """

    path: str
    width: int
    height: int
    bytes: int
    picture: NDArray[np.uint8]
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Copy:
    """A photo of a group, beside the one to keep.

    Attributes:
        agreement: correlation of their pixels, where one lies in the other. A copy of a copy may have less than was
            asked for.
        kind: ``resized``, ``cropped`` or ``saved again``, as they differ.
        kept: share of one's area that the other one shows.
    """

    photo: Photo
    agreement: float
    kind: str
    kept: float


@dataclass(frozen=True, slots=True)
class Group:
    """Photos that are copies of each other, each of at least one of the others.

    Attributes:
        keep: the one with the most pixels; of several the one with the most bytes.
    """

    keep: Photo
    copies: Sequence[Copy]


def read_photos(
    pipeline: Pipeline, photos: Iterable[PhotoResult], *, stage: int | None = None
) -> Iterator[PhotoResult | Photo]:
    """Yield each photo with what it is compared by, or with the error that prevents it; every file once.

    `stage` is as of `effnets.embed`. Earlier stages see less of what a photo shows and more of how it is made up, so
    that copies are nearer.

    Raises:
        ArgumentError: if the network takes no photographs, or a path is an address.
        WeightsError: if an embedding is not finite.
    """
    predictor = pipeline.predictor
    if predictor.channels not in COLOR_MODES:
        raise ArgumentError(f"{predictor.model} takes {predictor.channels} channels; name one for photographs")
    loaded: dict[str, tuple[NDArray[np.uint8], tuple[int, int], int]] = {}

    def prepare(path: str) -> Any:
        image = load_image(path, predictor.channels, min_side=predictor.min_side)
        if not isinstance(image, Image.Image):
            raise ImageError(f"{path} is no photograph, but an array; save it as an image")
        data = Path(path).read_bytes()
        prepared = predictor.prepare(image)
        loaded[path] = thumbnail(image), image_size(data, path), len(data)
        return prepared

    for photo, vector in run_photos(pipeline, _once(photos), partial(predictor.embed, stage=stage), prepare):
        if vector is None:
            yield photo
            continue
        picture, (width, height), count = loaded.pop(photo.path)
        yield Photo(photo.path, width, height, count, picture, finish(vector, normalize=True))


def _once(photos: Iterable[PhotoResult]) -> Iterator[PhotoResult]:
    seen = set()
    for photo in photos:
        real = os.path.realpath(photo.path)
        if real not in seen:
            seen.add(real)
            yield photo


def find_duplicates(photos: Sequence[Photo], threshold: float = THRESHOLD) -> list[Group]:
    """Group photos that are copies of each other, the largest group first.

    Each photo is compared with its 10 nearest neighbors by embedding; a pair whose pixels agree where one lies in the
    other (`effnets.embeddings.crops`) are copies, and so are copies of copies.

    Args:
        photos: of `read_photos`.
        threshold: least correlation of the pixels, 0 to 1.
    """
    pairs = _find_pairs(photos, threshold)
    leaders = list(range(len(photos)))  # a forest, whose trees are the groups (union-find)

    def leader(row: int) -> int:
        while leaders[row] != row:
            leaders[row] = row = leaders[leaders[row]]
        return row

    for first, second in pairs:
        leaders[leader(second)] = leader(first)
    members: dict[int, list[Photo]] = {}
    for row in sorted({row for pair in pairs for row in pair}):
        members.setdefault(leader(row), []).append(photos[row])
    return sorted(map(_group, members.values()), key=lambda group: -len(group.copies))


def _group(members: Iterable[Photo]) -> Group:
    first, *others = sorted(members, key=lambda photo: (-_pixels(photo), -photo.bytes, photo.path))
    return Group(first, [_describe(photo, first) for photo in others])


def _describe(photo: Photo, keep: Photo) -> Copy:
    crop = _compare(photo, keep)
    sizes_differ = (photo.width, photo.height) != (keep.width, keep.height)
    kind = "cropped" if crop.kept < _WHOLE else "resized" if sizes_differ else "saved again"
    return Copy(photo, crop.agreement, kind, crop.kept)


def _pixels(photo: Photo) -> int:
    return photo.width * photo.height


def _find_pairs(photos: Sequence[Photo], threshold: float) -> list[tuple[int, int]]:
    if not photos:
        return []
    vectors = np.stack([photo.vector for photo in photos])
    _, rows = nearest(vectors, vectors, _CANDIDATES + 1)
    candidates = {(min(a, int(b)), max(a, int(b))) for a, near in enumerate(rows) for b in near if a != b}
    return [(a, b) for a, b in sorted(candidates) if _compare(photos[a], photos[b]).agreement >= threshold]


def _compare(first: Photo, second: Photo) -> Crop:
    """Look for either photo in the other."""
    ratio = (second.width / second.height) / (first.width / first.height)
    crop = find_crop(first.picture, second.picture, ratio)
    if crop.agreement >= _CERTAIN:
        return crop
    return max(crop, find_crop(second.picture, first.picture, 1 / ratio))
