"""The metadata of an ONNX file, read from its outermost protobuf fields alone: no onnx, no engine, no weights."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from effnets.errors import MissingFileError, WeightsError

Found = TypeVar("Found")

# Field numbers of ModelProto and StringStringEntryProto (onnx.proto), and protobuf's wire types.
_IR_VERSION, _GRAPH, _METADATA, _KEY, _VALUE = 1, 7, 14, 1, 2
# From the graph to the shape of an output: GraphProto.output, ValueInfoProto.type, TypeProto.tensor_type, its shape.
_TO_SHAPE, _DIMENSION, _DIMENSION_VALUE = (_GRAPH, 12, 2, 1, 2), 1, 1
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def read_properties(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata properties of an ONNX file.

    Raises:
        MissingFileError: no such file. WeightsError: it is no ONNX file, or damaged.
    """
    return _read_file(Path(path), _read_model)


def count_outputs(path: str | os.PathLike[str]) -> int | None:
    """How many numbers the first output of an ONNX file has for an image, as its shape states; None if it does not.

    Raises:
        MissingFileError: no such file. WeightsError: it is no ONNX file, or damaged.
    """
    return _read_file(Path(path), _read_last_dimension)


def _read_file(path: Path, read: Callable[[BinaryIO, int], Found]) -> Found:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise WeightsError(f"{path}: is not a regular file; name an exported model")
        with path.open("rb") as file:
            return read(file, path.stat().st_size)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(f"{path}: no such exported model") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, EOFError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: is no ONNX file, or a damaged one; export the model again") from None


def _read_model(file: BinaryIO, size: int) -> dict[str, str]:
    properties: dict[str, str] = {}
    seen = set()
    for field, kind in _fields(file, size):
        seen.add(field)
        if field == _METADATA and kind == _LENGTH:
            end = _length(file) + file.tell()
            entry = {}
            for part, part_kind in _fields(file, end):
                if part_kind != _LENGTH:
                    raise ValueError("no text")
                entry[part] = _read(file, _length(file)).decode("utf-8")
            properties[entry.get(_KEY, "")] = entry.get(_VALUE, "")
        else:
            _skip(file, kind, size)
    if not {_IR_VERSION, _GRAPH} <= seen:
        raise ValueError("no model")
    return properties


def _read_last_dimension(file: BinaryIO, size: int) -> int | None:
    end = size
    for number in _TO_SHAPE:
        inner = _enter(file, end, number)
        if inner is None:
            return None
        end = inner
    last = None
    while (dimension := _enter(file, end, _DIMENSION)) is not None:
        last = None  # a name, or nothing at all
        for field, kind in _fields(file, dimension):
            if field == _DIMENSION_VALUE and kind == _VARINT:
                last = _varint(file)
            else:
                _skip(file, kind, dimension)
    return last


def _enter(file: BinaryIO, end: int, number: int) -> int | None:
    """Go to the content of the next message of that number before `end`, and say where it ends; None without any."""
    for field, kind in _fields(file, end):
        if field == number and kind == _LENGTH:
            return _length(file) + file.tell()
        _skip(file, kind, end)
    return None


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """Number and wire type of each field up to `end`; the caller reads or skips its value before the next."""
    while file.tell() < end:
        tag = _varint(file)
        yield tag >> 3, tag & 7
    if file.tell() != end:
        raise ValueError("a field is longer than what holds it")


def _skip(file: BinaryIO, kind: int, end: int) -> None:
    if kind == _VARINT:
        _varint(file)
        return
    widths = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}
    length = _length(file) if kind == _LENGTH else widths.get(kind, -1)
    if length < 0 or file.tell() + length > end:
        raise ValueError("no such field")
    file.seek(length, os.SEEK_CUR)


def _length(file: BinaryIO) -> int:
    return _varint(file)


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = _read(file, 1)[0]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise ValueError("no varint")


def _read(file: BinaryIO, length: int) -> bytes:
    if length > 1 << 28:
        raise ValueError("too long")
    data = file.read(length)
    if len(data) != length:
        raise EOFError
    return data
