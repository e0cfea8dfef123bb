"""Read YOLO's annotations: a text file for each image, a line for each box (docs.ultralytics.com). Free of torch."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from effnets.data.splits import ALL, named, parse_names
from effnets.detection.records import ImageRecord, RawBoxes, Row, check_count, make_record
from effnets.detection.tree import FileTree, split_of_path
from effnets.errors import DataError
from effnets.spec.yaml import Node, parse_yaml

_YAML, _TEXT = ("data.yaml", "data.yml", "dataset.yaml"), ("classes.txt", "obj.names")
_IMAGES, _LABELS = "images", "labels"
_VALUES = 5


def names_file(tree: FileTree) -> str | None:
    """Return the file with the names of the classes, which makes a data set one of YOLO's form; None without it."""
    found = tree.named(*_YAML) or tree.named(*_TEXT)
    return found[0] if found else None


def read_yolo(tree: FileTree) -> RawBoxes:
    """Read a data set of YOLO's form.

    The boxes of ``images/train/1.jpg`` are in ``labels/train/1.txt``, those of ``train/images/1.jpg`` in
    ``train/labels/1.txt``, others beside their image. An image without such a file has no box; a file in ``labels``
    without its image is an error. Splits are the folders called after them. The names of the classes are in
    ``data.yaml``, or in ``classes.txt``, one a line.

    Raises:
        DataError: if a file is damaged, a line is not ``class x y width height``, a class has no name, or a file of
            boxes no image.
    """
    source = names_file(tree)
    assert source is not None, "open_boxes asks for it before"
    class_names, stated = _read_names(tree, source)
    files = set(tree.files)
    records: dict[str, list[ImageRecord]] = {}
    without: list[str] = []
    found: dict[str, str] = {}
    images = sorted(tree.images().names)
    for image in [name for name in images if _IMAGES in PurePosixPath(name).parts[:-1]] or images:
        label_file = _label_file(image)
        rows: list[Row] = []
        if label_file in files and label_file != source:
            if other := found.get(label_file):
                raise DataError(
                    f"{tree.path(label_file)}: is of {other} and of {image}; give each its own name and boxes"
                )
            found[label_file] = image
            rows = parse_labels(tree.read(label_file), tree.path(label_file), len(class_names))
        else:
            without.append(image)
        split = split_of_path(image) or ALL
        records.setdefault(split, []).append(make_record(image, tree.path(label_file), rows))
    count = sum(map(len, records.values()))
    if not count or len(without) == count:
        example = f": {_label_file(without[0])} of {without[0]}, for example" if without else ""
        raise DataError(f"{tree.origin}: has no image with a file of boxes{example}; put both where YOLO expects them")
    _require_images(tree, found)
    notes = [f"{named('image', without, 3)} without a file of boxes: taken as showing nothing"] if without else []
    notes += _without_split(records, stated, tree.path(source))
    return RawBoxes(records=records, class_names=class_names, relative=True, notes=tuple(notes))


def parse_labels(data: bytes, source: str, classes: int) -> list[Row]:
    """Read the boxes of an image, x1, y1, x2, y2 as parts of its width and height.

    Args:
        data: the content of its file.
        source: the file's path, for messages.
        classes: how many there are; the first is 0.

    Raises:
        DataError: if a line is not five numbers, or has an unknown class; the message has the line.
    """
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: is not UTF-8 text ({error.reason}); save it as UTF-8") from None
    rows = []
    for number, line in enumerate(lines, 1):
        values = line.split()
        if not values:
            continue
        where = f"{source}, line {number}"
        if len(values) != _VALUES:
            hint = "; of a polygon write the box around it" if len(values) > _VALUES + 1 else ""
            raise DataError(f"{where}: has {len(values)} values; a box is class, x, y, width, height{hint}")
        try:
            label, x, y, width, height = map(float, values)
        except ValueError:
            raise DataError(f"{where}: {line.strip()[:60]!r} are not five numbers") from None
        if not label.is_integer() or not 0 <= label < classes:
            raise DataError(f"{where}: has the class {values[0][:20]}; there are 0 to {classes - 1}")
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        rows.append(Row(box, int(label), number))
        check_count(len(rows), source)
    return rows


def _label_file(image: str) -> str:
    """Return the path of an image's file of boxes."""
    *folders, name = PurePosixPath(image).parts
    places = [place for place, folder in enumerate(folders) if folder == _IMAGES]
    if places:
        folders[places[-1]] = _LABELS
    return str(PurePosixPath(*folders, name).with_suffix(".txt"))


def _require_images(tree: FileTree, found: Mapping[str, str]) -> None:
    """Raise a DataError if files in folders called labels are of no image."""
    lonely = [
        name
        for name in tree.ending(".txt")
        if _LABELS in PurePosixPath(name).parts[:-1]
        and name not in found
        and PurePosixPath(name).name.lower() not in _TEXT
    ]
    if lonely:
        raise DataError(
            f"{tree.origin}: {named('label file', lonely, 3)} without an image of that name in the folder {_IMAGES} "
            "beside; add the images, or remove the files"
        )


def _read_names(tree: FileTree, source: str) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Return the names of the classes, and the folders that a YAML file states for the splits."""
    path = tree.path(source)
    if PurePosixPath(source).name.lower() in _TEXT:
        return parse_names(tree.read(source), path), {}
    content = parse_yaml(tree.read(source), Path(path)).value
    names = content.get("names") if isinstance(content, dict) else None
    if not isinstance(content, dict) or names is None:
        raise DataError(f"{path}: has no names; list the classes there, names: [cat, dog]")
    found = _listed(names, path)
    count = content.get("nc")
    if count is not None and count.value != len(found):
        raise DataError(f"{path}, line {count.line}: nc is {count.value}, but there are {len(found)} names")
    stated = {key: node.value for key, node in content.items() if key in ("train", "val", "valid", "test")}
    return found, {key: value for key, value in stated.items() if isinstance(value, str)}


def _listed(names: Node, path: str) -> tuple[str, ...]:
    """Return names that are a list, or a mapping from the numbers 0, 1, …."""
    values = names.value
    if isinstance(values, dict):
        numbers = [str(number) for number in range(len(values))]
        if sorted(values) != sorted(numbers):
            raise DataError(f"{path}, line {names.line}: names must be numbered 0, 1, …, each once")
        values = [values[number] for number in numbers]
    found = [unicodedata.normalize("NFC", str(one.value).strip()) for one in values] if isinstance(values, list) else []
    if not found or "" in found or len(set(found)) < len(found):
        raise DataError(f"{path}, line {names.line}: names must be a list of different names")
    return tuple(found)


def _without_split(records: dict[str, list[ImageRecord]], stated: Mapping[str, str], source: str) -> list[str]:
    """Take images outside of the splits' folders away, and return a note on them.

    Raises:
        DataError: if the YAML file states folders of splits that are not called after them.
    """
    if ALL not in records:
        return []
    if len(records) > 1:
        outside = [record.file for record in records.pop(ALL)]
        return [f"passed over {named('image', outside, 3)} outside of the splits"]
    folders = {key: folder for key, folder in stated.items() if folder}
    if len(set(folders.values())) > 1:
        shown = ", ".join(f"{key}: {folder}" for key, folder in folders.items())
        raise DataError(f"{source}: has {shown}, and splits are found by their folders' names: call them train, val, …")
    return []
