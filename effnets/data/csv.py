"""A table of pictures: CSV with the columns path, label and, if wished, split. Free of torch."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from effnets.data.classes import index_labels
from effnets.data.dataset import ImageDataset
from effnets.data.folder import FileDataset
from effnets.data.splits import ALL, SPLIT_NAMES, RawSplits, named
from effnets.errors import DataError

_SPLIT = "split"
_SHOWN = 5


class _Row(NamedTuple):
    line: int
    path: str
    label: str
    split: str


def open_manifest(path: Path, *, image_column: str | None = None, label_column: str | None = None) -> RawSplits:
    """Pictures listed in a CSV file; their paths are relative to its folder.

    Args:
        path: of the file.
        image_column, label_column: of the pictures' paths and classes, where they are not called path and label. With
            one of them stated the file may have any further columns, which are passed over.

    Raises:
        DataError: it is no such table, rows are incomplete, or files are missing; the message gives the lines.
    """
    names = _Names(
        image=_plain(image_column or "path"),
        label=_plain(label_column or "label"),
        others_allowed=image_column is not None or label_column is not None,
    )
    rows, notes = _read(path, names)
    missing = [f"line {row.line}: {row.path}" for row in rows if not (path.parent / row.path).is_file()]
    _refuse(path, missing, "files do not exist", "paths are relative to the folder of the CSV file")
    by_split: dict[str, list[_Row]] = {}
    for row in rows:
        by_split.setdefault(row.split, []).append(row)
    class_names, labels = index_labels({split: [r.label for r in rows] for split, rows in by_split.items()}, str(path))
    sources: dict[str, ImageDataset] = {
        split: FileDataset(path.parent, [row.path for row in rows], labels[split], class_names)
        for split, rows in by_split.items()
    }
    return RawSplits(sources=sources, notes=notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """What the columns are called, and whether there may be others."""

    image: str
    label: str
    others_allowed: bool

    @property
    def wanted(self) -> tuple[str, str, str]:
        return self.image, self.label, _SPLIT


def _plain(name: str) -> str:
    return name.strip().lower()


def _read(path: Path, names: _Names) -> tuple[list[_Row], tuple[str, ...]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = _columns(path, next(reader, []), names)
            records = [(reader.line_num, record) for record in reader]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: is no CSV ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    needed = [column for column in columns if column in names.wanted]
    places = [columns.index(column) for column in needed]
    incomplete = [
        f"line {line}"
        for line, record in records
        if len(record) != len(columns) or not all(record[place].strip() for place in places)
    ]
    _refuse(path, incomplete, "rows are empty or incomplete", f"every row needs {', '.join(needed)}")
    if not records:
        raise DataError(f"{path}: lists no picture; write one row for each, with {', '.join(needed)}")
    rows = list(_rows(columns, names, records))
    unknown = [f"line {row.line}: {row.split!r}" for row in rows if row.split not in {*SPLIT_NAMES.values(), ALL}]
    _refuse(path, unknown, "splits are unknown", "write train, val or test")
    others = [column for column in columns if column not in needed]
    return rows, (f"passed over {named('column', others)} of {path.name}",) if others else ()


def _columns(path: Path, header: list[str], names: _Names) -> list[str]:
    columns = [_plain(name) for name in header]
    unknown = [name for name in columns if name not in names.wanted and not names.others_allowed]
    lacking = [name for name in names.wanted[:2] if name not in columns]
    if not unknown and not lacking and len(set(columns)) == len(columns):
        return columns
    separated = [sign for sign in (";", "\t") if any(sign in name for name in columns)]
    hint = f"; separate columns by commas, not by {separated[0]!r}" if separated else ""
    if not hint and not names.others_allowed:
        hint = "; name other columns with image_column and label_column"
    raise DataError(
        f"{path}, line 1: has the columns {', '.join(columns) or 'nothing'}; "
        f"wanted are {names.image}, {names.label}[, {_SPLIT}]{hint}"
    )


def _rows(columns: list[str], names: _Names, records: list[tuple[int, list[str]]]) -> Iterator[_Row]:
    for line, record in records:
        cells = dict(zip(columns, (cell.strip() for cell in record), strict=True))
        split = cells.get(_SPLIT, ALL)
        yield _Row(line, cells[names.image], cells[names.label], SPLIT_NAMES.get(split.lower(), split))


def _refuse(path: Path, faults: list[str], what: str, hint: str) -> None:
    if faults:
        shown = ", ".join(faults[:_SHOWN]) + (", …" if len(faults) > _SHOWN else "")
        raise DataError(f"{path}: {len(faults)} {what} ({shown}); {hint}")
