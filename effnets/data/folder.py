"""Images in files by folders of their classes, ``[train/|val/|test/]class/…/image``. Free of torch."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.data.splits import ALL, RawSplits, class_names_of, is_plain, is_unlabeled, named, split_of
from effnets.errors import DataError, ImageError
from effnets.inference.image import image_suffixes
from effnets.utils.junk import in_junk, is_junk

_ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst")

_WANTED = "put images into folders named like the classes, or such folders into train/, val/ and test/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Images by split and class.

    Attributes:
        class_names: of the training split, or of all splits if there is no training split; in the order of `ordered`.
        splits: (position among the files, label) by "train", "val" and "test", or by "all" if there are no splits.
        empty: classes of the training split, or of "all", that have a folder but no image.
        notes: what was skipped, and which folders were taken for splits.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Sequence[tuple[int, int]]]
    empty: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Folder:
    """Positions of the images that are directly in a folder, and the folders in it."""

    images: list[int] = field(default_factory=list)
    folders: dict[str, _Folder] = field(default_factory=dict)

    def all_images(self) -> Iterator[int]:
        """Yield the images in it and its folders."""
        yield from self.images
        for folder in self.folders.values():
            yield from folder.all_images()

    def filled(self) -> dict[str, _Folder]:
        """Return the folders that hold images at any depth."""
        return {name: folder for name, folder in self.folders.items() if any(True for _ in folder.all_images())}

    def only(self) -> tuple[str, _Folder] | None:
        """Return the only folder in it, if there are no images and no other folders with images."""
        filled = self.filled()
        return next(iter(filled.items())) if len(filled) == 1 and not self.images else None

    def classified(self) -> dict[str, str]:
        """Return the folders that are named like splits and hold folders with images, with their splits."""
        found = {name: split_of(name) for name, folder in self.filled().items() if folder.filled()}
        return {name: split for name, split in found.items() if split}


def arrange(files: Sequence[str], folders: Iterable[str], origin: str) -> Layout:
    """Sort files into splits and classes.

    Folders around everything, and around the classes of every split, are skipped. Folders whose names `split_of` knows
    are splits, unless they hold images themselves, beside other folders: then they are classes (one of trains, say).
    Class names are in Unicode's composed form.

    Args:
        files: paths with slashes, relative to the data set; junk is skipped silently.
        folders: likewise, so that classes without images are known.
        origin: name of the data set, for errors.

    Raises:
        DataError: if the paths are not such a tree or could be read as two, or a split has classes that training lacks.
    """
    root, others = _tree(files, folders)
    if not any(True for _ in root.all_images()):
        found = f"; it holds only {named('other file', others, 3)}" if others else ""
        archives = [name for name in others if name.lower().endswith(_ARCHIVES)]
        wanted = f"unpack {archives[0]}" if archives else _WANTED
        raise DataError(f"{origin}: has no images{found}; {wanted}")
    notes = []
    if others:
        notes.append(f"passed over {named('file', others, 3)} without an image extension{_boxes_hint(others)}")
    root, stray = _without_wrappers(root)
    splits, more = _splits(root, origin)
    outside = [folder.images for folder in splits.values()] + ([] if ALL in splits else [root.images])
    stray += [position for images in outside for position in images]
    if stray:
        shown = named("image", [files[position] for position in sorted(stray)], 3)
        if not any(folder.filled() for folder in splits.values()):
            raise DataError(f"{origin}: {shown} outside of class folders; {_WANTED}")
        notes.append(f"passed over {shown} outside of the class folders")
    class_names = _class_names(splits, origin)
    labels = {name: label for label, name in enumerate(class_names)}
    learned = splits.get("train") or splits.get(ALL) or _Folder()
    return Layout(
        class_names=class_names,
        splits={
            split: sorted(
                (position, labels[name]) for name, one in folder.folders.items() for position in one.all_images()
            )
            for split, folder in splits.items()
        },
        empty=tuple(sorted(learned.folders.keys() - learned.filled().keys())),
        notes=(*notes, *more),
    )


def _tree(files: Sequence[str], folders: Iterable[str]) -> tuple[_Folder, list[str]]:
    """Return the folders with the positions of their images, and the names of other files."""
    suffixes = image_suffixes()
    root, others = _Folder(), list[str]()

    def place(parts: Sequence[str]) -> _Folder:
        folder = root
        for part in parts:
            # Macs decompose the letters of names, and other systems leave them as they are.
            folder = folder.folders.setdefault(unicodedata.normalize("NFC", part), _Folder())
        return folder

    for position, file in enumerate(files):
        around, slash, name = file.rpartition("/")
        # Archives of Windows, unpacked elsewhere, have files with names like "cat\\1.jpg" instead of folders.
        path = PurePosixPath(around + slash + name.replace("\\", "/"))
        if in_junk(str(path)):
            continue
        if path.suffix.lower() in suffixes:
            place(path.parts[:-1]).images.append(position)
        else:
            others.append(file)
    for name in folders:
        if not in_junk(name):
            place(PurePosixPath(name).parts)
    return root, others


def _boxes_hint(files: Iterable[str]) -> str:
    """Return what to do about the first file that looks like annotations of boxes; nothing without one."""
    for file in files:
        name = file.lower()
        if name.endswith((".xml", "data.yaml")) or ("annotations" in name and name.endswith(".json")):
            return f"; if {file} describes boxes, train a detector on them with --task detect"
    return ""


def _without_wrappers(folder: _Folder) -> tuple[_Folder, list[int]]:
    """Return the folder within those around everything that are neither a class nor a split, and images beside it."""
    stray: list[int] = []
    while len(filled := folder.filled()) == 1:
        ((name, inner),) = filled.items()
        if len(set(inner.classified().values())) < 2 and (
            # With two more levels below it around every image, a folder is not a class yet.
            folder.images or inner.images or len(folder.folders) > 1 or split_of(name)
        ):
            break
        stray += folder.images
        folder = inner
    return folder, stray


def _splits(root: _Folder, origin: str) -> tuple[dict[str, _Folder], list[str]]:
    """Return the folder with the classes of each split, and notes."""
    heads = root.filled()
    words = {name: split for name in heads if (split := split_of(name))}
    notes: list[str] = []
    if not words:
        heads, words, notes = _inner_splits(root, origin)
    if not words:
        return {ALL: root}, []
    holding = {name for name in words if heads[name].images}
    called = {*words, *filter(is_unlabeled, heads)}
    heads = {name: _unwrapped(name, folder, heads) if name in called else folder for name, folder in heads.items()}
    flat = {name: len(folder.images) for name, folder in heads.items() if not folder.filled()}
    others = [name for name in heads if name not in words and not (name in flat and name in called)]
    if others and words.keys() <= holding:
        return {ALL: root}, []
    if others:
        raise DataError(
            f"{origin}: holds {_listed(words)} and also {named('folder', sorted(others))}. If the first are splits, "
            "put every class into train/, val/ or test/, or move the others away; if all are classes, rename "
            f"{_listed(words)}"
        )
    classified = {name: split for name, split in words.items() if name not in flat}
    if not classified or any(words.get(name) == "train" for name in flat):
        raise DataError(f"{origin}: {_listed(flat)} with images, but without folders named like classes; {_WANTED}")
    for split in classified.values():
        if len(same := [name for name in classified if classified[name] == split]) > 1:
            raise DataError(f"{origin}: holds {_listed(same)}, several of which mean {split}; merge them")
    if not all(map(is_plain, classified)):
        notes.append(", ".join(f"{name}/ is taken as {split}" for name, split in sorted(classified.items())))
    notes += [
        f"{name}/ has {count} image{'s' * (count != 1)} without class folders: not measured; predict classifies them"
        for name, count in sorted(flat.items())
    ]
    if empty := sorted(root.folders.keys() - root.filled().keys()):
        notes.append(f"passed over {named('folder', empty)} without images")
    return _without_shared_wrappers({split: heads[name] for name, split in classified.items()}), notes


def _inner_splits(root: _Folder, origin: str) -> tuple[dict[str, _Folder], dict[str, str], list[str]]:
    """Return folders of splits, their splits, and notes, where they are one level further down than usual.

    Each split may have a folder around it ("archive/train/cat"), and each class may have splits ("cat/train").
    """
    heads = root.filled()
    inner = {name: folder.only() for name, folder in heads.items()}
    lone = {f"{name}/{only[0]}": only[1] for name, only in inner.items() if only and split_of(only[0])}
    words = {name: str(split_of(name.partition("/")[2])) for name in lone}
    if len(lone) == len(heads) and len(set(words.values())) > 1 and all(one.filled() for one in lone.values()):
        return lone, words, []
    within = {name: folder.filled() for name, folder in heads.items()}
    words = {word: split for below in within.values() for word in below if (split := split_of(word))}
    if len(set(words.values())) > 1 and all(
        not heads[name].images and below.keys() <= words.keys() and all(one.images for one in below.values())
        for name, below in within.items()
    ):
        found = {word: _Folder() for word in words}
        for name, below in within.items():
            for word, one in below.items():
                found[word].folders[name] = one
        example = next(f"{name}/{word}/ is taken as {word}/{name}/" for name in heads for word in within[name])
        return found, words, [f"the splits are within the classes: {example}"]
    for name, folder in heads.items():
        if len(set(folder.classified().values())) > 1:
            raise DataError(
                f"{origin}: {name}/ holds {_listed(folder.classified())}, and beside it is "
                f"{named('folder', sorted(heads.keys() - {name}))}. If the first are splits, give {origin}/{name} as "
                f"the data; if {_listed(heads)} are classes, rename the folders in {name}/"
            )
    return heads, {}, []


def _unwrapped(name: str, folder: _Folder, heads: Mapping[str, _Folder]) -> _Folder:
    """Return what is within a folder that repeats the name of its split, or says nothing, as in train/train/cat."""
    learned = [one for other, one in heads.items() if other != name and split_of(other) == "train"]
    known = {inner for one in learned for inner in one.filled()}
    while (
        (only := folder.only())
        and only[0] not in known
        and (only[0] == name or is_unlabeled(only[0]) or (split_of(name) and split_of(only[0]) == split_of(name)))
    ):
        folder = only[1]
    return folder


def _without_shared_wrappers(splits: Mapping[str, _Folder]) -> dict[str, _Folder]:
    """Return splits without a needless folder around their classes, as in train/images/cat."""
    only = {split: one[1] for split, folder in splits.items() if (one := folder.only()) and not one[1].images}
    below = {name for folder in only.values() for name in folder.filled()}
    if len(only) == len(splits) and "train" in only and len(below) > 1:
        return only
    known = {name for split, folder in splits.items() if split not in only for name in folder.filled()}
    return {
        split: only[split] if split in only and only[split].filled().keys() & known else folder
        for split, folder in splits.items()
    }


def _class_names(splits: Mapping[str, _Folder], origin: str) -> tuple[str, ...]:
    try:
        return class_names_of({split: folder.folders for split, folder in splits.items()}, origin)
    except DataError as error:
        for split, folder in splits.items():
            if split != "train" and not folder.folders.keys() & splits["train"].folders.keys():
                raise DataError(
                    f"{error}. Train and {split} share no class: if they are classes themselves, rename their folders"
                ) from None
        raise


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"{word}/" for word in sorted(words))


class FileDataset(ImageDataset):
    """Images in `files` [len], whose paths are relative to `root`; `labels` [len] are indices into the class names."""

    kind = "image files"

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

    Links are followed, junk is skipped.

    Raises:
        DataError: if a folder cannot be read, or has no such layout.
    """
    files, folders, loops = walk_folder(folder)
    try:
        layout = arrange(files, folders, str(folder))
    except DataError as error:
        tables = [name for name in files if name.lower().endswith((".csv", ".tsv"))]
        hint = f". If {folder / tables[0]} has the labels, give that file instead of the folder" if tables else ""
        raise DataError(f"{error}{hint}") from None
    sources: dict[str, ImageDataset] = {}
    for split, images in layout.splits.items():
        labels = np.array([label for _, label in images], np.int64)
        chosen = [files[position] for position, _ in images]
        sources[split] = FileDataset(folder, chosen, labels, layout.class_names)
    notes = layout.notes
    if loops:
        notes += (f"passed over {named('link', loops, 3)} to a folder around it",)
    return RawSplits(datasets=sources, notes=notes, empty=layout.empty)


def walk_folder(root: Path) -> tuple[list[str], list[str], list[str]]:
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
