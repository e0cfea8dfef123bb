"""Data sets on the Hugging Face Hub, and those that the `datasets` library has saved. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.data.parquet import first_line
from effnets.data.remote import FileStore, RemoteParquet, storage_limit
from effnets.data.splits import ALL, RawSplits, index_labels, is_plain, labeled, split_of
from effnets.errors import DataError, ImageError
from effnets.utils.junk import is_junk

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder, Features
    from huggingface_hub import HfFileSystem


_Table = TypeVar("_Table")

_PREFIX, _STREAM = "hf-dataset:", "hf-stream:"
_FILES_AT_ONCE = 8  # whose labels are read: mostly waiting for answers


class HubDataset(ImageDataset):
    """Images in a column of a `datasets.Dataset` on disk; `labels` are indices [len] into the class names."""

    kind = "images of the Hub"

    def __init__(
        self, dataset: Dataset, column: str, labels: NDArray[np.int64], class_names: tuple[str, ...], title: str
    ) -> None:
        from datasets import Image

        self.dataset = dataset.select_columns([column]).cast_column(column, Image(decode=False))
        self.column, self.title = column, title
        self.labels, self.class_names = labels, class_names

    def name(self, index: int) -> str:
        return f"{self.title}, row {index}"

    def read(self, index: int) -> bytes:
        row = self.dataset[index][self.column]
        if row is None or (row["bytes"] is None and row["path"] is None):
            raise ImageError(f"{self.name(index)} has no image; leave the row out")
        if row["bytes"] is not None:
            return row["bytes"]
        try:
            return Path(row["path"]).read_bytes()
        except OSError as error:
            raise ImageError(f"{self.name(index)}, {row['path']}, cannot be read ({error.strerror})") from error


def open_hub_dataset(
    name: str, *, image_column: str | None = None, label_column: str | None = None, strict: bool = False
) -> RawSplits:
    """Open "hf-dataset:user/name[@revision]", or a folder that `Dataset.save_to_disk` wrote.

    Raises:
        DataError: if the data set cannot be loaded or has no column of images or labels.
    """
    title = name.removeprefix(_PREFIX)
    tables, passed = known_splits(_load(title), name)
    features = next(iter(tables.values())).features
    image, label, notes = choose_columns(name, features, image_column, label_column)
    declared = getattr(features[label], "names", None)
    written = {split: table[label][:] for split, table in tables.items()}
    class_names, labels, unlabeled = index_labels(written, name, declared, strict=strict)
    sources: dict[str, ImageDataset] = {
        split: labeled(HubDataset(tables[split], image, labels[split], class_names, f"{title}, {split}"))
        for split in labels
    }
    return RawSplits(datasets=sources, notes=(*passed, *unlabeled, *notes))


def known_splits(found: Mapping[str, _Table], name: str) -> tuple[dict[str, _Table], tuple[str, ...]]:
    """Return the splits for training, validation and test by their names, and a note that names the others.

    A single split is the whole data set, whatever its name.

    Raises:
        DataError: if there are several, but not these.
    """
    found = {str(split): table for split, table in found.items()}
    if len(found) == 1:
        split, table = next(iter(found.items()))
        return {split_of(split) or ALL: table}, ()
    known: dict[str, _Table] = {}
    taken: list[str] = []
    for split in sorted(found, key=lambda split: not is_plain(split)):  # "validation" before "dev"
        if (word := split_of(split)) and word not in known:
            known[word] = found[split]
            taken.append(split)
    if not known:
        raise DataError(f"{name}: has the splits {', '.join(found)}; it needs train, validation or test")
    notes = []
    if passed := [split for split in found if split not in taken]:
        notes.append(f"passed over the splits {', '.join(passed)}")
    if not all(map(is_plain, taken)):
        notes.append(", ".join(f"{split} is taken as {split_of(split)}" for split in taken))
    return known, tuple(notes)


def unavailable(name: str, error: Exception) -> DataError:
    """Return the error to raise if the Hub or its libraries fail."""
    return DataError(
        f"{name}: could not be loaded ({first_line(error)}); check the name, the revision and the network, or whether "
        "HF_HUB_OFFLINE is set"
    )


def _import_datasets(name: str) -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{name}: needs the datasets library; pip install 'effnets[train]'") from error
    return datasets


def _load(title: str) -> Mapping[str, Dataset]:
    datasets = _import_datasets(f"{_PREFIX}{title}")
    path, _, revision = title.partition("@")
    try:
        if any(Path(path, file).is_file() for file in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(path)
        else:
            loaded = datasets.load_dataset(path, revision=revision or None)
    except Exception as error:  # the library raises anything, from ConnectionError to its own classes
        raise unavailable(f"{_PREFIX}{title}", error) from error
    return loaded if isinstance(loaded, dict) else {ALL: loaded}


def choose_columns(
    name: str, features: Features, image: str | None, label: str | None
) -> tuple[str, str, tuple[str, ...]]:
    """Return the columns of images and labels, by default those of such types, and a note if there was a choice.

    Raises:
        DataError: if there is no such column.
    """
    from datasets import ClassLabel, Image

    images = [image] if image else [column for column, kind in features.items() if isinstance(kind, Image)]
    labels = [label] if label else [column for column, kind in features.items() if isinstance(kind, ClassLabel)]
    labels = labels or [column for column in ("label", "labels") if column in features]
    for argument, found in (("image_column", images), ("label_column", labels)):
        if not found or found[0] not in features:
            option = "--" + argument.replace("_", "-")
            raise DataError(
                f"{name}: has the columns {', '.join(features)}; name the right one with {argument} ({option})"
            )
    if label is None and len(labels) > 1:
        note = f"of the label columns {', '.join(labels)}, {labels[0]} is used; name another with label_column"
        return images[0], labels[0], (note,)
    return images[0], labels[0], ()


def open_hub_stream(
    name: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    strict: bool = False,
    progress: Callable[[str, float], object],
) -> RawSplits:
    """Open the parquet files of "hf-stream:user/name", with "/configuration" and "@revision" if it has several.

    Of each file, only the labels are read at first. Training reads file after file (`effnets.data.remote`); files are
    kept if all of them fit into `storage_limit`.

    Args:
        name: as above.
        image_column, label_column: their names; by default the only ones of such a type.
        strict: raise an error for an image without a label among others.
        progress: called before each file with a description and the share done, 0 to 1.

    Raises:
        DataError: if the data set cannot be loaded, is not in parquet or has no column of images or labels.
    """
    builder, paths = _parquet_files(name)
    import pyarrow.parquet as pq
    from datasets import Features
    from huggingface_hub import HfFileSystem, constants

    files = HfFileSystem(endpoint=constants.ENDPOINT)  # an instance for another endpoint would be reused
    every = [path for of_split in paths.values() for path in of_split]
    try:
        features = builder.info.features
        if not features:
            with files.open(every[0], cache_type="none") as file:
                features = Features.from_arrow_schema(pq.read_schema(file))
    except Exception as error:  # the libraries raise anything, from ConnectionError to their own classes
        raise unavailable(name, error) from error
    image, label, notes = choose_columns(name, features, image_column, label_column)
    chosen, skipped = known_splits(paths, name)
    every = [path for of_split in chosen.values() for path in of_split]
    with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
        try:
            answers = threads.map(lambda path: _File.read(files, path, label), every)
            found: dict[str, _File] = {}
            for path in every:
                progress(f"reading the labels of file {len(found) + 1} of {len(every)}", len(found) / len(every))
                found[path] = next(answers)
        finally:
            threads.shutdown(cancel_futures=True)
    streamed = sum(file.size for file in found.values()) > storage_limit()
    written = {split: [one for path in of_split for one in found[path].labels] for split, of_split in chosen.items()}
    declared = getattr(features[label], "names", None)
    class_names, indices, unlabeled = index_labels(written, name, declared, strict=strict)
    store, sources = FileStore(), dict[str, ImageDataset]()
    for split in indices:
        of_split = [found[path] for path in chosen[split]]
        groups = [(i, group, rows) for i, file in enumerate(of_split) for group, rows in enumerate(file.group_rows)]
        dataset = RemoteParquet(
            [file.url for file in of_split], image, np.array(groups), indices[split], class_names, store=store,
            streamed=streamed,
        )  # fmt: skip
        sources[split] = labeled(dataset)
    partial = ("the Hub has converted only the beginning of this data set to parquet",)
    notes = (*skipped, *(partial if any("/partial-" in path for path in every) else ()), *unlabeled, *notes)
    return RawSplits(datasets=sources, notes=notes, revision=every[0].partition("@")[2].partition("/")[0])


def _parquet_files(name: str) -> tuple[DatasetBuilder, dict[str, list[str]]]:
    """Return a data set's builder and its files by split, at a commit."""
    repository, _, revision = name.removeprefix(_STREAM).partition("@")
    parts = repository.split("/")
    if not all(parts) or len(parts) > 3:
        raise DataError(f"{name}: names no data set; write {_STREAM}user/name, user/name/configuration, or …@revision")
    datasets = _import_datasets(name)
    try:
        builder = datasets.load_dataset_builder(
            f"hf://datasets/{'/'.join(parts[:2])}", "".join(parts[2:]) or None, revision=revision or None
        )
        paths = {
            str(split): [str(path) for path in files if not is_junk(str(path).rpartition("/")[2])]
            for split, files in builder.config.data_files.items()
        }
    except Exception as error:  # the libraries raise anything, from ConnectionError to their own classes
        raise unavailable(name, error) from error
    others = [path for files in paths.values() for path in files if not path.endswith(".parquet")]
    if others:
        raise DataError(
            f"{name}: is not in parquet ({others[0].rpartition('/')[2]}); try …@refs/convert/parquet, where the Hub "
            "may have converted it, name tar shards by their URLs, https://…, or fetch it whole as hf-dataset:…"
        )
    return builder, paths


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A parquet file on the Hub: its size in bytes, rows by row group, and labels as written."""

    url: str
    size: int
    group_rows: list[int]
    labels: list[Any]

    @classmethod
    def read(cls, files: HfFileSystem, path: str, label: str) -> _File:
        import pyarrow.parquet as pq

        try:
            with files.open(path, cache_type="none") as file:  # reads nothing beyond the footer and the labels
                table = pq.ParquetFile(file)
                return cls(
                    url=files.url(path),
                    size=file.size,
                    group_rows=[table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)],
                    labels=table.read(columns=[label], use_threads=False).column(0).to_pylist(),
                )
        except Exception as error:  # of pyarrow, the client, and what the client is built on
            raise unavailable(files.url(path), error) from error
