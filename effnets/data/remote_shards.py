"""Pictures in WebDataset shards that lie on a server, for data larger than a disk. Free of torch.

Every shard is fetched once to find its samples, which are noted; from then on pictures can be had in any order, through
a `ShardCache`. Orders that keep to few shards at a time (`effnets.data.sampling`) make that cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from effnets.data.classes import index_labels
from effnets.data.dataset import ImageDataset
from effnets.data.shard_cache import ShardCache, check_room
from effnets.data.splits import ALL, RawSplits, split_of
from effnets.data.tar import Member, TarDataset, index_archive, samples_of
from effnets.errors import DataError


class RemoteShards(TarDataset):
    """Pictures in shards on a server.

    Args:
        urls: of the shards.
        sizes: of the shards in bytes, as they were when their samples were found.
        members: [len]; each picture's shard, as an index, and what it is there.
        labels: [len]; indices into the class names.
        class_names: in the order of the network's outputs.
        cache: where shards lie while they are needed.
    """

    def __init__(
        self,
        urls: Sequence[str],
        sizes: Sequence[int],
        members: Sequence[tuple[int, Member]],
        labels: NDArray[np.int64],
        class_names: tuple[str, ...],
        cache: ShardCache,
    ) -> None:
        super().__init__(urls, members, labels, class_names)
        self.shards = self._archive.astype(np.int64)
        self._sizes_of_shards, self._cache = tuple(sizes), cache

    def _open(self, archive: int) -> BinaryIO:
        url = str(self.archives[archive])
        file = self._cache.open(url)
        if file.seek(0, 2) != self._sizes_of_shards[archive]:
            file.close()
            raise DataError(
                f"{url}: has changed since its samples were found ({self._sizes_of_shards[archive]:,} bytes then); "
                f"remove {self._cache.notes(url)} and start anew"
            )
        return file


def open_remote_shards(
    urls: Sequence[str],
    cache: ShardCache,
    *,
    label_key: str | None = None,
    progress: Callable[[str, float], object],
) -> RawSplits:
    """Pictures in shards named by their addresses, like `effnets.data.tar.open_shards`.

    Args:
        urls: of the shards.
        cache: where they lie while they are needed.
        label_key: as there.
        progress: called before each shard is looked into with what is being done and the share that is, 0 to 1.

    Raises:
        DataError: a shard cannot be fetched, is damaged or holds no samples; or the cache is too small.
    """
    words = {split_of(_name(url)) for url in urls}
    divided = None not in words and len(words) > 1
    found: list[_Found] = []
    for url in urls:
        progress(f"looking into shard {len(found) + 1} of {len(urls)}", len(found) / len(urls))
        found.append(_samples(url, cache, label_key))
    check_room([one.size for one in found], cache)
    members: dict[str, list[tuple[int, Member]]] = {}
    labels: dict[str, list[str]] = {}
    for number, (url, one) in enumerate(zip(urls, found, strict=True)):
        split = (split_of(_name(url)) if divided else None) or ALL
        members.setdefault(split, []).extend((number, Member(*sample[:3])) for sample in one.samples)
        labels.setdefault(split, []).extend(sample[3] for sample in one.samples)
    class_names, indices = index_labels(labels, urls[0])
    sizes = [one.size for one in found]
    sources: dict[str, ImageDataset] = {
        split: RemoteShards(urls, sizes, members[split], indices[split], class_names, cache) for split in members
    }
    return RawSplits(sources=sources)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What a shard of so many bytes holds: name, offset, bytes and label of each picture."""

    size: int
    samples: list[tuple[str, int, int, str]]


def _samples(url: str, cache: ShardCache, label_key: str | None) -> _Found:
    noted = cache.noted(url)
    if "samples" in noted and noted["label_key"] == label_key:
        return _Found(size=noted["size"], samples=[tuple(sample) for sample in noted["samples"]])
    found = _look_into(url, cache, label_key)
    cache.note(url, {**asdict(found), "label_key": label_key})
    return found


def _look_into(url: str, cache: ShardCache, label_key: str | None) -> _Found:
    path = cache.path(url)
    try:
        with cache.open(url) as file:
            size = file.seek(0, 2)
            archive = index_archive(path)
            samples = [(one.name, one.offset, one.size, label) for one, label in samples_of(archive, label_key)]
    except DataError as error:
        cache.forget(url)  # what is damaged is fetched anew the next time
        raise DataError(str(error).replace(str(path), url)) from error
    if not samples:
        raise DataError(f"{url}: no sample in it; wanted are pictures with a .cls or .json of the same name")
    return _Found(size=size, samples=samples)


def _name(url: str) -> str:
    return PurePosixPath(urlsplit(url).path).name
