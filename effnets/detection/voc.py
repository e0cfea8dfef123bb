"""Read Pascal VOC's annotations: an XML file for each image (Everingham et al. 2010, section 4). Free of torch."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from xml.parsers import expat

from effnets.data.splits import ALL, class_names_of, named
from effnets.detection.records import ImageRecord, RawBoxes, Row, check_count, make_record
from effnets.detection.tree import FileTree, ImageIndex, check_path, split_of_path
from effnets.errors import DataError

_LISTS = ("train", "val", "test", "trainval")
_ANNOTATIONS, _IMAGES = "Annotations", ("JPEGImages", "images")
_DEPTH, _SIDE = 64, 1_000_000
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_TEXTS = frozenset({
    *("annotation/filename", "annotation/size/width", "annotation/size/height"),
    *("annotation/object/name", "annotation/object/difficult"),
    *(f"annotation/object/bndbox/{corner}" for corner in _CORNERS),
})  # fmt: skip


@dataclass(slots=True)
class VocAnnotation:
    """What an XML file says.

    Attributes:
        filename: of the image; empty if it is not stated.
        size: (width, height) of the image; None if it is not stated.
        rows: the objects; their labels are names. Boxes are continuous coordinates: the pixels 1 to 640 are 0 to 640.
    """

    filename: str = ""
    size: tuple[int, int] | None = None
    rows: list[Row] = field(default_factory=list)


def parse_annotation(data: bytes, source: str) -> VocAnnotation:
    """Read an XML file.

    Args:
        data: its content.
        source: its path, for messages.

    Raises:
        DataError: if it is no XML or no such annotation; or has a DOCTYPE, whose entities could grow without limit, or
            too many boxes. The message has the line.
    """
    reader = _Reader(source)
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as error:
        problem = expat.ErrorString(error.code)
        raise DataError(f"{source}, line {error.lineno}: is not XML ({problem}); fix it, or export it again") from None
    except (LookupError, ValueError) as error:  # an encoding that Python does not know
        if isinstance(error, DataError):
            raise
        raise DataError(f"{source}: cannot be read ({error}); save it as UTF-8") from None
    return reader.found


class _Reader:
    """Collects the texts at the places in `_TEXTS`, as expat comes by; parts of objects are no objects."""

    def __init__(self, source: str) -> None:
        self.source, self.found = source, VocAnnotation()
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse_doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self._path: list[str] = []
        self._texts: dict[str, tuple[str, int]] = {}
        self._begin = 0

    def _error(self, problem: str, line: int | None = None) -> DataError:
        return DataError(f"{self.source}, line {line or self.parser.CurrentLineNumber}: {problem}")

    def _refuse_doctype(self, *_declaration: object) -> None:
        raise self._error("has a DOCTYPE, which is not read, since its entities could grow without limit; remove it")

    def _start(self, name: str, _attributes: object) -> None:
        self._path.append(name)
        if self._path[0] != "annotation":
            raise self._error(f"is not a Pascal VOC annotation: it begins with <{name}>, not <annotation>")
        if len(self._path) > _DEPTH:
            raise self._error(f"is nested deeper than {_DEPTH} elements")
        if self._path == ["annotation", "object"]:
            self._texts, self._begin = {}, self.parser.CurrentLineNumber

    def _text(self, text: str) -> None:
        place = "/".join(self._path)
        if place in _TEXTS:
            before, line = self._texts.get(place, ("", self.parser.CurrentLineNumber))
            self._texts[place] = (before + text, line)

    def _end(self, _name: str) -> None:
        match self._path:
            case ["annotation", "object"]:
                self.found.rows.append(self._row())
                check_count(len(self.found.rows), self.source)
            case ["annotation", "size"]:
                width, height = (self._number(f"annotation/size/{side}", 0.0) for side in ("width", "height"))
                # Some programs write 0 for what they do not know.
                is_known = 1 <= width < _SIDE and 1 <= height < _SIDE
                self.found.size = (int(width), int(height)) if is_known else None
            case ["annotation", "filename"]:
                self.found.filename = self._texts.get("annotation/filename", ("", 0))[0].strip()
        self._path.pop()

    def _row(self) -> Row:
        name, _ = self._texts.get("annotation/object/name", ("", 0))
        if not name.strip():
            raise self._error("the object has no <name>", self._begin)
        x1, y1, x2, y2 = (self._number(f"annotation/object/bndbox/{corner}") for corner in _CORNERS)
        difficult = self._number("annotation/object/difficult", 0.0)
        # Pixels are counted from 1, and a box includes its last ones.
        box = (x1 - 1, y1 - 1, x2, y2)
        return Row(box, unicodedata.normalize("NFC", name.strip()), self._begin, difficult=bool(difficult))

    def _number(self, place: str, absent: float | None = None) -> float:
        text, line = self._texts.get(place, ("", self._begin))
        name = place.rpartition("/")[2]
        if not text.strip():
            if absent is None:
                raise self._error(f"the object has no <{name}> in its <bndbox>", self._begin)
            return absent
        try:
            return float(text)
        except ValueError:
            raise self._error(f"<{name}> is {text.strip()[:40]!r}, not a number", line) from None


def read_voc(tree: FileTree) -> RawBoxes:
    """Read a data set of Pascal VOC's form.

    Either it has the folders Annotations, JPEGImages (or images) and ImageSets/Main, whose train.txt, val.txt and
    test.txt list the images of the splits, trainval.txt where there is no train.txt; or every image has its XML file
    beside it, in folders of the splits or in one.

    Raises:
        DataError: if an XML file or a list is damaged, names an image that does not exist, or a split has a class that
            training lacks.
    """
    images = tree.images()
    sources, notes = _sources(tree)
    found: dict[str, list[tuple[str, str, VocAnnotation]]] = {}
    for split, names in sources.items():
        for name in names:
            annotation = parse_annotation(tree.read(name), tree.path(name))
            found.setdefault(split, []).append((_image(images, name, annotation, tree), tree.path(name), annotation))
    class_names = class_names_of(
        {split: {row.label for *_, one in records for row in one.rows} for split, records in found.items()}, tree.origin
    )
    labels = {name: label for label, name in enumerate(class_names)}
    records: dict[str, list[ImageRecord]] = {
        split: [make_record(file, source, one.rows, labels, size=one.size) for file, source, one in listed]
        for split, listed in found.items()
    }
    return RawBoxes(records=records, class_names=class_names, notes=notes)


def _sources(tree: FileTree) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Return the XML files of each split, and notes."""
    xml = tree.ending(".xml")
    lists = [name for name in tree.named(*(f"{split}.txt" for split in _LISTS)) if _is_list(name)]
    roots = sorted({_root(name) for name in lists})
    if len(roots) > 1:
        raise DataError(f"{tree.origin}: holds {named('data set', [root or '.' for root in roots])}; give one of them")
    if not lists:
        splits = {name: split_of_path(name) for name in xml}
        # Images outside of the splits' folders are of no split.
        chosen = {split: [name for name in xml if splits[name] == split] for split in dict.fromkeys(splits.values())}
        outside = chosen.pop(None, [])
        if not chosen:
            return {ALL: outside}, ()
        notes = (f"passed over {named('annotation', outside, 3)} outside of the splits",) if outside else ()
        return {str(split): names for split, names in chosen.items()}, notes
    by_split = {PurePosixPath(name).stem.lower(): name for name in lists}
    if "trainval" in by_split:
        whole = by_split.pop("trainval")
        by_split.setdefault("train", whole)
    known, sources = set(xml), {}
    for split, name in by_split.items():
        sources[split] = [_listed(tree, name, line, ident, roots[0], known) for line, ident in _idents(tree, name)]
    unlisted = sorted(known - {name for names in sources.values() for name in names})
    if not unlisted:
        return sources, ()
    return sources, (f"passed over {named('annotation', unlisted, 3)} that no list in ImageSets/Main names",)


