"""Images listed in tables: CSV and TSV files with a line for each image. Free of torch."""

from __future__ import annotations

import codecs
import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from effnets.data.dataset import ImageDataset
from effnets.data.folder import FileDataset
from effnets.data.splits import ALL, RawSplits, index_labels, labeled, named, split_of, split_of_file
from effnets.errors import DataError
from effnets.inference.image import image_suffixes
from effnets.utils.junk import in_junk, is_junk

# What people call the columns, beside path, label and split. An id is a path only if nothing else is.
_PATHS = frozenset({
    *("image", "img", "file", "filename", "file_name", "filepath", "file_path", "filepaths", "image_path", "img_path"),
    *("image_name", "img_name", "image_file"),
})  # fmt: skip
_IDS = frozenset({"id", "image_id", "img_id", "id_code"})
_LABELS = frozenset({"labels", "class", "category", "target", "class_name", "class_label"})
_SPLITS = ("split", "subset", "set", "partition", "data set", "dataset")
_SEPARATORS = ",;\t|"
_SHOWN = 5


def open_table(
    path: Path, *, image_column: str | None = None, label_column: str | None = None, strict: bool = False
) -> RawSplits:
    """Open images listed in a CSV file; their paths are relative to its folder.

    The first line names the columns, and its separator (comma, semicolon, tab or bar) is that of the others. Paths
    may have backslashes, lack the extension of the image or the one folder that holds it, or begin with a folder of
    another machine.

    Args:
        path: of the file, in UTF-8, or in UTF-16 with a byte order mark.
        image_column, label_column: of the images' paths and classes, if they do not have usual names, or several do.
        strict: raise an error for an image without a label among others.

    Raises:
        DataError: if the file is not such a table, rows are incomplete, or files are missing; gives the lines.
    """
    names, records = read_table(path)
    columns = [name.lower() for name in names]
    image, label, notes = _columns(path, columns, image_column, label_column)
    if not records:
        raise DataError(f"{path}: lists no images; write one row for each, with {columns[image]}, {columns[label]}")
    split = split_column(columns, records)
    found = find_images(path, columns, records, image, split, [label])
    class_names, indices, unlabeled = index_labels(
        {word: [cells[label] for cells in rows] for word, rows in found.cells.items()},
        str(path),
        strict=strict,
        place=lambda word, index: f"line {found.lines[word][index]}",
    )
    datasets: dict[str, ImageDataset] = {
        word: labeled(FileDataset(path.parent, found.files[word], indices[word], class_names)) for word in indices
    }
    others = [name or "without a name" for i, name in enumerate(columns) if i not in (image, label, split)]
    if others:
        notes.append(f"passed over {named('column', others)} of {path.name}")
    return RawSplits(datasets=datasets, notes=(*notes, *found.notes, *unlabeled))


