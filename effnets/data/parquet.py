"""Images in parquet files, in the column layout of the Hugging Face Hub. Free of torch."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.data.splits import ALL, RawSplits, index_labels, labeled, read_class_names, split_of_file
from effnets.errors import DataError, ImageError

if TYPE_CHECKING:
    import pyarrow as pa


# Of row groups in the memory of each process.
CACHE_BYTES = 1 << 30
_LOCK = threading.Lock()  # evaluation reads in several threads

IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")


class ParquetDataset(ImageDataset):
    """Images in a column of parquet files, read a row group at a time.

    Up to 1 GiB of row groups stay in memory in each process; random access to larger files is slow.

    Args:
        files: the files' paths, in the order of their rows.
        column: of the images: encoded files, or structs of `bytes` and `path`.
        groups: [row groups, 3]; file, number in the file and rows of every row group.
        labels, class_names: as of `ImageDataset`.
    """

    kind = "images in parquet files"

    def __init__(
        self,
        files: Sequence[Path | str],
        column: str,
        groups: NDArray[np.int64],
        labels: NDArray[np.int64],
        class_names: tuple[str, ...],
    ) -> None:
        self.files, self.column, self.groups = tuple(files), column, groups
        self.labels, self.class_names = labels, class_names
        self._starts = np.concatenate([[0], np.cumsum(groups[:, 2])])
        self._cache: OrderedDict[int, pa.Array[Any]] = OrderedDict()

    def name(self, index: int) -> str:
        file = int(self.groups[self._group_of(index), 0])
        first = int(self._starts[np.flatnonzero(self.groups[:, 0] == file)[0]])
        return f"{self.files[file]}, row {index - first}"

    def read(self, index: int) -> bytes:
        group = self._group_of(index)
        data = self._rows(group)[index - int(self._starts[group])].as_py()
        if data is None:
            raise ImageError(f"{self.name(index)} has no bytes; write images into the file, not their paths")
        return data

    def sizes(self) -> NDArray[np.int64]:
        import pyarrow.compute as pc

        lengths = [
            pc.fill_null(pc.binary_length(self._rows(group)), 0).to_numpy(zero_copy_only=False)
            for group in range(len(self.groups))
        ]
        return np.concatenate(lengths).astype(np.int64)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_cache": OrderedDict()}

    def _path(self, file: int) -> Path:
        return Path(self.files[file])

    def _group_of(self, index: int) -> int:
        return int(np.searchsorted(self._starts, index, side="right")) - 1

    def _rows(self, group: int) -> pa.Array[Any]:
        with _LOCK:
            if group in self._cache:
                self._cache.move_to_end(group)
                return self._cache[group]
            rows = self._load(group)
            self._cache[group] = rows
            while len(self._cache) > 1 and sum(kept.nbytes for kept in self._cache.values()) > CACHE_BYTES:
                self._cache.popitem(last=False)
            return rows

    def _load(self, group: int) -> pa.Array[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file, number, _ = (int(value) for value in self.groups[group])
        try:
            # Without threads, which do not survive in forked workers.
            table = pq.ParquetFile(self._path(file)).read_row_group(number, columns=[self.column], use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise ImageError(f"{self.files[file]}: row group {number} cannot be read ({first_line(error)})") from error
        rows = table.column(self.column).combine_chunks()
        rows = rows.chunk(0) if isinstance(rows, pa.ChunkedArray) else rows
        return rows.field("bytes") if pa.types.is_struct(rows.type) else rows


def open_parquet(
    files: Sequence[Path],
    *,
    single: bool,
    image_column: str | None = None,
    label_column: str | None = None,
    strict: bool = False,
) -> RawSplits:
    """Open images in parquet files, whose names say their splits.

    Class names are those that the `datasets` library wrote into the files, or those in classnames.txt beside them, one
    name per line; otherwise the labels.

    Args:
        files: of one data set.
        single: the user named this very file, so it is the whole data set, whatever its name.
        image_column, label_column: their names; by default image or img, and label, labels or fine_label.
        strict: raise an error for an image without a label among others.

    Raises:
        DataError: if a file is damaged, has another layout, or belongs to no split.
    """
    origin = str(files[0] if len(files) == 1 else files[0].parent)
    tables = read_tables(files, image_column, label_column, single=single)
    first = next(iter(tables.values()))
    declared = first.names or read_class_names(first.files[0].parent)
    class_names, labels, notes = index_labels(
        {split: table.labels for split, table in tables.items()}, origin, declared, strict=strict
    )
    datasets: dict[str, ImageDataset] = {}
    for split, table in tables.items():
        if split in labels:
            dataset = ParquetDataset(table.files, table.image_column, table.groups, labels[split], class_names)
            datasets[split] = labeled(dataset)
    return RawSplits(datasets=datasets, notes=notes)


def read_tables(
    files: Sequence[Path],
    image_column: str | None,
    label_column: str | None,
    usual: tuple[str, ...] = _LABEL_COLUMNS,
    *,
    single: bool,
) -> dict[str, ParquetTable]:
    """Return the files by their splits, or by "all"; arguments and errors as of `open_parquet`.

    The labels' column has one of the `usual` names unless it is named.
    """
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(ALL if single else split_of_file(file.name) or ALL, []).append(file)
    if ALL in splits and len(splits) > 1:
        raise DataError(
            f"{splits[ALL][0]}: its name belongs to no split, unlike those of other files; "
            "start its name with train, validation or test, or move it away"
        )
    tables = {split: ParquetTable(paths, image_column, label_column, usual) for split, paths in splits.items()}
    first = next(iter(tables.values()))
    for table in tables.values():
        if table.names != first.names:
            raise DataError(f"{table.files[0]}: declares other class names than {first.files[0]}; make them the same")
    return tables


class ParquetTable:
    """The files of one split.

    Attributes:
        files, image_column, label_column: their paths, and names of columns.
        groups: as of `ParquetDataset`.
        labels: of every row, as stored.
        names: of the labels, where the files declare them.
    """

    def __init__(
        self, files: Sequence[Path], image_column: str | None, label_column: str | None, usual: tuple[str, ...]
    ) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise DataError(f"{files[0]}: parquet needs pyarrow; pip install 'effnets[train]'") from error
        self.files = tuple(files)
        groups: list[tuple[int, int, int]] = []
        labels: list[pa.ChunkedArray[Any]] = []
        for number, path in enumerate(files):
            try:
                file = pq.ParquetFile(path)
                schema = file.schema_arrow
                self.image_column = find_column(path, schema, image_column, IMAGE_COLUMNS, "image_column")
                self.label_column = find_column(path, schema, label_column, usual, "label_column")
                labels.append(file.read(columns=[self.label_column]).column(0))
            except (pa.ArrowException, OSError) as error:
                raise DataError(
                    f"{path}: cannot be read as parquet ({first_line(error)}); copy or download it again"
                ) from error
            metadata = file.metadata
            groups += [(number, group, metadata.row_group(group).num_rows) for group in range(metadata.num_row_groups)]
            self.names = _declared_names(schema, self.label_column)
        self.groups = np.array(groups, np.int64).reshape(-1, 3)
        self.labels = [value for column in labels for value in column.to_pylist()]


def find_column(path: Path | str, schema: pa.Schema, wanted: str | None, usual: tuple[str, ...], argument: str) -> str:
    """Return the name of the wanted column, or of the first of the usual ones.

    Raises:
        DataError: if the table has no such column; the message names the `argument` to give.
    """
    found = [name for name in ((wanted,) if wanted else usual) if name in schema.names]
    if not found:
        raise DataError(
            f"{path}: has the columns {', '.join(schema.names)}, none named {wanted or ' or '.join(usual)}; "
            f"name it with {argument} (--{argument.replace('_', '-')})"
        )
    return found[0]


def _declared_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """Return class names as the `datasets` library writes them into a file."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        if isinstance(feature, list):  # of lists, as earlier versions of the library wrote them
            feature = feature[0]
        return tuple(feature.get("feature", feature)["names"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
