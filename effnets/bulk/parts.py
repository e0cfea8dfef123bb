"""A folder of Parquet files, one for each chunk of images, that appears when all of them are whole."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effnets.bulk.sources import is_stored, open_store
from effnets.bulk.table import write_parquet
from effnets.data.parquet import first_line
from effnets.errors import ArgumentError, DataError
from effnets.utils.arguments import check_settings
from effnets.utils.atomic_file import write_whole
from effnets.utils.threads import map_in_order

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_READERS = 16
_SHARE = "on several machines name a folder that all share, or the URL of a store, and continue with --resume"
_RUN = "_run.json"  # Arrow, Spark and Ray pass over such names.


@dataclass(frozen=True, slots=True)
class PartFolder:
    """The parts of `target` in ``TARGET.part``, until `finish` gives the folder its name.

    Every chunk has its own file, which appears in one piece: a chunk that is done twice, because its worker was lost or
    was thought to be, leaves one file with the same rows.

    Args:
        target: a local folder, or the URL of one in a file system of fsspec.
    """

    target: str

    @property
    def folder(self) -> str:
        """The folder while it is being made."""
        return f"{self.target.rstrip('/')}.part"

    def is_complete(self) -> bool:
        """Return whether the target is there, and no run is on its way to it."""
        system, folder = open_store(self.folder)
        return bool(system.exists(open_store(self.target)[1]) and not system.exists(folder))

    def begin(self, settings: Mapping[str, Any], *, resume: bool) -> set[int]:
        """Make the folder, or take it over; return the numbers of the chunks that it has.

        Args:
            settings: what the rows depend on, as plain values; a run with others may not continue.
            resume: continue the run of an existing folder.

        Raises:
            ArgumentError: if the target exists, cannot be written, a run was interrupted and `resume` is false, or
                its run has other settings.
        """
        system, folder = open_store(self.folder)
        if not resume and system.exists(folder):
            raise ArgumentError(
                f"{self.folder} is of an interrupted run; continue it with --resume, or delete the folder to start over"
            )
        if system.exists(open_store(self.target)[1]):
            raise ArgumentError(f"{self.target} exists; name another folder, or move it away")
        settings = json.loads(json.dumps(settings))
        try:
            if not system.exists(f"{folder}/{_RUN}"):
                system.makedirs(folder, exist_ok=True)
                self._put(_RUN, json.dumps(settings).encode())
            before = json.loads(system.cat_file(f"{folder}/{_RUN}"))
        except OSError as error:
            raise ArgumentError(
                f"{self.target}: cannot be written there ({error.strerror or error}); name another"
            ) from error
        check_settings(self.folder, before, settings)
        return set(self._found(system, folder))

    def write(self, number: int, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
        """Write the rows of a chunk, in place of what was there.

        Raises:
            DataError: if they cannot be written.
        """
        content = BytesIO()
        write_parquet(content, rows, columns)
        try:
            self._put(_name(number), content.getvalue())
        except OSError as error:
            raise DataError(
                f"{self.folder}/{_name(number)}: cannot be written ({error.strerror or error}); {_SHARE}"
            ) from error

    def remove_if_empty(self) -> None:
        """Remove the folder if it has no part, so that a run that never began need not be continued."""
        system, folder = open_store(self.folder)
        if not self._found(system, folder):
            self._remove(_RUN)
            with suppress(OSError):  # where folders are no objects
                system.rmdir(folder)

    def count_rows(
        self, numbers: Iterable[int], progress: Callable[[float], object] | None = None
    ) -> dict[int, tuple[int, int]]:
        """Return how many rows, and errors among them, the files of chunks have."""
        wanted = list(numbers)
        counts: dict[int, tuple[int, int]] = {}
        found = map_in_order(self._count, wanted, workers=_READERS, ahead=4 * _READERS)
        for number, count in zip(wanted, found, strict=True):
            counts[number] = count
            if progress:
                progress(len(counts) / len(wanted))
        return counts

    def finish(self, rows: Mapping[int, int]) -> None:
        """Check that every chunk has its file with all of its rows, once, and give the folder its name.

        Args:
            rows: of each chunk.

        Raises:
            DataError: if a chunk is missing, has other rows, or there is one too many.
        """
        system, folder = open_store(self.folder)
        found = self._found(system, folder)
        wrong = sorted(rows.keys() ^ found)
        if wrong:
            raise DataError(
                f"{self.folder}: has {len(found):,} parts of {len(rows):,}, and differs at number {wrong[0]}; {_SHARE}"
            )
        counts = self.count_rows(rows)
        differing = [number for number, count in rows.items() if counts[number][0] != count]
        if differing:
            one = differing[0]
            raise DataError(
                f"{self.folder}/{_name(one)}: has {counts[one][0]:,} rows for {rows[one]:,} images; "
                "delete it, and continue with --resume"
            )
        if is_stored(self.target):
            self._move(system, [_RUN, *map(_name, rows)])
        else:
            Path(folder).rename(self.target)

    def _move(self, system: AbstractFileSystem, names: list[str]) -> None:
        """Give files in a store, which has no folders to rename, their names: copy all of them, then remove them."""
        folder, target = open_store(self.folder)[1], open_store(self.target)[1].rstrip("/")
        system.makedirs(target, exist_ok=True)
        # One by one, as fsspec takes brackets and asterisks in names for patterns elsewhere.
        for action in (lambda name: system.cp_file(f"{folder}/{name}", f"{target}/{name}"), self._remove):
            for _ in map_in_order(action, names, workers=_READERS, ahead=4 * _READERS):
                pass
        with suppress(OSError):  # where folders are no objects
            system.rmdir(folder)

    def _remove(self, name: str) -> None:
        system, folder = open_store(self.folder)
        system.rm_file(f"{folder}/{name}")

    def _count(self, number: int) -> tuple[int, int]:
        import pyarrow.parquet as pq

        system, folder = open_store(self.folder)
        with system.open(f"{folder}/{_name(number)}") as file:
            try:
                metadata = pq.ParquetFile(file).metadata
            except ValueError as error:  # Arrow's
                raise DataError(
                    f"{self.folder}/{_name(number)}: is damaged ({first_line(error)}); delete it, and continue with "
                    "--resume"
                ) from error
            place = metadata.schema.names.index("error")
            groups = [metadata.row_group(group).column(place) for group in range(metadata.num_row_groups)]
            return metadata.num_rows, sum(group.num_values - group.statistics.null_count for group in groups)

    def _put(self, name: str, content: bytes) -> None:
        system, folder = open_store(self.folder)
        if is_stored(self.folder):
            system.pipe_file(f"{folder}/{name}", content)
        else:
            write_whole(Path(folder, name), content)

    def _found(self, system: AbstractFileSystem, folder: str) -> set[int]:
        names = [posixpath.basename(str(name)) for name in system.ls(folder, detail=False)]
        return {int(name[5:-8]) for name in names if name.startswith("part-") and name.endswith(".parquet")}


def _name(number: int) -> str:
    return f"part-{number:07}.parquet"
