"""Images with any number of labels each: tables with a column for every label, or with lists. Free of torch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.data.folder import FileDataset
from effnets.data.parquet import ParquetDataset, read_tables
from effnets.data.splits import RawSplits, class_names_of, named
from effnets.data.table import TableImages, find_images, image_places, read_table, split_column
from effnets.errors import DataError

_YES, _NO, _UNKNOWN = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no"), ("", "-1", "-1.0", "nan")
_VALUES: Mapping[str, float] = dict.fromkeys(_YES, 1.0) | dict.fromkeys(_NO, 0.0) | dict.fromkeys(_UNKNOWN, np.nan)
_SEPARATOR = re.compile(r"[|;,]")
_LIST_COLUMNS = ("labels", "label", "tags", "attributes", "classes")

Labels = Sequence[str] | None  # of an image; None where nothing is known of it


def open_label_table(
    path: Path, *, image_column: str | None = None, label_column: str | None = None, strict: bool = False
) -> RawSplits:
    """Open images listed in a CSV file, with a column of 0 and 1 for every label, or one with lists of labels.

    An empty cell, -1 or NaN says that it is unknown whether the image has that label. A list is ``red|round``,
    ``red;round`` or in JSON; an empty cell is the list of none.

    Args:
        path: of the file, as of `effnets.data.table.open_table`.
        image_column: of the images' paths, if it does not have a usual name.
        label_column: of the lists; None takes one of a usual name (labels, tags, …), or the only one beside path and
            split, unless it has 0 and 1.
        strict: raise an error for an image of which no label is known.

    Raises:
        DataError: if the file is not such a table, rows are incomplete, or files are missing; gives the lines.
    """
    names, records = read_table(path)
    columns = [name.lower() for name in names]
    images = image_places(columns, image_column)
    if len(images) != 1:
        raise DataError(
            f"{path}, line 1: has the columns {', '.join(names) or 'nothing'}; needed are "
            f"{(image_column or 'path').strip().lower()}, and a column of 0 and 1 for each label; name the one of the "
            "images with image_column"
        )
    if not records:
        raise DataError(f"{path}: lists no images; write one row for each")
    split = split_column(columns, records)
    rest = [place for place in range(len(columns)) if place not in (images[0], split) and columns[place]]
    lists = _list_column(path, names, records, rest, label_column)
    labels = _flag_columns(path, names, records, rest) if lists is None else [lists]
    found = find_images(path, columns, records, images[0], split, labels)
    if lists is None:
        class_names = tuple(names[place] for place in labels)
        targets = {word: _flags(found, word, labels) for word in found.cells}
    else:
        written = {
            word: [
                _split_list(cells[lists], f"{path}, line {line}", names[lists])
                for cells, line in zip(rows, found.lines[word], strict=True)
            ]
            for word, rows in found.cells.items()
        }
        class_names, targets = _encode(written, str(path))
    passed = [names[place] for place in rest if place not in labels]
    notes = [f"passed over {named('column', passed)} of {path.name}"] if passed else []

    def place(word: str, index: int) -> str:
        return f"line {found.lines[word][index]}"

    datasets, more = _known(
        {word: FileDataset(path.parent, files, _none(files), class_names) for word, files in found.files.items()},
        targets,
        str(path),
        strict=strict,
        place=place,
    )
    return RawSplits(datasets=datasets, notes=(*notes, *found.notes, *more))


def open_label_parquet(
    files: Sequence[Path],
    *,
    single: bool,
    image_column: str | None = None,
    label_column: str | None = None,
    strict: bool = False,
) -> RawSplits:
    """Open images in parquet files with a column of lists of labels: names, or numbers of names that the files declare.

    Arguments and errors as of `effnets.data.parquet.open_parquet`; lists are in the column labels, label, tags,
    attributes or classes unless `label_column` names another.
    """
    origin = str(files[0] if len(files) == 1 else files[0].parent)
    tables = read_tables(files, image_column, label_column, _LIST_COLUMNS, single=single)
    written: dict[str, list[Labels]] = {}
    for split, table in tables.items():
        for row in table.labels:
            if row is not None and not isinstance(row, list | tuple):
                raise DataError(
                    f"{origin}: the column {table.label_column} has {row!r}, no list of labels; name one of lists with "
                    "label_column, or train with task: classify"
                )
        written[split] = [_declared(row, table.names, origin) for row in table.labels]
    names = next(iter(tables.values())).names
    class_names, targets = _encode(written, origin, names)
    datasets, notes = _known(
        {
            split: ParquetDataset(table.files, table.image_column, table.groups, _none(table.labels), class_names)
            for split, table in tables.items()
        },
        targets,
        origin,
        strict=strict,
        place=lambda split, index: f"row {index} of {split}",
    )
    return RawSplits(datasets=datasets, notes=notes)


def rarest_labels(targets: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return [len] which of the labels that each image has is the rarest; the most frequent one if it has none."""
    counts = (targets == 1).sum(axis=0)
    order = np.argsort(counts, kind="stable")
    has = targets[:, order] == 1
    return np.where(has.any(axis=1), order[has.argmax(axis=1)], order[-1]).astype(np.int64)


