"""Images in tar archives, read by their offsets: folders by class and WebDataset shards. Free of torch."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.data.folder import arrange
from effnets.data.splits import ALL, RawSplits, index_labels, labeled, named, read_class_names, split_of_file
from effnets.errors import DataError, ImageError, MissingFileError
from effnets.inference.image import image_suffixes
from effnets.utils.junk import in_junk

# Of an image, as it is written: JSON has all of these.
Label: TypeAlias = str | int | float | None

_BLOCK = 512
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZ": "bunzip2", b"\xfd7": "unxz", b"(\xb5": "unzstd"}


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive: its path there, the offset of its content, and its bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """The files and folders in an archive."""

    path: Path
    files: tuple[Member, ...]
    folders: tuple[str, ...]


class TarDataset(ImageDataset):
    """Images in tar archives.

    Args:
        files: the archives' paths.
        members: [len]; the archive of each image, as an index, and its place there.
        labels, class_names: as of `ImageDataset`.
    """

    kind = "images in tar archives"

    def __init__(
        self,
        files: Sequence[Path | str],
        members: Sequence[tuple[int, Member]],
        labels: NDArray[np.int64],
        class_names: tuple[str, ...],
    ) -> None:
        self.files, self.labels, self.class_names = tuple(files), labels, class_names
        self._names = tuple(member.name for _, member in members)
        self._archive = np.array([archive for archive, _ in members], np.int32)
        self._offset = np.array([member.offset for _, member in members], np.int64)
        self._size = np.array([member.size for _, member in members], np.int64)

    def name(self, index: int) -> str:
        return f"{self.files[self._archive[index]]}/{self._names[index]}"

    def read(self, index: int) -> bytes:
        # Opened each time: processes share nothing, and opening a local file takes about 20 µs.
        try:
            with self._path(int(self._archive[index])).open("rb") as archive:
                archive.seek(int(self._offset[index]))
                return archive.read(int(self._size[index]))
        except OSError as error:
            raise ImageError(f"{self.name(index)} cannot be read ({error.strerror})") from error

    def sizes(self) -> NDArray[np.int64]:
        return self._size

    def _path(self, file: int) -> Path:
        return Path(self.files[file])


def open_tree(archive: Archive) -> RawSplits:
    """Open images in an archive of a folder by class, with or without train/, val/ and test/.

    Raises:
        DataError: if it has no such layout.
    """
    layout = arrange([member.name for member in archive.files], archive.folders, str(archive.path))
    sources: dict[str, ImageDataset] = {}
    for split, images in layout.splits.items():
        members = [(0, archive.files[position]) for position, _ in images]
        labels = np.array([label for _, label in images], np.int64)
        sources[split] = TarDataset([archive.path], members, labels, layout.class_names)
    return RawSplits(datasets=sources, notes=layout.notes, empty=layout.empty)


def index_archive(path: Path) -> Archive:
    """List the files and folders of a tar archive, except junk, in one pass over its headers.

    Raises:
        DataError: if it is compressed, cut short or damaged.
    """
    files: list[Member] = []
    folders: list[str] = []
    places: dict[str, Member] = {}
    end = 0
    try:
        with tarfile.open(path, "r:") as archive:
            for entry in archive:
                end = entry.offset_data
                if entry.isdir():
                    folders.append(entry.name)
                elif entry.isreg() and not entry.issparse():
                    places[entry.name] = member = Member(entry.name, entry.offset_data, entry.size)
                    files.append(member)
                    end += -(-entry.size // _BLOCK) * _BLOCK
                elif entry.islnk() and entry.linkname in places:  # the same file again, stored once
                    target = places[entry.linkname]
                    files.append(Member(entry.name, target.offset, target.size))
                else:
                    raise DataError(
                        f"{path}: {entry.name} is neither a file nor a folder; pack it with tar --dereference"
                    )
    except (tarfile.TarError, OSError, EOFError) as error:
        raise _unreadable(path, error) from error
    _check_end(path, end)
    kept = tuple(member for member in files if not in_junk(member.name))
    return Archive(path=path, files=kept, folders=tuple(folders))


def read_member(path: Path, member: Member) -> bytes:
    """Read a file in an archive."""
    with path.open("rb") as archive:
        archive.seek(member.offset)
        return archive.read(member.size)


def _check_end(path: Path, end: int) -> None:
    # For tarfile, a damaged or missing header is the end; a whole archive has a block of zeros there.
    with path.open("rb") as archive:
        archive.seek(end)
        block = archive.read(_BLOCK)
    if block != bytes(_BLOCK):
        what = "is cut short" if len(block) < _BLOCK else "is damaged"
        raise DataError(f"{path}: {what} after {end:,} bytes; copy or download it again")


def _unreadable(path: Path, error: Exception) -> DataError:
    try:
        with path.open("rb") as file:
            head = file.read(2)
    except OSError as cause:
        return DataError(f"{path}: cannot be read ({cause.strerror})")
    if head in _COMPRESSED:
        return DataError(f"{path}: is compressed, so single images cannot be read; unpack it with {_COMPRESSED[head]}")
    return DataError(f"{path}: cannot be read as a tar archive ({error}); copy or download it again")


_LABEL_ENDINGS = ("cls", "json")
_LABEL_KEYS = ("label", "cls", "class")


def expand_braces(pattern: str) -> list[str]:
    """Expand a pattern as a shell does: "{train-{00..11},val-0}.tar" is 13 names.

    Raises:
        DataError: if its braces do not pair.
    """
    if "{" not in pattern and "}" not in pattern:
        return [pattern]
    from braceexpand import braceexpand

    try:
        return list(braceexpand(pattern, escape=False))
    except ValueError:
        raise DataError(f"{pattern}: its braces do not pair; write, say, shards-{{000..007}}.tar") from None


def is_webdataset(archive: Archive) -> bool:
    """Return whether labels are in files beside the images, instead of in the names of folders."""
    return any(_split_name(member.name)[1] == "cls" for member in archive.files) or (
        any(_split_name(member.name)[1] == "json" for member in archive.files)
        and all("/" not in member.name.removeprefix("./") for member in archive.files)
    )


def open_shards(
    paths: Sequence[Path],
    *,
    archives: Sequence[Archive] | None = None,
    label_key: str | None = None,
    strict: bool = False,
) -> RawSplits:
    """Open WebDataset shards.

    A sample is an image with NAME.cls (a class, by number or name) or NAME.json (with the key label, cls or class).
    Names of numbers come from classnames.txt beside the shards, one name per line, if it exists. Shards belong to the
    splits in their names, if these differ.

    Args:
        paths: of the shards.
        archives: their contents, if already known.
        label_key: in NAME.json, which must exist then, if it has another name.
        strict: raise an error for an image without a label among others.

    Raises:
        MissingFileError: if a shard does not exist.
        DataError: if a shard is damaged, or a sample lacks its image or label.
    """
    for path in paths:
        if not path.is_file():
            raise MissingFileError(f"{path} does not exist, one of {len(paths)} shards; check the pattern")
    indexed = [index_archive(path) for path in paths] if archives is None else archives
    members, labels = split_samples(
        [path.name for path in paths], [samples_of(archive, label_key) for archive in indexed]
    )
    if not members:
        raise DataError(f"{paths[0]}: holds no sample; it needs images with a .cls or .json file of the same name")
    folder = paths[0].parent
    class_names, indices, notes = index_labels(
        labels,
        str(folder),
        read_class_names(folder),
        strict=strict,
        place=sample_place([path.name for path in paths], members),
    )
    sources: dict[str, ImageDataset] = {
        split: labeled(TarDataset(paths, members[split], indices[split], class_names)) for split in indices
    }
    return RawSplits(datasets=sources, notes=notes)


def sample_place(
    names: Sequence[str], members: Mapping[str, Sequence[tuple[int, Member]]]
) -> Callable[[str, int], str]:
    """Return a function that names an image by its split and index, for messages; see `split_samples`."""

    def place(split: str, index: int) -> str:
        shard, member = members[split][index]
        return f"{names[shard]}/{member.name}"

    return place


def split_samples(
    names: Sequence[str], samples: Sequence[Sequence[tuple[Member, Label]]]
) -> tuple[dict[str, list[tuple[int, Member]]], dict[str, list[Label]]]:
    """Return the shard number and place of every image, and its label as written, both by split.

    Args:
        names: [shards]; their file names.
        samples: [shards]; see `samples_of`.
    """
    words = {split_of_file(name) for name in names}
    divided = None not in words and len(words) > 1
    members: dict[str, list[tuple[int, Member]]] = {}
    labels: dict[str, list[Label]] = {}
    for number, (name, images) in enumerate(zip(names, samples, strict=True)):
        split = (split_of_file(name) if divided else None) or ALL
        for image, label in images:
            members.setdefault(split, []).append((number, image))
            labels.setdefault(split, []).append(label)
    return members, labels


def samples_of(archive: Archive, label_key: str | None) -> list[tuple[Member, Label]]:
    """Return images and labels as written, in the order of the archive.

    Raises:
        DataError: if a sample lacks its image or label.
    """
    endings = {suffix.removeprefix(".") for suffix in image_suffixes()}
    images: dict[str, Member] = {}
    labels: dict[str, dict[str, Member]] = {}
    for member in archive.files:
        key, ending = _split_name(member.name)
        if ending in _LABEL_ENDINGS:
            labels.setdefault(key, {})[ending] = member
        elif ending in endings:
            if key in images:
                raise DataError(f"{archive.path}: {key} has several images; a sample has one")
            images[key] = member
    lonely = sorted(images.keys() ^ labels.keys())
    if lonely:
        raise DataError(f"{archive.path}: {named('sample', lonely, 3)} without an image or without .cls or .json")
    return [(image, _label(archive.path, labels[key], label_key)) for key, image in images.items()]


def _label(path: Path, files: Mapping[str, Member], wanted: str | None) -> Label:
    if wanted is not None and "json" not in files:
        raise DataError(f"{path}: {files['cls'].name} is not JSON and cannot have {wanted}; leave label_column out")
    if wanted is None and "cls" in files:
        return read_member(path, files["cls"]).decode(errors="replace").strip()
    member = files["json"]
    try:
        content = json.loads(read_member(path, member))
    except ValueError as error:
        raise DataError(f"{path}: {member.name} is not JSON ({error})") from error
    keys = _LABEL_KEYS if wanted is None else (wanted,)
    if isinstance(content, dict):
        found = [content[key] for key in keys if key in content and isinstance(content[key], Label)]
        if found:
            return next((label for label in found if label is not None), None)
    raise DataError(f"{path}: {member.name} has no class; it needs one of the keys {', '.join(keys)}")


def _split_name(name: str) -> tuple[str, str]:
    """Return a file's key and last extension, lower case; WebDataset's keys end at the first dot of the last part."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending.rpartition(".")[2].lower()
