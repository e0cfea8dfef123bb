"""Pictures in WebDataset shards: tars in which the files of a sample share their name up to its first dot. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from effnets.errors import DataError, MissingFileError
from effnets.inference.image import image_suffixes
from effnets.train.data.archive import Archive, Member, TarSource, index_archive, read_member
from effnets.train.data.classes import index_labels, read_class_names
from effnets.train.data.source import ImageSource
from effnets.train.data.splits import UNDIVIDED, Parts, named, split_of

__all__ = ["expand_braces", "is_webdataset", "open_shards", "samples_of"]

_LABEL_ENDINGS = ("cls", "json")
_LABEL_KEYS = ("label", "cls", "class")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_braces(pattern: str) -> list[str]:
    """What a shell makes of a pattern: "{train-{00..11},val-0}.tar" is 13 names.

    Raises:
        DataError: a brace is open, or a range goes backwards.
    """
    begin = pattern.find("{")
    end = _closing(pattern, begin)
    if begin < 0 and end < 0:
        return [pattern]
    if not 0 <= begin < end:
        raise DataError(f"{pattern}: its braces do not pair; write, say, shards-{{000..007}}.tar")
    inner, after = pattern[begin + 1 : end], expand_braces(pattern[end + 1 :])
    numbers = _RANGE.fullmatch(inner)
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        if last < first:
            raise DataError(f"{pattern}: {{{inner}}} goes backwards; write the smaller number first")
        width = len(numbers[1]) if numbers[1].startswith("0") or len(numbers[1]) == len(numbers[2]) else 0
        choices = [str(number).zfill(width) for number in range(first, last + 1)]
    else:
        choices = [name for choice in _alternatives(inner) for name in expand_braces(choice)]
    return [pattern[:begin] + choice + rest for choice in choices for rest in after]


def _closing(pattern: str, begin: int) -> int:
    """Where the brace at `begin` ends; -1 where it does not. Without any: where a closing one stands alone."""
    if begin < 0:
        return pattern.find("}")
    depth = 0
    for place in range(begin, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[place], 0)
        if depth == 0:
            return place
    return -1


def _alternatives(inner: str) -> list[str]:
    """What commas separate that stand in no braces."""
    parts, depth = [""], 0
    for sign in inner:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def is_webdataset(archive: Archive) -> bool:
    """Whether labels lie beside the pictures, instead of in the names of folders."""
    return any(_split_name(member.name)[1] == "cls" for member in archive.files) or (
        any(_split_name(member.name)[1] == "json" for member in archive.files)
        and all("/" not in member.name.removeprefix("./") for member in archive.files)
    )


def open_shards(
    paths: Sequence[Path], *, archives: Sequence[Archive] | None = None, label_key: str | None = None
) -> Parts:
    """Pictures in shards, found by one scan of their headers and read where they lie.

    A sample is a picture with NAME.cls (a class, by number or name) or NAME.json (with the key label, cls or class).
    Numbers get their names from classnames.txt beside the shards, one name a line, if it is there. Shards are of the
    split that their names begin with, if these differ.

    Args:
        paths: of the shards.
        archives: what they hold, where that is known already.
        label_key: in NAME.json, where it has another name; there must be a NAME.json then.

    Raises:
        MissingFileError: a shard does not exist.
        DataError: a shard is damaged, or a sample lacks its picture or label.
    """
    for path in paths:
        if not path.is_file():
            raise MissingFileError(f"{path} does not exist, one of {len(paths)} shards; check the pattern")
    indexed = [index_archive(path) for path in paths] if archives is None else archives
    words = {split_of(path.name) for path in paths}
    divided = None not in words and len(words) > 1
    members: dict[str, list[tuple[int, Member]]] = {}
    labels: dict[str, list[str]] = {}
    for number, archive in enumerate(indexed):
        split = (split_of(archive.path.name) if divided else None) or UNDIVIDED
        for picture, label in samples_of(archive, label_key):
            members.setdefault(split, []).append((number, picture))
            labels.setdefault(split, []).append(label)
    if not members:
        raise DataError(f"{paths[0]}: no sample in it; wanted are pictures with a .cls or .json of the same name")
    folder = paths[0].parent
    class_names, indices = index_labels(labels, str(folder), read_class_names(folder))
    sources: dict[str, ImageSource] = {
        split: TarSource(paths, members[split], indices[split], class_names) for split in members
    }
    return Parts(sources=sources)


def samples_of(archive: Archive, label_key: str | None) -> list[tuple[Member, str]]:
    """Pictures and labels as written, in the order of the archive.

    Raises:
        DataError: a sample lacks its picture or label.
    """
    endings = {suffix.removeprefix(".") for suffix in image_suffixes()}
    pictures: dict[str, Member] = {}
    labels: dict[str, dict[str, Member]] = {}
    for member in archive.files:
        key, ending = _split_name(member.name)
        if ending in _LABEL_ENDINGS:
            labels.setdefault(key, {})[ending] = member
        elif ending in endings:
            if key in pictures:
                raise DataError(f"{archive.path}: {key} has several pictures; a sample has one")
            pictures[key] = member
    lonely = sorted(pictures.keys() ^ labels.keys())
    if lonely:
        raise DataError(f"{archive.path}: {named('sample', lonely, 3)} without a picture or without .cls or .json")
    return [(picture, _label(archive.path, labels[key], label_key)) for key, picture in pictures.items()]


def _label(path: Path, files: Mapping[str, Member], wanted: str | None) -> str:
    if wanted is not None and "json" not in files:
        raise DataError(f"{path}: {files['cls'].name} is no JSON that could have {wanted}; leave label_column out")
    if wanted is None and "cls" in files:
        return read_member(path, files["cls"]).decode(errors="replace").strip()
    member = files["json"]
    try:
        content = json.loads(read_member(path, member))
    except ValueError as error:
        raise DataError(f"{path}: {member.name} is no JSON ({error})") from error
    keys = _LABEL_KEYS if wanted is None else (wanted,)
    for key in keys:
        if isinstance(content, dict) and isinstance(content.get(key), str | int):
            return str(content[key])
    raise DataError(f"{path}: {member.name} states no class; wanted is one of the keys {', '.join(keys)}")


def _split_name(name: str) -> tuple[str, str]:
    """Key and last ending, lower case, of a file: WebDataset's keys end at the first dot of the last part."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending.rpartition(".")[2].lower()
