"""A parquet file's pictures one after the other, so that each can be read alone. Free of torch.

Parquet is read a row group at a time, tens of megabytes for one picture. So its column of pictures is unpacked once:
the pictures, then [rows + 1] 64-bit integers, little-endian, where in the file each begins and the last one ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from effnets.errors import DataError

_ROWS_AT_ONCE = 64
_BUFFER = 1 << 20
_PLACES = np.dtype("<i8")


@dataclass(frozen=True, slots=True)
class PictureColumn:
    """Takes the pictures out of parquet files.

    Attributes:
        column: of encoded pictures, or of structs of `bytes` and `path`.
    """

    column: str

    def __call__(self, parquet: Path, unpacked: Path) -> None:
        """Write the pictures of a file into another.

        Raises:
            DataError: the file is damaged, or has no such column.
            OSError: the other cannot be written.
        """
        places = [0]
        with unpacked.open("wb") as file:
            for picture in self._pictures(parquet):
                file.write(picture)
                places.append(file.tell())
            file.write(np.array(places, _PLACES).tobytes())

    def _pictures(self, parquet: Path) -> Iterator[bytes]:
        """Of every row; empty where there is none."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            # Buffered, since a row group may be as large as the file; without threads, which a worker would not have.
            with pq.ParquetFile(parquet, buffer_size=_BUFFER) as file:
                for rows in file.iter_batches(_ROWS_AT_ONCE, columns=[self.column], use_threads=False):
                    values = rows.column(0)
                    values = values.field("bytes") if pa.types.is_struct(values.type) else values
                    for value in values:
                        yield value.as_py() or b""
        except (pa.ArrowException, OSError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{parquet}: cannot be read as parquet ({reason}); copy or download it again") from error


def read_picture(file: BinaryIO, row: int, rows: int) -> bytes:
    """The picture of a row of an unpacked file with so many rows; empty where there is none."""
    file.seek((row - rows - 1) * _PLACES.itemsize, os.SEEK_END)
    begin, end = np.frombuffer(file.read(2 * _PLACES.itemsize), _PLACES).tolist()
    file.seek(begin)
    return file.read(end - begin)


def read_sizes(file: BinaryIO, rows: int) -> NDArray[np.int64]:
    """[rows]; bytes of each picture of an unpacked file."""
    file.seek(-(rows + 1) * _PLACES.itemsize, os.SEEK_END)
    return np.diff(np.frombuffer(file.read(), _PLACES)).astype(np.int64)
