"""The metadata of an ONNX file, read from its outermost protobuf fields alone: no onnx, no engine, no weights."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from effnets.errors import MissingFileError, WeightsError

__all__ = ["read_properties"]

# Field numbers of ModelProto and StringStringEntryProto (onnx.proto), and protobuf's wire types.
_IR_VERSION, _GRAPH, _METADATA, _KEY, _VALUE = 1, 7, 14, 1, 2
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def read_properties(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata properties of an ONNX file.

    Raises:
        MissingFileError: no such file. WeightsError: it is no ONNX file, or damaged.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise WeightsError(f"{path}: is not a regular file; name an exported model")
        with path.open("rb") as file:
            return _read_model(file, path.stat().st_size)
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