@dataclass(slots=True)
class TableImages:
    """The images that a table lists.

    Attributes:
        files: by split, or by "all": paths relative to the table's folder. cells, lines: of their rows, likewise.
        notes: how paths were understood, and what was passed over.
    """

    files: dict[str, list[str]] = field(default_factory=dict)
    cells: dict[str, list[list[str]]] = field(default_factory=dict)
    lines: dict[str, list[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_images(
    path: Path,
    columns: Sequence[str],
    records: Sequence[tuple[int, list[str]]],
    image: int,
    split: int,
    labels: Sequence[int],
) -> TableImages:
    """Find the files of a table's rows.

    Args:
        path: of the table.
        columns, records: as of `read_table`.
        image, split, labels: places of columns; split -1 without one.

    Raises:
        DataError: if rows are incomplete, or files are missing; gives the lines.
    """
    needed = sorted({image, split} - {-1})
    _refuse(
        path,
        [f"line {line}" for line, cells in records if len(cells) != len(columns) or not all(cells[i] for i in needed)],
        "rows are empty or incomplete",
        f"every row needs {', '.join(columns[i] for i in sorted({image, *labels, split} - {-1}))}",
    )
    finder, images = _Finder(path), TableImages()
    unknown, missing, ambiguous, junk = list[str](), list[str](), list[str](), list[str]()
    for line, cells in records:
        word = ALL if split < 0 else split_of(cells[split])
        if word is None:
            unknown.append(f"line {line}: {cells[split]!r}")
            continue
        found = finder.find(cells[image], None if word == ALL else word)
        if in_junk(found[0]) if found and not Path(found[0]).is_absolute() else is_junk(_plain(cells[image])[-1]):
            junk.append(f"line {line}")
        elif len(found) != 1:
            shown = f"line {line}: {cells[image]}"
            (ambiguous if found else missing).append(shown + (f" is {' or '.join(found)}" if found else ""))
        else:
            images.files.setdefault(word, []).append(found[0])
            images.cells.setdefault(word, []).append(cells)
            images.lines.setdefault(word, []).append(line)
    _refuse(path, unknown, "splits are unknown", "write train, val or test")
    _refuse(path, missing, "files do not exist", "paths are relative to the folder of the CSV file")
    _refuse(path, ambiguous, "paths are of several files", "write the folder and the extension of each image")
    _refuse(path, finder.shared, "paths are of a file that another line has", "correct them, or copy the right images")
    if not images.files:
        raise DataError(f"{path}: lists only files that systems leave behind ({junk[0]} first); list the images")
    if junk:
        images.notes.append(f"passed over {named('row', junk)} of files that systems leave behind")
    images.notes += finder.notes()
    return images


def read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the columns' names as written, and the line and cells of every row that is not blank.

    Raises:
        DataError: if the file is not text, or no CSV.
    """
    try:
        content = path.read_bytes()
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
        header = next((line for line in text.splitlines() if line.strip()), "")
        separator = max(_SEPARATORS, key=lambda sign: len(next(csv.reader([header], delimiter=sign), [])))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        records = [(reader.line_num, [cell.strip() for cell in record]) for record in reader]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: is not CSV ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    filled = [(line, cells) for line, cells in records if any(cells)]
    columns = list(filled[0][1]) if filled else []
    while columns and not columns[-1]:  # a separator at the end of the line
        columns.pop()
    width = len(columns)
    return columns, [(line, cells if any(cells[width:]) else cells[:width]) for line, cells in filled[1:]]


def image_places(columns: Sequence[str], wanted: str | None) -> list[int]:
    """Return the places of columns that may be of the images' paths; columns in lower case."""
    return _named(columns, wanted, "path", _PATHS) or _named(columns, wanted, "path", _IDS)


def _columns(path: Path, columns: list[str], image: str | None, label: str | None) -> tuple[int, int, list[str]]:
    """Return the places of the columns of paths and labels, and a note if they were recognized by other names.

    Raises:
        DataError: if there are none, or several.
    """
    images = image_places(columns, image)
    labels = _named(columns, label, "label", _LABELS)
    rest = [i for i, name in enumerate(columns) if i not in images and name not in _SPLITS]
    if len(images) == 1 and not labels and label is None and len(rest) == 1 and columns[rest[0]]:
        labels = rest
    if len(images) == len(labels) == 1 and images != labels:
        usual = (image is not None or columns[images[0]] == "path") and (
            label is not None or columns[labels[0]] == "label"
        )
        note = f"of {path.name}, {columns[images[0]]} is taken for the images, {columns[labels[0]]} for their classes"
        return images[0], labels[0], [] if usual else [note]
    hint = "" if image and label else "; name other columns with image_column and label_column"
    if any(Path(name).suffix in image_suffixes() for name in columns):
        hint = "; write the names of the columns into the first line"
    needed = f"{(image or 'path').strip().lower()}, {(label or 'label').strip().lower()}[, split]"
    raise DataError(f"{path}, line 1: has the columns {', '.join(columns) or 'nothing'}; needed are {needed}{hint}")


def _named(columns: Sequence[str], wanted: str | None, usual: str, others: Iterable[str]) -> list[int]:
    names = {wanted.strip().lower()} if wanted else {usual} if usual in columns else others
    return [i for i, name in enumerate(columns) if name in names]


def split_column(columns: list[str], records: Sequence[tuple[int, list[str]]]) -> int:
    """Return the place of the column of splits: "split", or one of a similar name with nothing but splits; else -1."""
    for name in _SPLITS:
        if name in columns:
            place = columns.index(name)
            if name == "split" or all(len(cells) > place and split_of(cells[place]) for _, cells in records):
                return place
    return -1


def _plain(cell: str) -> list[str]:
    return [part for part in cell.replace("\\", "/").split("/") if part not in ("", ".")] or [""]


class _Finder:
    """Finds images by what a table calls them, in its folder and in the folders there.

    Attributes:
        shared: lines whose file another line has by another path: one of the two is not what was meant.
    """

    def __init__(self, table: Path) -> None:
        self.table, self.folder = table, table.parent
        self.shared: list[str] = []
        self._rules: Counter[tuple[str, str]] = Counter()  # beginning to drop, folder to put before the rest
        self._listings: dict[str, tuple[dict[str, str], dict[str, list[str]]]] = {}
        self._cells: dict[str, str] = {}

    def find(self, cell: str, split: str | None) -> list[str]:
        """Return the paths that a cell can mean, relative to the table's folder.

        Args:
            cell: of the table.
            split: of the image, which decides between two folders; by default that in the table's name.
        """
        parts = _plain(cell)
        found = [cell] if (self.folder / cell).is_file() else self._search(parts, cell, split)
        if len(found) == 1 and (other := self._cells.setdefault(found[0], "/".join(parts))) != "/".join(parts):
            self.shared.append(f"{cell} and {other} are {found[0]}")
        return found

    def _search(self, parts: list[str], cell: str, split: str | None) -> list[str]:
        path = ("/" if cell.startswith(("/", "\\")) else "") + "/".join(parts)
        for beginning, base in self._rules:
            if path.startswith(beginning) and (found := self._named(base + path[len(beginning) :])):
                self._rules[beginning, base] += 1
                return found
        for start in range(len(parts)):  # the longest ending that exists
            end = "/".join(parts[start:])
            founds = {base: found for base in self._bases if (found := self._named(base + end))}
            wanted = split or split_of_file(self.table.stem)
            chosen = [base for base in founds if base == "" or len(founds) == 1] or [
                base for base in founds if wanted and split_of(base.split("/")[0]) == wanted
            ]
            if len(chosen) == 1:
                self._rules[path[: len(path) - len(end)], chosen[0]] += 1
                return founds[chosen[0]]
            if founds:
                return [name for found in founds.values() for name in found]
        return []

    def notes(self) -> list[str]:
        """Return how paths were understood that are not those of files."""
        return [
            f"{count} path{'s' * (count != 1)} of {self.table.name}"
            + (f" without the beginning {beginning}" if beginning else "")
            + f" {'are' if count != 1 else 'is'} found in {self.folder / base}"
            for (beginning, base), count in self._rules.items()
            if beginning or base
        ]

    @cached_property
    def _bases(self) -> list[str]:
        """The folders to search: the table's own, and those in it, with one of the same name in these."""
        names = sorted(self._listing("")[0].values())
        return ["", *(f"{name}/" for name in names), *(f"{name}/{name}/" for name in names)]

    def _named(self, path: str) -> list[str]:
        """Return the files of that path, by any case and Unicode form, with an image's extension if it lacks one."""
        if (self.folder / path).is_file():
            return [path]
        *around, name = path.split("/")
        folder = ""
        for part in around:
            inner = self._listing(folder)[0].get(_key(part))
            if inner is None:
                return []
            folder += f"{inner}/"
        return [folder + found for found in self._listing(folder)[1].get(_key(name), ())]

    def _listing(self, folder: str) -> tuple[dict[str, str], dict[str, list[str]]]:
        """Return the folders by their names, and the images by theirs, with extension and without."""
        if folder not in self._listings:
            suffixes, folders, files = image_suffixes(), dict[str, str](), dict[str, list[str]]()
            for entry in sorted((self.folder / folder).iterdir()):
                if is_junk(entry.name):
                    continue
                if entry.is_dir():
                    folders[_key(entry.name)] = entry.name
                elif entry.suffix.lower() in suffixes:
                    for name in (entry.name, entry.stem):
                        files.setdefault(_key(name), []).append(entry.name)
            self._listings[folder] = folders, files
        return self._listings[folder]


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _refuse(path: Path, faults: list[str], what: str, hint: str) -> None:
    if faults:
        shown = ", ".join(faults[:_SHOWN]) + (", …" if len(faults) > _SHOWN else "")
        raise DataError(f"{path}: {len(faults)} {what} ({shown}); {hint}")
