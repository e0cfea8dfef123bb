"""Pictures of a data set on the Hugging Face Hub that may be larger than the disk. Free of torch.

The `datasets` library says of which parquet files it consists, at which commit. Of each, the labels alone are read
once, by ranges of bytes, and noted; from then on pictures can be had in any order, through a `ShardCache` in which a
file is its column of pictures. Orders that keep to few files at a time (`effnets.data.sampling`) make that cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from effnets.data.classes import index_labels
from effnets.data.dataset import ImageDataset
from effnets.data.hub_dataset import choose_columns, known_splits, unavailable, without_unlabelled
from effnets.data.packed_images import PictureColumn, read_picture, read_sizes
from effnets.data.shard_cache import ShardCache, check_room
from effnets.data.splits import RawSplits
from effnets.errors import DataError, ImageError

if TYPE_CHECKING:
    from datasets import Features
    from huggingface_hub import HfFileSystem


_PREFIX = "hf-stream:"
_AT_ONCE = 8  # files that labels are read of: hardly more than waiting for answers


class HubStream(ImageDataset):
    """Pictures in parquet files on the Hub.

    Args:
        urls: of the files, whose rows follow each other.
        rows: [files]; how many each has.
        labels: [len]; indices into the class names.
        class_names: in the order of the network's outputs.
        cache: where files lie while they are needed, packed by a `PictureColumn`.
    """

    def __init__(
        self,
        urls: Sequence[str],
        rows: Sequence[int],
        labels: NDArray[np.int64],
        class_names: tuple[str, ...],
        cache: ShardCache,
    ) -> None:
        self.urls, self.rows, self.labels, self.class_names = tuple(urls), tuple(rows), labels, class_names
        self.shards = self._files = np.repeat(np.arange(len(urls)), rows)
        self._starts = np.cumsum([0, *rows])
        self._cache = cache

    def name(self, index: int) -> str:
        file, row = self._place(index)
        return f"{self.urls[file]}, row {row}"

    def read(self, index: int) -> bytes:
        file, row = self._place(index)
        with self._cache.open(self.urls[file]) as unpacked:
            data = read_picture(unpacked, row, self.rows[file])
        if not data:
            raise ImageError(f"{self.name(index)} has no bytes; write pictures into the file, not their paths")
        return data

    def sizes(self) -> NDArray[np.int64]:
        found = []
        for url, rows in zip(self.urls, self.rows, strict=True):
            with self._cache.open(url) as unpacked:
                found.append(read_sizes(unpacked, rows))
        return np.concatenate(found)

    def _place(self, index: int) -> tuple[int, int]:
        file = int(self._files[index])
        return file, index - int(self._starts[file])


def open_hub_stream(
    name: str,
    cache: ShardCache,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    progress: Callable[[str, float], object],
) -> RawSplits:
    """Pictures of "hf-stream:user/name", with "/configuration" and "@revision" where it has several.

    Args:
        name: as above.
        cache: where files lie while they are needed.
        image_column, label_column: their names; by default the only ones that are declared to be such.
        progress: called before the labels of each file are had with what is being done and the share that is, 0 to 1.

    Raises:
        DataError: the data set cannot be had, is not in parquet, has no column of pictures or labels, or another fault;
            or the cache is too small.
    """
    found = _find(name)
    image, label, notes = choose_columns(name, found.features, image_column, label_column)
    cache = replace(cache, pack=PictureColumn(image))
    paths, more = known_splits(found.paths, name)
    files = _look_into([path for of_it in paths.values() for path in of_it], found.files, label, cache, progress)
    check_room([one.size for one in files.values()], cache)
    written = {split: [one for path in of_it for one in files[path].labels] for split, of_it in paths.items()}
    labels, unlabelled = without_unlabelled(written, name)
    class_names, indices = index_labels(labels, name, getattr(found.features[label], "names", None))
    sources: dict[str, ImageDataset] = {
        split: HubStream(
            [files[path].url for path in paths[split]],
            [len(files[path].labels) for path in paths[split]],
            indices[split],
            class_names,
            cache,
        )
        for split in labels
    }
    if any("/partial-" in path for path in files):
        more = (
            *more,
            "the Hub has converted but the beginning of this data set to parquet, and there is no more of it",
        )
    return RawSplits(sources=sources, notes=(*more, *unlabelled, *notes), revision=found.revision)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the Hub says: paths by split, what is in which column, the commit, and how files are opened."""

    paths: Mapping[str, Sequence[str]]
    features: Features
    revision: str
    files: HfFileSystem


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A file of so many bytes: its address, and its rows' labels as written."""

    url: str
    size: int
    labels: list[Any]


