"""Images in files: folders by class, ``[train/|val/|test/]class/…/image``, and CSV tables. Free of torch."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.data.splits import ALL, SPLIT_NAMES, RawSplits, class_names_of, index_labels, named
from effnets.errors import DataError, ImageError
from effnets.inference.image import image_suffixes

_Path: TypeAlias = tuple[str, ...]
_Classes: TypeAlias = dict[str, list[int]]  # positions of images by class; empty ones too

_SPLIT = "split"
_SHOWN = 5

# What operating systems leave behind in folders.
_JUNK = frozenset({"thumbs.db", "desktop.ini", "__macosx"})

_WANTED = "put images into folders named like the classes, or such folders into train/, val/ and test/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Images by split and class.

    Attributes:
        class_names: of the training split, or of all splits if there is no training split; in the order of `ordered`.
        splits: (position among the files, label) by "train", "val" and "test", or by "all" if there are no splits.
        empty: classes of the training split, or of "all", that have a folder but no image.
        notes: what was skipped.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Sequence[tuple[int, int]]]
    empty: tuple[str, ...]
    notes: tuple[str, ...]


def is_junk(name: str) -> bool:
    """Return whether a file or folder is hidden, or one that operating systems leave behind."""
    return name.startswith(".") or name.lower() in _JUNK


def arrange(files: Sequence[str], folders: Iterable[str], origin: str) -> Layout:
    """Sort files into splits and classes.

    A single folder around everything is skipped. Folders named train, val (valid, validation) and test are splits,
    unless they hold images themselves, beside other folders: then they are classes (one of trains, say).

    Args:
        files: paths with slashes, relative to the data set; hidden ones are skipped silently.
        folders: likewise, so that classes without images are known.
        origin: name of the data set, for errors.

    Raises:
        DataError: if the paths are not such a tree, or a split has classes that training lacks.
    """
    images, others = _images(files)
    if not images:
        found = f"; it holds only {named('other file', others, 3)}" if others else ""
        raise DataError(f"{origin}: has no images{found}; {_WANTED}")
    known = [path for path in map(_parts, folders) if not any(map(is_junk, path))]
    depth = _depth_of_root(images.values(), known)
    images = {position: path[depth:] for position, path in images.items()}
    known = [path[depth:] for path in known if len(path) > depth]
    splits, stray = _splits(images, known, origin)
    learned = splits.get("train") or splits.get(ALL, {})
    notes = []
    if others:
        notes.append(f"passed over {named('file', others, 3)} without an image extension")
    if stray:
        notes.append(f"passed over {named('image', [files[i] for i in stray], 3)} outside of the class folders")
    if len(stray) == len(images):
        raise DataError(f"{origin}: {named('image', [files[i] for i in stray], 3)} outside of class folders; {_WANTED}")
    class_names = class_names_of(splits, origin)
    return Layout(
        class_names=class_names,
        splits={split: _labeled(classes, class_names) for split, classes in splits.items()},
        empty=tuple(sorted(name for name, positions in learned.items() if not positions)),
        notes=tuple(notes),
    )


def _parts(path: str) -> _Path:
    return PurePosixPath(path).parts


def _images(files: Sequence[str]) -> tuple[dict[int, _Path], list[str]]:
    """Return the paths of images by position, and the names of other files."""
    suffixes = image_suffixes()
    images: dict[int, _Path] = {}
    others: list[str] = []
    for position, file in enumerate(files):
        path = _parts(file)
        if any(map(is_junk, path)):
            continue
        if PurePosixPath(path[-1]).suffix.lower() in suffixes:
            images[position] = path
        else:
            others.append(file)
    return images, others


def _depth_of_root(images: Collection[_Path], folders: Collection[_Path]) -> int:
    """Return how many folders around everything are neither a class nor a split."""
    shortest = min(map(len, images))
    depth = 0
    # With two more levels below it around every image, a folder is not a class yet.
    while shortest >= depth + 3:
        heads = {path[depth] for path in (*images, *folders) if len(path) > depth}
        if len(heads) > 1 or heads <= SPLIT_NAMES.keys():
            break
        depth += 1
    return depth


def _splits(
    images: Mapping[int, _Path], folders: Collection[_Path], origin: str
) -> tuple[dict[str, _Classes], list[int]]:
    """Return classes by split, and the images outside of classes."""
    heads = {path[0] for path in images.values() if len(path) > 1} | {path[0] for path in folders}
    holding = {path[0] for path in images.values() if len(path) == 2}
    words = {head for head in heads if head in SPLIT_NAMES}
    if words and heads == words and words <= holding:
        raise DataError(f"{origin}: {_listed(words)} with images, but without folders named like classes; {_WANTED}")
    if not words or words <= holding:
        classes, stray = _classes(images, folders)
        return {ALL: classes}, stray
    if heads != words:
        raise DataError(
            f"{origin}: holds {_listed(words)} and also {named('folder', sorted(heads - words))}; "
            "put every class into train/, val/ or test/, or move the others away"
        )
    splits: dict[str, _Classes] = {}
    astray = [position for position, path in images.items() if len(path) == 1]
    for word in sorted(words):
        split = SPLIT_NAMES[word]
        if split in splits:
            raise DataError(f"{origin}: holds {_listed(words)}, several of which mean {split}; merge them")
        below = {position: path[1:] for position, path in images.items() if len(path) > 1 and path[0] == word}
        splits[split], stray = _classes(below, [path[1:] for path in folders if len(path) > 1 and path[0] == word])
        if not splits[split]:
            raise DataError(f"{origin}: {word}/ has no folders named like classes; {_WANTED}")
        astray += stray
    return splits, sorted(astray)


def _classes(images: Mapping[int, _Path], folders: Iterable[_Path]) -> tuple[_Classes, list[int]]:
    """Return images by their first folder, and those without one."""
    classes: _Classes = {path[0]: [] for path in folders}
    stray: list[int] = []
    for position, path in images.items():
        (classes.setdefault(path[0], []) if len(path) > 1 else stray).append(position)
    return classes, stray


def _labeled(classes: _Classes, class_names: Sequence[str]) -> list[tuple[int, int]]:
    labels = {name: label for label, name in enumerate(class_names)}
    return sorted((position, labels[name]) for name, positions in classes.items() for position in positions)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"{word}/" for word in sorted(words))


class FileDataset(ImageDataset):
    """Images in `files` [len], whose paths are relative to `root`; `labels` [len] are indices into the class names."""

    def __init__(
        self, root: Path, files: Sequence[str], labels: NDArray[np.int64], class_names: tuple[str, ...]
    ) -> None:
        self.root, self.files, self.labels, self.class_names = root, tuple(files), labels, class_names

    def name(self, index: int) -> str:
        return str(self.root / self.files[index])

    def read(self, index: int) -> bytes:
        try:
            return Path(self.name(index)).read_bytes()
        except OSError as error:
            raise ImageError(f"{self.name(index)} cannot be read ({error.strerror})") from error

    def _bytes_of(self, index: int) -> int:
        try:
            return Path(self.name(index)).stat().st_size
        except OSError:  # a link to nowhere; reading it raises the error
            return 0


def open_folder(folder: Path) -> RawSplits:
    """Open images in a folder by class, with or without train/, val/ and test/ around the classes.

    Links are followed, hidden files skipped.

    Raises:
        DataError: if a folder cannot be read, or has no such layout.
    """
    files, folders, loops = _walk(folder)
    layout = arrange(files, folders, str(folder))
    sources: dict[str, ImageDataset] = {}
    for split, images in layout.splits.items():
        labels = np.array([label for _, label in images], np.int64)
        chosen = [files[position] for position, _ in images]
        sources[split] = FileDataset(folder, chosen, labels, layout.class_names)
    notes = layout.notes
    if loops:
        notes += (f"passed over {named('link', loops, 3)} to a folder around it",)
    return RawSplits(datasets=sources, notes=notes, empty=layout.empty)


def _walk(root: Path) -> tuple[list[str], list[str], list[str]]:
    """List files, folders, and links to folders around them below `root`, in the order of their names.

    Paths have slashes and are relative to `root`.
    """
    files: list[str] = []
    folders: list[str] = []
    loops: list[str] = []
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        folder, around = pending.pop()
        path = root / folder
        try:
            status = path.stat()
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
            identity = (status.st_dev, status.st_ino)
            if identity in around:
                loops.append(folder)
                continue
            if folder:
                folders.append(folder)
            below = []
            for entry in entries:
                inner = f"{folder}/{entry.name}" if folder else entry.name
                if is_junk(entry.name):
                    continue
                if entry.is_dir():
                    below.append((inner, around | {identity}))
                else:
                    files.append(inner)
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); change its permissions or move it away"
            ) from error
        pending += reversed(below)
    return files, folders, loops


def open_table(path: Path, *, image_column: str | None = None, label_column: str | None = None) -> RawSplits:
    """Open images listed in a CSV file; their paths are relative to its folder.

    Args:
        path: of the file.
        image_column, label_column: of the images' paths and classes, if they are not called path and label. If one is
            given, the file may have further columns, which are skipped.

    Raises:
        DataError: if the file is not such a table, rows are incomplete, or files are missing; gives the lines.
    """
    image, label = (image_column or "path").strip().lower(), (label_column or "label").strip().lower()
    columns, records = _read_table(path, image, label, others_allowed=bool(image_column or label_column))
    needed = [column for column in columns if column in (image, label, _SPLIT)]
    places = [columns.index(column) for column in needed]
    incomplete = [
        f"line {line}"
        for line, cells in records
        if len(cells) != len(columns) or not all(cells[place] for place in places)
    ]
    _refuse(path, incomplete, "rows are empty or incomplete", f"every row needs {', '.join(needed)}")
    if not records:
        raise DataError(f"{path}: lists no images; write one row for each, with {', '.join(needed)}")
    files, labels = dict[str, list[str]](), dict[str, list[str]]()
    unknown, missing = [], []
    for line, cells in records:
        row = dict(zip(columns, cells, strict=True))
        split = row.get(_SPLIT, ALL)
        split = SPLIT_NAMES.get(split.lower(), split)
        if split not in {*SPLIT_NAMES.values(), ALL}:
            unknown.append(f"line {line}: {split!r}")
        if not (path.parent / row[image]).is_file():
            missing.append(f"line {line}: {row[image]}")
        files.setdefault(split, []).append(row[image])
        labels.setdefault(split, []).append(row[label])
    _refuse(path, unknown, "splits are unknown", "write train, val or test")
    _refuse(path, missing, "files do not exist", "paths are relative to the folder of the CSV file")
    class_names, indices = index_labels(labels, str(path))
    datasets: dict[str, ImageDataset] = {
        split: FileDataset(path.parent, files[split], indices[split], class_names) for split in files
    }
    others = [column for column in columns if column not in needed]
    notes = (f"passed over {named('column', others)} of {path.name}",) if others else ()
    return RawSplits(datasets=datasets, notes=notes)


def _read_table(
    path: Path, image: str, label: str, *, others_allowed: bool
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the columns, and the line and cells of every row."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = [name.strip().lower() for name in next(reader, [])]
            records = [(reader.line_num, [cell.strip() for cell in record]) for record in reader]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: is not CSV ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    unknown = set(columns) - {image, label, _SPLIT}
    if not {image, label} <= set(columns) or len(set(columns)) < len(columns) or (unknown and not others_allowed):
        separators = [sign for sign in (";", "\t") if any(sign in name for name in columns)]
        hint = f"; separate columns by commas, not by {separators[0]!r}" if separators else ""
        if not hint and not others_allowed:
            hint = "; name other columns with image_column and label_column"
        raise DataError(
            f"{path}, line 1: has the columns {', '.join(columns) or 'nothing'}; "
            f"needed are {image}, {label}[, {_SPLIT}]{hint}"
        )
    return columns, records


def _refuse(path: Path, faults: list[str], what: str, hint: str) -> None:
    if faults:
        shown = ", ".join(faults[:_SHOWN]) + (", …" if len(faults) > _SHOWN else "")
        raise DataError(f"{path}: {len(faults)} {what} ({shown}); {hint}")
