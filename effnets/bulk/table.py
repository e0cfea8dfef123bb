"""Write rows as a file: JSON lines, CSV or Parquet, in one piece, with as little memory for a million as for ten."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import IO, Any

from effnets.errors import ArgumentError
from effnets.utils.atomic_file import find_target, new_file

Rows = Callable[[], Iterator[Mapping[str, Any]]]

_GROUP = 10_000  # rows of a Parquet file that are in memory at a time


def check_target(path: Path, suffixes: Collection[str] = ()) -> None:
    """Raise ArgumentError if rows cannot be written to a file of that name; by default the `suffixes` of tables."""
    suffix, (*most, last) = path.suffix.lower(), tuple(suffixes or WRITERS)
    if suffix not in (*most, last):
        raise ArgumentError(f"{path}: the name must end in {', '.join(most)} or {last}")
    if suffix == ".parquet" and not find_spec("pyarrow"):
        other = next(one for one in (".csv", *most, last) if one in (suffixes or WRITERS) and one != suffix)
        raise ArgumentError(f"{path}: Parquet needs pyarrow; pip install 'effnets[train]', or name a {other}")
    if not path.absolute().parent.is_dir():
        raise ArgumentError(f"{path}: there is no folder {path.parent}; create it first")
    try:
        find_target(path)
    except OSError as error:
        raise ArgumentError(f"{path}: cannot be written there ({error.strerror or error}); name another") from None


def write_rows(path: Path, rows: Rows) -> None:
    """Write rows to a file, which appears when it is whole.

    JSON lines keep rows as they are; tables have a column for the path, the error, and for index, label and probability
    of each prediction, ``label_1`` of the likeliest.

    Args:
        path: ``.jsonl``, ``.csv`` or ``.parquet``.
        rows: gives all of them at each call: a table is written once its columns are known.
    """
    with new_file(path) as file:
        WRITERS[path.suffix.lower()](file, rows)


def _write_json_lines(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="ascii") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows())


def _write_csv(path: Path, rows: Rows) -> None:
    columns = _columns(rows)
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for row in rows():
            flat = _flat(row)
            table.writerow([flat.get(column, "") for column in columns])


def _write_parquet(path: Path, rows: Rows) -> None:
    write_parquet(path, rows(), _columns(rows))


def write_parquet(file: Path | IO[bytes], rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows as Parquet with these columns, as of `prediction_columns`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"index": pa.int64(), "probability": pa.float64()}
    schema = pa.schema([(column, kinds.get(column.partition("_")[0], pa.string())) for column in columns])
    pending = map(_flat, rows)
    with pq.ParquetWriter(file, schema) as writer:
        while group := list(islice(pending, _GROUP)):
            values = {column: [as_text(row.get(column)) for row in group] for column in columns}
            writer.write_table(pa.table(values, schema=schema))


def _columns(rows: Rows) -> list[str]:
    return prediction_columns(max((len(row.get("predictions", ())) for row in rows()), default=0))


def prediction_columns(ranks: int) -> list[str]:
    """Return the columns of a table with so many predictions for each photo."""
    named = (f"{name}_{rank}" for rank in range(1, ranks + 1) for name in ("index", "label", "probability"))
    return ["path", "error", *named]


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    predictions = row.get("predictions", ())
    values = {f"{name}_{rank}": value for rank, one in enumerate(predictions, 1) for name, value in one.items()}
    return {"path": row["path"], "error": row.get("error"), **values}


def as_text(value: Any) -> Any:
    """Return a value that Parquet can hold: file names that are not UTF-8 show their bytes, as in Python."""
    return (
        value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        if isinstance(value, str)
        else value
    )


WRITERS: Mapping[str, Callable[[Path, Rows], None]] = {
    ".jsonl": _write_json_lines,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