def _list_column(
    path: Path, names: Sequence[str], records: Sequence[tuple[int, list[str]]], rest: list[int], wanted: str | None
) -> int | None:
    """Return the place of the column of lists; None if every label has a column."""
    if wanted is not None:
        chosen = [place for place in rest if names[place].lower() == wanted.strip().lower()]
        if len(chosen) != 1:
            raise DataError(
                f"{path}, line 1: has the columns {', '.join(names)}, and {len(chosen)} called {wanted}; name the one "
                "of the lists of labels"
            )
        return chosen[0]
    usual = [place for place in rest if names[place].lower() in _LIST_COLUMNS]
    if not usual and len(rest) == 1 and not any(_value(cells, rest[0]) in (0.0, 1.0) for _, cells in records):
        usual = rest
    lists = [place for place in usual if any(_value(cells, place) is None for _, cells in records)]
    return lists[0] if len(lists) == 1 else None


def _flag_columns(
    path: Path, names: Sequence[str], records: Sequence[tuple[int, list[str]]], rest: list[int]
) -> list[int]:
    """Return the places of columns of 0 and 1.

    Raises:
        DataError: if there are none, two have one name, or a column has other values among these.
    """
    chosen = []
    for place in rest:
        wrong = [(line, cells[place]) for line, cells in records if len(cells) > place and _value(cells, place) is None]
        if not wrong:
            chosen.append(place)
        elif any(_value(cells, place) in (0.0, 1.0) for _, cells in records):
            shown = ", ".join(f"line {line}: {cell!r}" for line, cell in wrong[:3])
            raise DataError(
                f"{path}: the column {names[place]} has 0 and 1, and {len(wrong)} other values ({shown}); write 1, 0, "
                "or nothing where it is unknown"
            )
    labels = [names[place] for place in chosen]
    if not labels:
        raise DataError(
            f"{path}, line 1: has the columns {', '.join(names)}, and no label among them: no column has 0 and 1 "
            "alone; add one for each label, or name a column of lists (red|round) with label_column"
        )
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise DataError(f"{path}, line 1: {named('label', twice)} twice; give every column a name of its own")
    return chosen


def _value(cells: Sequence[str], place: int) -> float | None:
    return _VALUES.get(cells[place].lower()) if len(cells) > place else None


def _flags(found: TableImages, word: str, labels: Sequence[int]) -> NDArray[np.float32]:
    rows = [[_VALUES[cells[place].lower()] for place in labels] for cells in found.cells[word]]
    return np.array(rows, np.float32).reshape(-1, len(labels))


def _split_list(cell: str, where: str, column: str) -> Labels:
    """Return the labels that a cell lists; None where it says that they are unknown."""
    if cell.lower() in _UNKNOWN and cell:
        return None
    if cell.startswith("["):
        try:
            values = json.loads(cell)
        except (ValueError, RecursionError):
            raise DataError(f'{where}: {column} is {cell!r}, no list in JSON; write red|round, or ["red"]') from None
        return [str(value).strip() for value in values]
    return [label.strip() for label in _SEPARATOR.split(cell) if label.strip()]


def _declared(row: Sequence[Any] | None, names: tuple[str, ...] | None, origin: str) -> Labels:
    if row is None or names is None:
        return None if row is None else [str(value) for value in row]
    try:
        return [names[value] for value in row if value >= 0]
    except (IndexError, TypeError):
        raise DataError(f"{origin}: labels {list(row)} are not numbers of the {len(names)} declared names") from None


def _encode(
    written: Mapping[str, Sequence[Labels]], origin: str, declared: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], dict[str, NDArray[np.float32]]]:
    """Return the names of all labels, and by split which each image has."""
    found = {split: {label for labels in rows for label in labels or ()} for split, rows in written.items()}
    names = declared or class_names_of(found, origin)
    if not names:
        raise DataError(f"{origin}: no image has a label; name the right column with label_column")
    places = {name: place for place, name in enumerate(names)}
    targets = {}
    for split, rows in written.items():
        matrix = np.zeros((len(rows), len(names)), np.float32)
        for row, labels in zip(matrix, rows, strict=True):
            if labels is None:
                row[:] = np.nan
            else:
                row[[places[label] for label in labels]] = 1
        targets[split] = matrix
    return names, targets


def _none(images: Sequence[object]) -> NDArray[np.int64]:
    return np.zeros(len(images), np.int64)


def _known(
    datasets: Mapping[str, ImageDataset],
    targets: Mapping[str, NDArray[np.float32]],
    origin: str,
    *,
    strict: bool,
    place: Callable[[str, int], str],
) -> tuple[dict[str, ImageDataset], tuple[str, ...]]:
    """Return the data sets with their targets, without images of which no label is known; and notes about these."""
    kept: dict[str, ImageDataset] = {}
    notes = []
    for split, dataset in datasets.items():
        dataset.targets = targets[split]
        dataset.labels = rarest_labels(targets[split])
        unknown = np.isnan(targets[split]).all(axis=1)
        if unknown.all():
            notes.append(f"passed over {split}: nothing is known of its images")
            continue
        what = f"{unknown.sum()} image{'s' * int(unknown.sum() != 1)} without a known label"
        if unknown.any() and strict:
            first = place(split, int(unknown.argmax()))
            raise DataError(f"{origin}: {split} has {what}, {first} first; label or remove them, or leave strict out")
        if unknown.any():
            notes.append(f"left out of {split}: {what}, {place(split, int(unknown.argmax()))} first")
        kept[split] = dataset.subset(np.flatnonzero(~unknown)) if unknown.any() else dataset
    if not kept:
        raise DataError(f"{origin}: nothing is known of any image; write 1 and 0 into the columns of labels")
    return kept, tuple(notes)
