"""Which split and class a picture belongs to by its path: ``[train/|val/|test/]class/…/picture``. Touches no file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeAlias

from effnets.errors import DataError
from effnets.inference.image import image_suffixes
from effnets.train.data.classes import class_names_of
from effnets.train.data.splits import SPLIT_NAMES, UNDIVIDED, named

__all__ = ["Layout", "arrange", "is_litter"]

_Path: TypeAlias = tuple[str, ...]
_Classes: TypeAlias = dict[str, list[int]]  # positions of pictures by class; empty ones too

# What operating systems leave behind in folders.
_LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})

_WANTED = (
    "wanted are folders named like the classes, with pictures in them, or train/, val/ and test/ with such folders"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Pictures by split and class.

    Attributes:
        class_names: of the training split, or of all splits where there is none; in the order of `ordered`.
        splits: (position among the files, label) by "train", "val" and "test", or by "all" where nothing is divided.
        empty: classes that training, or what is not divided, has a folder for and no picture of.
        notes: what was passed over.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Sequence[tuple[int, int]]]
    empty: tuple[str, ...]
    notes: tuple[str, ...]


def is_litter(name: str) -> bool:
    """Whether a file or folder is hidden, or one that operating systems make for themselves."""
    return name.startswith(".") or name.lower() in _LITTER


def arrange(files: Sequence[str], folders: Iterable[str], origin: str) -> Layout:
    """Sort files into splits and classes.

    A folder around everything is looked through. Folders named train, val (valid, validation) and test divide the
    data, unless they hold pictures themselves, beside other folders: then they are classes (one of trains, say).

    Args:
        files: paths with slashes, relative to the data set; hidden ones are passed over silently.
        folders: likewise; they make classes without pictures known.
        origin: what the data set is called, for errors.

    Raises:
        DataError: the paths are no such tree, or a split has classes that training lacks.
    """
    pictures, others = _pictures(files)
    if not pictures:
        found = f"; there is only {named('other file', others, 3)}" if others else ""
        raise DataError(f"{origin}: no picture in it{found}; {_WANTED}")
    known = [path for path in map(_parts, folders) if not any(map(is_litter, path))]
    depth = _depth_of_root(pictures.values(), known)
    pictures = {position: path[depth:] for position, path in pictures.items()}
    known = [path[depth:] for path in known if len(path) > depth]
    splits, stray = _splits(pictures, known, origin)
    learned = splits.get("train") or splits.get(UNDIVIDED, {})
    notes = []
    if others:
        notes.append(f"passed over {named('file', others, 3)} with no picture's ending")
    if stray:
        notes.append(f"passed over {named('picture', [files[i] for i in stray], 3)} outside of every class folder")
    if len(stray) == len(pictures):
        raise DataError(f"{origin}: {named('picture', [files[i] for i in stray], 3)} in no class folder; {_WANTED}")
    class_names = class_names_of(splits, origin)
    return Layout(
        class_names=class_names,
        splits={split: _labelled(classes, class_names) for split, classes in splits.items()},
        empty=tuple(sorted(name for name, positions in learned.items() if not positions)),
        notes=tuple(notes),
    )


def _parts(path: str) -> _Path:
    return PurePosixPath(path).parts


def _pictures(files: Sequence[str]) -> tuple[dict[int, _Path], list[str]]:
    """Pictures' paths by position, and the names of other files."""
    suffixes = image_suffixes()
    pictures: dict[int, _Path] = {}
    others: list[str] = []
    for position, file in enumerate(files):
        path = _parts(file)
        if any(map(is_litter, path)):
            continue
        if PurePosixPath(path[-1]).suffix.lower() in suffixes:
            pictures[position] = path
        else:
            others.append(file)
    return pictures, others


def _depth_of_root(pictures: Collection[_Path], folders: Collection[_Path]) -> int:
    """How many folders lie around everything that are neither a class nor a split."""
    shortest = min(map(len, pictures))
    depth = 0
    # At least two more levels below every picture's: the folder here is no class yet.
    while shortest >= depth + 3:
        heads = {path[depth] for path in (*pictures, *folders) if len(path) > depth}
        if len(heads) > 1 or heads <= SPLIT_NAMES.keys():
            break
        depth += 1
    return depth


def _splits(
    pictures: Mapping[int, _Path], folders: Collection[_Path], origin: str
) -> tuple[dict[str, _Classes], list[int]]:
    """Classes by split, and the pictures that lie in no class."""
    heads = {path[0] for path in pictures.values() if len(path) > 1} | {path[0] for path in folders}
    holding = {path[0] for path in pictures.values() if len(path) == 2}
    words = {head for head in heads if head in SPLIT_NAMES}
    if words and heads == words and words <= holding:
        raise DataError(f"{origin}: {_listed(words)} with pictures, but no folders named like classes; {_WANTED}")
    if not words or words <= holding:
        classes, stray = _classes(pictures, folders)
        return {UNDIVIDED: classes}, stray
    if heads != words:
        raise DataError(
            f"{origin}: holds {_listed(words)} and also {named('folder', sorted(heads - words))}; "
            "put every class inside of train/, val/ or test/, or move the others away"
        )
    splits: dict[str, _Classes] = {}
    astray = [position for position, path in pictures.items() if len(path) == 1]
    for word in sorted(words):
        split = SPLIT_NAMES[word]
        if split in splits:
            raise DataError(f"{origin}: holds {_listed(words)}, of which several mean {split}; merge these")
        below = {position: path[1:] for position, path in pictures.items() if len(path) > 1 and path[0] == word}
        splits[split], stray = _classes(below, [path[1:] for path in folders if len(path) > 1 and path[0] == word])
        if not splits[split]:
            raise DataError(f"{origin}: {word}/ holds no folders named like classes; {_WANTED}")
        astray += stray
    return splits, sorted(astray)


def _classes(pictures: Mapping[int, _Path], folders: Iterable[_Path]) -> tuple[_Classes, list[int]]:
    """Pictures by their first folder, and those that lie in none."""
    classes: _Classes = {path[0]: [] for path in folders}
    stray: list[int] = []
    for position, path in pictures.items():
        (classes.setdefault(path[0], []) if len(path) > 1 else stray).append(position)
    return classes, stray


def _labelled(classes: _Classes, class_names: Sequence[str]) -> list[tuple[int, int]]:
    labels = {name: label for label, name in enumerate(class_names)}
    return sorted((position, labels[name]) for name, positions in classes.items() for position in positions)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"{word}/" for word in sorted(words))
