"""Vectors and the paths of what they are of, in a file: Parquet, NumPy's ``.npy`` or safetensors. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnets.bulk.table import Rows, as_text
from effnets.errors import ArgumentError, MissingFileError
from effnets.utils.atomic_file import new_file, write_whole

_GROUP = 4096  # rows of a Parquet file that are in memory at a time
_CHUNK = 1 << 24  # bytes
_KEY = "effnets"  # of the settings in a file's metadata
_NAME, _PATHS = "embeddings", "paths"  # safetensors' tensors


@dataclass(frozen=True, slots=True)
class Vectors:
    """What a file of vectors holds.

    Attributes:
        paths: of the photos. values: float32 ``[N, D]``, a row for each of them.
        settings: how they were made, as plain values.
    """

    paths: list[str]
    values: NDArray[np.float32]
    settings: Mapping[str, Any]


def write_vectors(path: Path, rows: Rows, values: NDArray[np.float32], settings: Mapping[str, Any]) -> None:
    """Write vectors to a file, which appears when it is whole.

    Parquet has a row for every photo: ``path``, ``error``, and ``vector``, a list of float32, null where there is an
    error. The other two hold the vectors that there are as one matrix ``[N, D]``, the habit of what reads them, and
    their paths as a JSON list: ``.npy`` in ``FILE.paths.json`` beside it, with the settings; safetensors as the tensor
    ``paths``, uint8, beside the tensor ``embeddings``.

    Args:
        path: ``.parquet``, ``.npy`` or ``.safetensors``.
        rows: gives all rows at each call, with ``path``, and ``error`` where there is no vector.
        values: the vectors of the others, ``[N, D]``, in order; also mapped from a file: a part is read at a time.
        settings: kept in the file's metadata.
    """
    VECTOR_WRITERS[path.suffix.lower()](path, rows, values, settings)


def _write_parquet(path: Path, rows: Rows, values: NDArray[np.float32], settings: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"path": pa.string(), "error": pa.string(), "vector": pa.list_(pa.float32())}
    schema = pa.schema(kinds, metadata={_KEY: json.dumps(settings)})
    pending, count = iter(rows()), 0
    with new_file(path) as file, pq.ParquetWriter(file, schema) as writer:
        while group := list(islice(pending, _GROUP)):
            there = np.array(["error" not in row for row in group])
            taken = values[count : count + int(there.sum())]
            count += len(taken)
            ends = np.concatenate([[0], np.cumsum(there)]).astype(np.int32) * values.shape[1]
            vectors = pa.ListArray.from_arrays(ends, np.asarray(taken).ravel(), mask=pa.array(~there))
            texts = [pa.array([as_text(row.get(key)) for row in group], pa.string()) for key in ("path", "error")]
            writer.write_table(pa.table([*texts, vectors], schema=schema))


def _write_npy(path: Path, rows: Rows, values: NDArray[np.float32], settings: Mapping[str, Any]) -> None:
    write_whole(_beside(path), json.dumps({"settings": settings, _PATHS: _paths(rows)}).encode("ascii"))
    with new_file(path) as new, new.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(values))
        file.writelines(_chunks(values))


def _write_safetensors(path: Path, rows: Rows, values: NDArray[np.float32], settings: Mapping[str, Any]) -> None:
    # Not by safetensors itself, which wants all of it in memory.
    paths = json.dumps(_paths(rows)).encode("ascii")
    header = {
        "__metadata__": {_KEY: json.dumps(settings)},
        _NAME: {"dtype": "F32", "shape": list(values.shape), "data_offsets": [0, values.nbytes]},
        _PATHS: {"dtype": "U8", "shape": [len(paths)], "data_offsets": [values.nbytes, values.nbytes + len(paths)]},
    }
    text = json.dumps(header).encode("ascii")
    text += b" " * (-len(text) % 8)  # as the format aligns its data
    with new_file(path) as new, new.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(_chunks(values))
        file.write(paths)


def _paths(rows: Rows) -> list[str]:
    return [str(row["path"]) for row in rows() if "error" not in row]


def _chunks(values: NDArray[np.float32]) -> Iterator[bytes]:
    rows = max(1, _CHUNK // max(1, 4 * values.shape[1]))
    return (values[start : start + rows].astype("<f4").tobytes() for start in range(0, len(values), rows))


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.paths.json")


Write = Callable[[Path, Rows, NDArray[np.float32], Mapping[str, Any]], None]
VECTOR_WRITERS: Mapping[str, Write] = {
    ".parquet": _write_parquet,
    ".npy": _write_npy,
    ".safetensors": _write_safetensors,
}


def read_vectors(path: Path) -> Vectors:
    """Read a file that `write_vectors` wrote. Vectors of ``.npy`` and safetensors stay on the disk until they are used.

    Raises:
        MissingFileError: if the file, or the one beside it, does not exist.
        ArgumentError: if it is another file, or damaged.
    """
    readers = {".parquet": _read_parquet, ".npy": _read_npy, ".safetensors": _read_safetensors}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise ArgumentError(f"{path}: is no file of vectors; name what effnets embed wrote: {', '.join(readers)}")
    for file in (path, *([_beside(path)] if read is _read_npy else [])):
        if not file.is_file():
            raise MissingFileError(f"{file} does not exist; make it with effnets embed")
    try:
        vectors = read(path)
    except (ValueError, KeyError, TypeError, OSError) as error:  # pyarrow's errors are of these classes
        raise ArgumentError(
            f"{path}: is not from effnets embed, or damaged ({error}); embed the photos again"
        ) from None
    if not (
        isinstance(vectors.settings, dict) and vectors.values.ndim == 2 and len(vectors.paths) == len(vectors.values)
    ):
        raise ArgumentError(f"{path}: paths and vectors do not belong together; embed the photos again")
    return vectors


def _read_parquet(path: Path) -> Vectors:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        settings = json.loads((file.schema_arrow.metadata or {})[_KEY.encode()])
        paths: list[str] = []
        parts: list[NDArray[np.float32]] = []
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["path", "vector"])
            table = table.filter(pc.is_valid(table["vector"]))
            if len(table):
                paths += table["path"].to_pylist()
                parts.append(pc.list_flatten(table["vector"]).to_numpy().reshape(len(table), -1))
    return Vectors(paths, np.concatenate(parts) if parts else np.empty((0, 0), np.float32), settings)


def _read_npy(path: Path) -> Vectors:
    beside = json.loads(_beside(path).read_bytes())
    return Vectors(beside[_PATHS], np.load(path, mmap_mode="r"), beside["settings"])


def _read_safetensors(path: Path) -> Vectors:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, path.stat().st_size)))
        start, end = header[_PATHS]["data_offsets"]
        file.seek(8 + length + start)
        paths = json.loads(file.read(end - start))
    shape, offset = tuple(header[_NAME]["shape"]), 8 + length + header[_NAME]["data_offsets"][0]
    values: NDArray[np.float32] = np.empty(shape, np.float32)
    if values.size:
        values = np.memmap(path, "<f4", "r", offset, shape)
    return Vectors(paths, values, json.loads(header["__metadata__"][_KEY]))