def _is_list(name: str) -> bool:
    return PurePosixPath(name).parts[-3:-1] == ("ImageSets", "Main")


def _root(name: str) -> str:
    return "/".join(PurePosixPath(name).parts[:-3])


def _idents(tree: FileTree, name: str) -> list[tuple[int, str]]:
    """Return the lines of a list, and what they name."""
    where = tree.path(name)
    try:
        text = tree.read(name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not UTF-8 text ({error.reason}); save it as UTF-8") from None
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (ident := line.strip()):
            continue
        if ident in lines:
            raise DataError(f"{where}, line {number}: {ident} was listed in line {lines[ident]}; remove one of them")
        lines[ident] = number
    return [(number, ident) for ident, number in lines.items()]


def _listed(tree: FileTree, name: str, line: int, ident: str, root: str, known: set[str]) -> str:
    where = f"{tree.path(name)}, line {line}"
    source = str(PurePosixPath(root, _ANNOTATIONS, check_path(ident, where) + ".xml"))
    if source not in known:
        raise DataError(f"{where}: there is no {tree.path(source)}; add it, or remove the line")
    return source


def _image(images: ImageIndex, name: str, annotation: VocAnnotation, tree: FileTree) -> str:
    """Return the image of an XML file: the one of its name, which counts more than what the file says."""
    path = PurePosixPath(name)
    folders: Sequence[PurePosixPath] = [path.parent]
    if path.parent.name == _ANNOTATIONS:
        folders = [path.parent.parent / folder for folder in _IMAGES]
    found = [image for folder in folders for image in images.of_stem(str(folder / path.stem))]
    stated = annotation.filename and PurePosixPath(check_path(annotation.filename, tree.path(name))).name
    if len(found) > 1:
        found = [image for image in found if PurePosixPath(image).name == stated]
    if not found and stated:
        found = [image for folder in folders if (image := str(folder / stated)) in images]
    if len(found) != 1:
        wanted = " or ".join(str(folder / f"{path.stem}.jpg") for folder in folders)
        raise DataError(f"{tree.path(name)}: its image is missing, {wanted}; add it, or remove the annotation")
    return found[0]
