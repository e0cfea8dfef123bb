"""From a path or a name to what reads it: every kind of data set there is. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from effnets.errors import ArgumentError, DataError, MissingFileError
from effnets.train.data.archive import index_archive, open_tree
from effnets.train.data.download import is_url
from effnets.train.data.folder import open_folder
from effnets.train.data.hub_dataset import open_hub_dataset
from effnets.train.data.hub_stream import open_hub_stream
from effnets.train.data.layout import is_litter
from effnets.train.data.manifest import open_manifest
from effnets.train.data.parquet import open_parquet
from effnets.train.data.remote_shards import open_remote_shards
from effnets.train.data.shard_cache import default_cache
from effnets.train.data.splits import Parts
from effnets.train.data.webdataset import expand_braces, is_webdataset, open_shards

__all__ = ["read_parts"]

_KINDS = (
    "a folder by class, a .csv table, a .tar, .parquet files, shards-{000..007}.tar, https://…, "
    "hf-dataset:user/name or hf-stream:user/name"
)


def read_parts(
    data: str, image_column: str | None, label_column: str | None, progress: Callable[[str, float], object]
) -> Parts:
    """The data set that `data` names, as it is; arguments are as of `effnets.train.data.open_data`.

    Raises:
        MissingFileError: no such file or folder.
        DataError: it is no data set, or is damaged.
        ArgumentError: a column is named where there are none.
        OSError: it cannot be read.
    """
    if is_url(data):
        _refuse_columns(data, "shards", image_column=image_column)
        return open_remote_shards(expand_braces(data), default_cache(), label_key=label_column, progress=progress)
    if data.startswith("hf-dataset:"):
        return open_hub_dataset(data, image_column=image_column, label_column=label_column)
    if data.startswith("hf-stream:"):
        return open_hub_stream(
            data, default_cache(), image_column=image_column, label_column=label_column, progress=progress
        )
    path = Path(data)
    if "{" in path.name and not path.exists():
        _refuse_columns(data, "shards", image_column=image_column)
        return open_shards([Path(name) for name in expand_braces(data)], label_key=label_column)
    if not path.exists():
        raise MissingFileError(f"{data} does not exist; check its spelling and the current folder")
    if path.is_dir():
        return _open_folder(path, image_column, label_column)
    match path.suffix.lower():
        case ".csv":
            return open_manifest(path, image_column=image_column, label_column=label_column)
        case ".tar":
            return _open_tar(path, image_column, label_column)
        case ".parquet":
            return open_parquet([path], named=True, image_column=image_column, label_column=label_column)
    raise DataError(f"{data}: is no data set that can be read; name {_KINDS}")


def _open_tar(path: Path, image_column: str | None, label_column: str | None) -> Parts:
    archive = index_archive(path)
    if is_webdataset(archive):
        _refuse_columns(str(path), "shards", image_column=image_column)
        return open_shards([path], archives=[archive], label_key=label_column)
    _refuse_columns(str(path), "an archive of folders", image_column=image_column, label_column=label_column)
    return open_tree(archive)


def _open_folder(folder: Path, image_column: str | None, label_column: str | None) -> Parts:
    # An archive beside folders is what they were unpacked from.
    if not any(entry.is_dir() and not is_litter(entry.name) and entry.name != "data" for entry in folder.iterdir()):
        tables = _below(folder, "*.parquet")
        if tables:
            return open_parquet(tables, named=False, image_column=image_column, label_column=label_column)
        shards = _below(folder, "*.tar")
        if shards:
            _refuse_columns(str(folder), "shards", image_column=image_column)
            return open_shards(shards, label_key=label_column)
    _refuse_columns(str(folder), "a folder by class", image_column=image_column, label_column=label_column)
    return open_folder(folder)


def _refuse_columns(data: str, kind: str, **columns: str | None) -> None:
    """What would have no effect is refused."""
    for argument, value in columns.items():
        if value is not None:
            raise ArgumentError(f"{argument} is {value!r}, but {data} is {kind} without columns; leave it out")


def _below(folder: Path, pattern: str) -> Sequence[Path]:
    """Files of a folder, or of data/ in it, where the Hub has them."""
    return sorted(folder.glob(pattern)) or sorted((folder / "data").glob(pattern))
