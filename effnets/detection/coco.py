"""Read COCO's annotations: a JSON file for each split (cocodataset.org/#format-data). Free of torch."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from effnets.data.splits import ALL, named, split_of_file
from effnets.detection.records import ImageRecord, RawBoxes, Row, check_count, make_record
from effnets.detection.tree import FileTree, ImageIndex, split_of_path
from effnets.errors import DataError

_MAX_BYTES = 1 << 30  # COCO's own has 450 MB
# Of COCO's other tasks, in the same folder.
_OTHER_TASKS = ("captions", "person_keypoints", "stuff", "panoptic", "image_info")


def read_coco(tree: FileTree, only: str | None = None) -> RawBoxes:
    """Read a data set of COCO's form.

    The splits are those in the names of the JSON files, or of their folders. Images are found by the ends of their
    paths, so that ``file_name`` may be relative to any folder.

    Args:
        tree: of the files.
        only: path of the JSON file to read, if not all.

    Raises:
        DataError: if a JSON file is damaged, names an image that does not exist, or the files differ in their
            categories. The message has the line, or the position in the file's lists.
    """
    sources: dict[str, tuple[str, Mapping[str, Any]]] = {}
    notes: list[str] = []
    for name in [only] if only else _candidates(tree):
        content = _parse(tree, name)
        missing = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
        if missing and only is None and len(missing) == 3:
            notes.append(f"passed over {name}: it is no COCO file")
            continue
        if missing:
            raise DataError(f"{tree.path(name)}: has no list {missing[0]!r}, which COCO's files of boxes have")
        split = split_of_file(PurePosixPath(name).name) or split_of_path(name) or ALL
        if split in sources:
            raise DataError(f"{tree.origin}: {sources[split][0]} and {name} both mean {split}; move one of them away")
        sources[split] = name, content
    if not sources:
        raise DataError(f"{tree.origin}: has no COCO file; it is JSON with images, annotations and categories")
    if ALL in sources and len(sources) > 1:
        raise DataError(
            f"{tree.origin}: {sources[ALL][0]} says by its name to which split it belongs, unlike "
            f"{named('other file', [name for split, (name, _) in sources.items() if split != ALL])}; call it train.json"
        )
    categories = {split: _categories(content, tree.path(name)) for split, (name, content) in sources.items()}
    class_names = _class_names(categories, {split: name for split, (name, _) in sources.items()}, tree)
    images = tree.images()
    records = {
        split: _records(tree, images, name, content, categories[split], class_names, notes)
        for split, (name, content) in sources.items()
    }
    return RawBoxes(records=records, class_names=class_names, notes=tuple(notes))


def _candidates(tree: FileTree) -> list[str]:
    files = tree.ending(".json")
    if instances := [name for name in files if PurePosixPath(name).name.startswith("instances")]:
        return instances
    return [name for name in files if not PurePosixPath(name).name.startswith(_OTHER_TASKS)]


def _parse(tree: FileTree, name: str) -> Mapping[str, Any]:
    data = tree.read(name, _MAX_BYTES)
    try:
        content = json.loads(data)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{tree.path(name)}, line {error.lineno}, column {error.colno}: is not JSON ({error.msg}); "
            "copy it again, or fix it"
        ) from None
    except (ValueError, RecursionError) as error:  # no text, or numbers or lists beyond all measure
        reason = "lists in lists without end" if isinstance(error, RecursionError) else error
        raise DataError(f"{tree.path(name)}: is not JSON that can be read ({reason}); export it again") from None
    return content if isinstance(content, dict) else {}


def _categories(content: Mapping[str, Any], source: str) -> dict[int | str, str]:
    """Return the names of the categories by their ids, in the order of these."""
    found: dict[int | str, str] = {}
    parents = set()
    for position, category in enumerate(content["categories"]):
        where = f"{source}: categories[{position}]"
        ident, name = _ident(category, "id", where), category.get("name")
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{where}: has no name")
        name = unicodedata.normalize("NFC", name.strip())
        if ident in found or name in found.values():
            raise DataError(f"{where}: has the id or the name of one before, {ident!r}, {name!r}; give it another")
        found[ident] = name
        parents.add(category.get("supercategory"))
    used = {one.get("category_id") for one in content["annotations"] if isinstance(one, dict)}
    # Some programs list the group of all categories as one more.
    kept = {ident: name for ident, name in found.items() if ident in used or name not in parents or len(found) == 1}
    return dict(sorted(kept.items(), key=lambda one: (isinstance(one[0], str), one[0])))


def _class_names(
    categories: Mapping[str, Mapping[int | str, str]], files: Mapping[str, str], tree: FileTree
) -> tuple[str, ...]:
    first = "train" if "train" in categories else next(iter(categories))
    names = tuple(categories[first].values())
    for split, others in categories.items():
        unknown = [name for name in others.values() if name not in names]
        if unknown:
            raise DataError(
                f"{tree.path(files[split])}: has {named('category', unknown)} that {files[first]} lacks; "
                "give both the same categories"
            )
    return names


def _records(
    tree: FileTree,
    images: ImageIndex,
    name: str,
    content: Mapping[str, Any],
    categories: Mapping[int | str, str],
    class_names: Sequence[str],
    notes: list[str],
) -> list[ImageRecord]:
    source = tree.path(name)
    if not content["images"]:
        raise DataError(f"{source}: its list of images is empty")
    labels = {ident: class_names.index(label) for ident, label in categories.items()}
    listed: dict[int | str, tuple[str, tuple[int, int] | None]] = {}
    files: dict[str, int] = {}
    for position, image in enumerate(content["images"]):
        where = f"{source}: images[{position}]"
        ident, written = _ident(image, "id", where), image.get("file_name")
        if ident in listed:
            raise DataError(f"{where}: has the id {ident!r}, as one before; give every image another")
        if not isinstance(written, str) or not written:
            raise DataError(f"{where}: has no file_name")
        file = images.find(written, name, where)
        if file in files:
            raise DataError(f"{where}: is {file}, as images[{files[file]}] is; join them")
        files[file] = position
        listed[ident] = file, _size(image)
    rows: dict[int | str, list[Row]] = {ident: [] for ident in listed}
    idents: set[object] = set()
    repeated = 0
    for position, annotation in enumerate(content["annotations"]):
        own = annotation.get("id") if isinstance(annotation, dict) else None
        where = f"{source}: annotations[{position}] (id {own!r})"
        image_id, row = _row(annotation, position, labels, where)
        if image_id not in rows:
            raise DataError(f"{where}: belongs to the image {image_id!r}, which the file does not list")
        rows[image_id].append(row)
        check_count(len(rows[image_id]), f"{source}: {listed[image_id][0]}")
        if isinstance(own, int | str):
            repeated += own in idents
            idents.add(own)
    if repeated:
        notes.append(f"{name}: {repeated} annotations have the id of another; all are read")

    def place(position: int) -> str:
        return f"{source}: annotations[{position}] (id {content['annotations'][position].get('id')!r})"

    return [make_record(file, source, rows[ident], size=size, where=place) for ident, (file, size) in listed.items()]


def _row(annotation: object, position: int, labels: Mapping[int | str, int], where: str) -> tuple[int | str, Row]:
    """Return the image's id and the object."""
    if not isinstance(annotation, dict):
        raise DataError(f"{where}: is not an object with image_id, category_id and bbox")
    image_id, category = _ident(annotation, "image_id", where), _ident(annotation, "category_id", where)
    if category not in labels:
        zero = "; ids of categories begin where the file's list says, and 0 is no background here" * (category == 0)
        raise DataError(f"{where}: has the category {category!r}, which the file does not list{zero}")
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise DataError(f"{where}: its bbox is {str(box)[:60]}, not four numbers: left, top, width, height")
    left, top, width, height = map(_as_float, box)
    corners = (left, top, left + width, top + height)
    return image_id, Row(corners, labels[category], position, crowd=bool(annotation.get("iscrowd")))


def _ident(entry: object, key: str, where: str) -> int | str:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise DataError(f"{where}: has no {key}, a number or a text")
    return value


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
        return width, height
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")
