"""Find photographs that are copies of each other: saved again, resized, or cropped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnets.bulk.photos import run_photos
from effnets.embeddings.crops import find_crop, thumbnail
from effnets.embeddings.embed import finish
from effnets.embeddings.neighbors import nearest
from effnets.errors import ArgumentError, ImageError
from effnets.inference.arrays import COLOR_MODES
from effnets.inference.image import PhotoResult, image_size, load_image
from effnets.inference.pipeline import Pipeline

THRESHOLD = 0.85  # least correlation of pixels, by measurement (docs/embeddings.md)

_CANDIDATES = 10  # neighbors of each photo that are compared with it by their pixels
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
        agreement: correlation of the pixels with the photo of the group that it is most like.
        kind: ``resized``, ``cropped`` or ``saved again``, as it differs from that photo.
        kept: of the two, the share of the larger picture's area that the other one shows.
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


@dataclass(frozen=True, slots=True)
class _Pair:
    rows: tuple[int, int]
    agreement: float
    kept: float


def read_photos(pipeline: Pipeline, photos: Iterable[PhotoResult]) -> Iterator[PhotoResult | Photo]:
    """Yield each photo with what it is compared by, or with the error that prevents it; every file once.

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
        loaded[path] = thumbnail(image), image_size(data, path), len(data)
        return predictor.prepare(image)

    for photo, vector in run_photos(pipeline, _once(photos), predictor.embed, prepare):
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

    best: dict[int, _Pair] = {}
    for pair in pairs:
        first, second = map(leader, pair.rows)
        leaders[second] = first
        for row in pair.rows:
            if row not in best or pair.agreement > best[row].agreement:
                best[row] = pair
    members: dict[int, list[int]] = {}
    for row in sorted(best):
        members.setdefault(leader(row), []).append(row)
    groups = [_group(photos, rows, best) for rows in members.values()]
    return sorted(groups, key=lambda group: -len(group.copies))


def _group(photos: Sequence[Photo], rows: Sequence[int], best: Mapping[int, _Pair]) -> Group:
    first, *others = sorted(rows, key=lambda row: (-_pixels(photos[row]), -photos[row].bytes, photos[row].path))
    copies = []
    for row in others:
        pair = best[row]
        one, other = (photos[member] for member in pair.rows)
        sizes_differ = (one.width, one.height) != (other.width, other.height)
        kind = "cropped" if pair.kept < _WHOLE else "resized" if sizes_differ else "saved again"
        copies.append(Copy(photos[row], pair.agreement, kind, pair.kept))
    return Group(photos[first], copies)


def _pixels(photo: Photo) -> int:
    return photo.width * photo.height


def _find_pairs(photos: Sequence[Photo], threshold: float) -> list[_Pair]:
    if not photos:
        return []
    vectors = np.stack([photo.vector for photo in photos])
    _, rows = nearest(vectors, vectors, _CANDIDATES + 1)
    candidates = {(min(a, int(b)), max(a, int(b))) for a, near in enumerate(rows) for b in near if a != b}
    pairs = (_compare(photos, pair) for pair in sorted(candidates))
    return [pair for pair in pairs if pair.agreement >= threshold]


def _compare(photos: Sequence[Photo], rows: tuple[int, int]) -> _Pair:
    """Look for either photo in the other."""
    first, second = (photos[row] for row in rows)
    ratio = (second.width / second.height) / (first.width / first.height)
    crops = find_crop(first.picture, second.picture, ratio), find_crop(second.picture, first.picture, 1 / ratio)
    agreement, kept = max(crops)
    return _Pair(rows, agreement, kept)