def _find(name: str) -> _Found:
    repository, _, revision = name.removeprefix(_PREFIX).partition("@")
    parts = repository.split("/")
    if not all(parts) or len(parts) > 3:
        raise DataError(f"{name}: names no data set; write {_PREFIX}user/name, user/name/configuration, or …@revision")
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{name}: needs the datasets library; pip install 'effnets[train]'") from error
    from huggingface_hub import HfFileSystem, constants

    try:
        builder = datasets.load_dataset_builder(
            f"hf://datasets/{'/'.join(parts[:2])}", "".join(parts[2:]) or None, revision=revision or None
        )
        paths = {str(split): [str(path) for path in files] for split, files in builder.config.data_files.items()}
        _check_parquet(name, paths)
        files = HfFileSystem(endpoint=constants.ENDPOINT)  # one that was made for another would be found again
        first = next(iter(paths.values()))[0]
        return _Found(
            paths=paths,
            features=builder.info.features or _features(files, first),
            revision=first.partition("@")[2].partition("/")[0],
            files=files,
        )
    except DataError:
        raise
    except Exception as error:  # the libraries raise anything, from ConnectionError to their own classes
        raise unavailable(name, error) from error


def _check_parquet(name: str, paths: Mapping[str, Sequence[str]]) -> None:
    others = [path for files in paths.values() for path in files if not path.endswith(".parquet")]
    if others:
        raise DataError(
            f"{name}: is not in parquet ({others[0].rpartition('/')[2]}); try …@refs/convert/parquet, where the Hub "
            "may have converted it, name tar shards by their addresses, https://…, or fetch it whole as hf-dataset:…"
        )


def _features(files: HfFileSystem, path: str) -> Features:
    import pyarrow.parquet as pq
    from datasets import Features

    with files.open(path, cache_type="none") as file:
        return Features.from_arrow_schema(pq.read_schema(file))


def _look_into(
    paths: Sequence[str],
    files: HfFileSystem,
    label: str,
    cache: ShardCache,
    progress: Callable[[str, float], object],
) -> dict[str, _File]:
    found: dict[str, _File] = {}
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        try:
            answers = threads.map(lambda path: _file(path, files, label, cache), paths)
            for path in paths:
                progress(f"reading the labels of file {len(found) + 1} of {len(paths)}", len(found) / len(paths))
                found[path] = next(answers)
        finally:
            threads.shutdown(cancel_futures=True)  # of those that were not begun
    return found


def _file(path: str, files: HfFileSystem, label: str, cache: ShardCache) -> _File:
    import pyarrow.parquet as pq

    url = files.url(path)
    noted = cache.noted(url)
    if noted.get("label_column") == label:
        return _File(url=url, size=noted["size"], labels=noted["labels"])
    try:
        with files.open(path, cache_type="none") as file:  # nothing is read that was not asked for
            column = pq.ParquetFile(file).read(columns=[label], use_threads=False).column(0)
            found = _File(url=url, size=file.size, labels=column.to_pylist())
    except Exception as error:  # of pyarrow, the client, and what the client is built on
        raise unavailable(url, error) from error
    cache.note(url, {**asdict(found), "label_column": label})
    return found
