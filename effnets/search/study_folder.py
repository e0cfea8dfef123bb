"""The folder of a study: checked before the work, written whole or not at all; and the tables in it."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from effnets.deploy.export.base import check_writable
from effnets.errors import ArgumentError, ExportError
from effnets.utils.atomic_file import write_whole
from effnets.utils.atomic_folder import new_folder


def check_study_folder(path: str | os.PathLike[str]) -> Path:
    """Return `path` if a study can be written there: nothing is there, or an empty folder.

    Raises:
        ArgumentError: if it is a file, or a folder that holds something.
        ExportError: if no folder can be made there.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ArgumentError(f"{path}: is a file; name a new folder for the study")
    try:
        holds = path.is_dir() and any(path.iterdir())
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({error.strerror or error}); name another folder") from None
    if holds:
        raise ArgumentError(f"{path}: holds something already; name a new folder for the study, or empty this one")
    check_writable(path, is_folder=True)
    return path


def write_study_folder(path: Path, files: Mapping[str, str]) -> None:
    """Write a new folder with all `files`, by name; raises ExportError if that fails, and leaves nothing then."""
    try:
        with new_folder(path) as folder:
            for name, text in files.items():
                (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error})") from None


def write_study_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write `files`, by name, into the folder of a study that grew there; raises ExportError if that fails."""
    for name, text in files.items():
        try:
            write_whole(folder / name, text.encode())
        except OSError as error:
            raise ExportError(f"{folder / name}: cannot be written ({error.strerror or error})") from None


def markdown_table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the lines of a table in Markdown; the keys of the first row are its head."""
    head = list(rows[0])
    body = ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *body]


def csv_text(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as CSV; the keys of the first row are its head."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
