"""Splits and classes of a data set. Free of torch."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.errors import ArgumentError, DataError, MissingFileError
from effnets.inference.labels import class_orders

# Words for a split in data sets, in lower case, and its name here.
_PLAIN = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_WORDS = _PLAIN | {"training": "train", "dev": "val", "eval": "val", "evaluation": "val", "testing": "test"}
SPLITS = ("train", "val", "test")
ALL = "all"
# What stands around such a word: "seg_train", "train_images", "trainset", "test1", "val2017".
_BEFORE = r"(?:(?:seg|single|images?|imgs?|data(?:set)?)[ _.-])?"
_AFTER = r"(?:[ _.-]?(?:(?:data)?set|data|images?|imgs?|\d+))*"
_SPLIT = re.compile(f"{_BEFORE}({'|'.join(_WORDS)}){_AFTER}")
_UNLABELED = re.compile(
    f"{_BEFORE}(?:pred|predict|predictions?|unlabell?ed|unknown){_AFTER}|images?|imgs?|photos|pictures"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSplits:
    """A data set as it is stored, before checks and before validation images are taken from training.

    Attributes:
        datasets: by "train", "val" and "test", or one by "all"; with the same class names.
        notes: what was skipped in reading it.
        empty: classes to train that have a folder but no image.
        revision: the commit, for data on the Hub.
    """

    datasets: Mapping[str, ImageDataset]
    notes: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    revision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """The splits of a data set, all with the same class names.

    Attributes:
        train: to train on.
        val: for early stopping, the best epoch and the temperature. Shares no image with `train`.
        test: measured once at the end; never selects anything.
        notes: what the user should know: duplicates between splits, small classes, skipped images.
        revision: the commit, for data on the Hub.
    """

    train: ImageDataset | None
    val: ImageDataset | None
    test: ImageDataset | None
    notes: tuple[str, ...] = ()
    revision: str | None = None

    def with_channels(self, channels: int) -> Splits:
        """Return the same images, decoded with so many channels."""
        parts = (self.train, self.val, self.test)
        train, val, test = (None if part is None else part.with_channels(channels) for part in parts)
        return replace(self, train=train, val=val, test=test)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of all classes, in the order of the network's outputs."""
        return next(dataset.class_names for dataset in (self.train, self.val, self.test) if dataset is not None)


def default_val_share(splits: Iterable[str]) -> float:
    """Return the part of the training images to validate with, where nothing is said: less beside test images."""
    return 0.05 if "test" in splits else 0.1


def split_validation(
    dataset: ImageDataset, share: float, seed: int, *, pairs: bool = False
) -> tuple[ImageDataset, ImageDataset | None, tuple[str, ...]]:
    """Take a validation split out of `dataset`, the same share of every class, drawn by `seed`.

    Shares are rounded so that the total is right as well: classes with the largest remainders get one more. Every
    class keeps an image to train on, and has one to validate with if it has two; every label of images with any number
    of them keeps one to train on. Of a streamed data set, whole files are taken.

    Args:
        dataset: the images. share: of them, 0 for none. seed: of the draw.
        pairs: images are compared with others of their class, so that two of a class are taken or none, and two are
            left: of small classes, two each of as many as make up the total.

    Returns:
        what is left, what was taken (None if nothing could be), and notes about classes that are too small.

    Raises:
        ArgumentError: if the share is not in 0..1, 1 excluded.
    """
    if not 0 <= share < 1:
        raise ArgumentError(f"val_share is {share!r}; give the part of the training images to validate with, 0 to 0.99")
    if share == 0:
        return dataset, None, ()
    if dataset.shards is not None:
        return _split_files(dataset, dataset.shards, share, seed)
    counts = np.bincount(dataset.labels, minlength=len(dataset.class_names))
    takes = _pair_takes(counts, share, seed) if pairs else _takes(counts, share)
    # One order of all images, then the first ones of every class: cheap for 10,000 classes as well.
    order = np.random.default_rng(seed).permutation(len(dataset))
    by_class = order[np.argsort(dataset.labels[order], kind="stable")]
    rank = np.arange(len(dataset)) - np.repeat(np.cumsum(counts) - counts, counts)
    taken = rank < np.repeat(takes, counts)
    notes: tuple[str, ...] = ()
    if single := [dataset.class_names[label] for label in np.flatnonzero(counts == 1)]:
        notes = (f"{named('class', single)} with a single image: it stays in train, so nothing validates it",)
    if dataset.targets is not None:
        taken &= ~np.isin(by_class, _only_examples(dataset.targets, by_class[taken]))
    if pairs and not taken.any():
        notes = ("fewer than two classes have four images, so that none are taken from training for validation",)
    if not taken.any():
        return dataset, None, notes
    return dataset.subset(np.sort(by_class[~taken])), dataset.subset(np.sort(by_class[taken])), notes


def _split_files(
    dataset: ImageDataset, files: NDArray[np.int64], share: float, seed: int
) -> tuple[ImageDataset, ImageDataset | None, tuple[str, ...]]:
    numbers = np.unique(files)
    count = min(max(round(share * len(numbers)), 1), len(numbers) - 1)
    if count == 0:
        return dataset, None, ("there is one file, so none is taken from training for validation",)
    taken = np.isin(files, np.random.default_rng(seed).permutation(numbers)[:count])
    note = f"{count} of {len(numbers)} files are taken from training for validation, whatever their classes"
    return dataset.subset(np.flatnonzero(~taken)), dataset.subset(np.flatnonzero(taken)), (note,)


def _takes(counts: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    wanted = counts * share
    takes = np.floor(wanted).astype(np.int64)
    missing = round(float(wanted.sum())) - int(takes.sum())
    takes[np.argsort(takes - wanted, kind="stable")[: max(missing, 0)]] += 1
    takes[(counts >= 2) & (takes == 0)] = 1
    return np.clip(takes, 0, np.maximum(counts - 1, 0))


def _pair_takes(counts: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """Return how many images of each class are taken, 0 or two and more, so that two and more are left."""
    takes = np.minimum(_takes(counts, share), counts - 2)
    takes[takes < 2] = 0
    small = np.flatnonzero((counts >= 4) & (takes == 0))
    missing = round(float(counts.sum() * share)) - int(takes.sum())
    wanted = max(-(-missing // 2), 2 - int((takes > 0).sum()))
    takes[np.random.default_rng(seed).permutation(small)[: max(wanted, 0)]] = 2
    return takes if (takes > 0).sum() > 1 else np.zeros_like(takes)


def _only_examples(targets: NDArray[np.float32], taken: NDArray[np.int64]) -> list[int]:
    """Return images among the `taken` ones that stay, so that no label is without an image to train on."""
    has = targets == 1
    left = has.sum(axis=0) - has[taken].sum(axis=0)
    stays: list[int] = []
    for label in np.flatnonzero((left == 0) & has[taken].any(axis=0)):
        if not has[stays, label].any():
            stays.append(int(taken[np.flatnonzero(has[taken, label])[0]]))
    return stays


def split_of(name: str) -> str | None:
    """Return the split that a folder, a cell of a table or a split of the Hub is called after; None for other names.

    "Training", "TRAIN", "train_images", "trainset" and "seg_train" mean "train"; "trains" is no such name.
    """
    match = _SPLIT.fullmatch(name.strip().lower())
    return _WORDS[match[1]] if match else None


def split_of_file(name: str) -> str | None:
    """Return the split in a file's name: its first word, or the only one in it ("imagenet1k-train-0000.tar")."""
    found = [split_of(word) for word in re.findall("[a-z]+", name.lower())]
    known = {split for split in found if split}
    return found[0] if found and found[0] else known.pop() if len(known) == 1 else None


def is_plain(name: str) -> bool:
    """Return whether a split has one of its most usual names, so that nothing need be said about it."""
    return name in _PLAIN


def is_unlabeled(name: str) -> bool:
    """Return whether a folder is called after images of no class: "seg_pred", "unlabeled", "images"."""
    return _UNLABELED.fullmatch(name.strip().lower()) is not None


def named(noun: str, names: Sequence[str], shown: int = 5) -> str:
    """Return a count of things with the first of their names: "7 classes (a, b, c, d, e, …)"."""
    plural = {"class": "classes"}.get(noun, noun + "s")
    rest = ", …" if len(names) > shown else ""
    return f"{len(names)} {noun if len(names) == 1 else plural} ({', '.join(names[:shown])}{rest})"


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Return class names in the order of the network's outputs: numerically if all are numbers, else by characters."""
    return class_orders(names)["numeric"]


_UNSEEN_ALLOWED = ContextVar("unseen classes allowed", default=False)


@contextmanager
def allowing_unseen_classes(allowed: bool) -> Iterator[None]:
    """Let other splits have classes that the training split lacks, for images that are compared and not classified."""
    token = _UNSEEN_ALLOWED.set(allowed)
    try:
        yield
    finally:
        _UNSEEN_ALLOWED.reset(token)


def class_names_of(splits: Mapping[str, Iterable[str]], origin: str) -> tuple[str, ...]:
    """Return the names of all classes: those of the training split, or of all splits if there is no training split.

    Within `allowing_unseen_classes`, those that other splits have beside these come last.

    Raises:
        DataError: if a split has classes that the training split lacks.
    """
    if "train" not in splits:
        return ordered(name for names in splits.values() for name in names)
    splits = {split: set(names) for split, names in splits.items()}
    known = set(splits["train"])
    if _UNSEEN_ALLOWED.get():
        return *ordered(known), *ordered({name for names in splits.values() for name in names} - known)
    for split, names in splits.items():
        unknown = ordered(set(names) - known)
        if unknown:
            raise DataError(
                f"{origin}: {split} has {named('class', unknown)} that train lacks, so they cannot be learned; "
                "rename or remove them there, or add them to train"
            )
    return ordered(known)


def _row(split: str, index: int) -> str:
    return f"row {index}" + ("" if split == ALL else f" of {split}")


def index_labels(
    splits: Mapping[str, Sequence[object]],
    origin: str,
    declared: Sequence[str] | None = None,
    *,
    strict: bool = False,
    place: Callable[[str, int], str] = _row,
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]], tuple[str, ...]]:
    """Return class names; labels as indices into them, -1 for unlabeled images (see `labeled`); and notes about these.

    Splits without any label are left out. 3, 3.0 and "3" are one class, true and "True" another; -1, NaN, None and
    empty texts are no label.

    Args:
        splits: every image's label as written, by split.
        origin: name of the data set, for errors.
        declared: all class names, if the data set states them: labels are indices into these. Otherwise the labels are
            the names.
        strict: raise an error for an unlabeled image among labeled ones.
        place: names the place of a label, by its split and index, for messages.

    Raises:
        DataError: if there are no labels, or texts and numbers, if a split has classes that the training split lacks,
            or an index is not of a declared name.
    """
    texts = {split: [_text(label) for label in labels] for split, labels in splits.items()}
    empty = [split for split, labels in texts.items() if not any(label is not None for label in labels)]
    notes = [f"passed over {split}: its images have no labels" for split in empty]
    texts = {split: labels for split, labels in texts.items() if split not in empty}
    if not texts:
        raise DataError(f"{origin}: its images have no labels; name the right column with label_column")
    for split, labels in texts.items():
        absent = [index for index, label in enumerate(labels) if label is None]
        what = (
            f"{len(absent)} image{'s' * (len(absent) != 1)} without a label, {place(split, (absent or [0])[0])} first"
        )
        if absent and strict:
            raise DataError(f"{origin}: {split} has {what}; label or remove them, or leave strict out")
        if absent:
            notes.append(f"left out of {split}: {what}")
    spelled = _spelled(texts, origin, place)
    names = {split: [label and spelled[label] for label in labels] for split, labels in texts.items()}
    if declared is not None:
        class_names = tuple(unicodedata.normalize("NFC", name) for name in declared)
        numbers = _numbers(names, len(class_names), origin, place)
    else:
        class_names = class_names_of({split: filter(None, labels) for split, labels in names.items()}, origin)
        numbers = {name: index for index, name in enumerate(class_names)}
    indices = {
        split: np.fromiter((-1 if name is None else numbers[name] for name in labels), np.int64, len(labels))
        for split, labels in names.items()
    }
    return class_names, indices, tuple(notes)


def labeled(dataset: ImageDataset) -> ImageDataset:
    """Return a data set without the images that `index_labels` gave no label."""
    kept = np.flatnonzero(dataset.labels >= 0)
    return dataset if len(kept) == len(dataset) else dataset.subset(kept)


# What programs write for an absent label. "none" and "NA" are names.
_ABSENT = frozenset({"", "-1", "-1.0", "nan", "NaN", "NAN", "None", "null", "NULL", "<NA>"})
_NUMBER, _WHOLE = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?"), re.compile(r"([+-]?[0-9]+)\.0*")


def _text(label: object) -> str | None:
    """Return a label as text, None for an absent one."""
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    text = label if isinstance(label, str) else str(label)
    return None if text.strip() in _ABSENT else unicodedata.normalize("NFC", text)


def _spelled(
    texts: Mapping[str, Sequence[str | None]], origin: str, place: Callable[[str, int], str]
) -> dict[str, str]:
    """Return the class name of every label: without ".0" if all are whole numbers, in lower case if all are truths.

    Raises:
        DataError: if some are numbers and some are not; single characters may be both, as in data sets of characters.
    """
    found = {label for labels in texts.values() for label in labels if label is not None}
    numbers = {label for label in found if _NUMBER.fullmatch(label)}
    if numbers and found != numbers and max(map(len, found)) > 1:
        every = [(label, place(split, i)) for split, labels in texts.items() for i, label in enumerate(labels) if label]
        first, other = (next(one for one in every if (one[0] in numbers) is wanted) for wanted in (False, True))
        raise DataError(
            f"{origin}: labels are texts and numbers, such as {first[0]!r} ({first[1]}) and {other[0]!r} ({other[1]}); "
            "write a name for every image, or a number for every image"
        )
    if numbers and all("." not in label or _WHOLE.fullmatch(label) for label in numbers):
        return {label: label.partition(".")[0] if label in numbers else label for label in found}
    if {label.lower() for label in found} <= {"true", "false"}:
        return {label: label.lower() for label in found}
    return {label: label for label in found}


def _numbers(
    names: Mapping[str, Sequence[str | None]], count: int, origin: str, place: Callable[[str, int], str]
) -> dict[str, int]:
    """Return the number that is each name, of `count` declared classes."""
    try:
        numbers = {name: int(name) for labels in names.values() for name in {*labels} - {None} if name}
    except ValueError as error:
        raise DataError(f"{origin}: {error}, but {count} classes are declared; labels must be their numbers") from None
    outside = [
        f"{name} ({place(split, index)})"
        for split, labels in names.items()
        for index, name in enumerate(labels)
        if name is not None and not 0 <= numbers[name] < count
    ]
    if outside:
        raise DataError(
            f"{origin}: {len(outside)} labels are outside of the {count} declared classes, {outside[0]} first; number "
            "classes from 0, and leave out images without a known class"
        )
    return numbers


def read_class_names(folder: Path) -> tuple[str, ...] | None:
    """Read the names in ``classnames.txt`` of a folder, if it exists; see `read_names`."""
    file = folder / "classnames.txt"
    return read_names(file) if file.is_file() else None


def read_names(file: Path) -> tuple[str, ...]:
    """Read class names from a text file, one per line in the order of the classes' numbers.

    Raises:
        DataError: if two classes have the same name, or the file is not text.
        MissingFileError: if the file does not exist.
    """
    if not file.is_file():
        raise MissingFileError(f"{file} does not exist; give a text file with one class name per line")
    return parse_names(file.read_bytes(), str(file))


def parse_names(content: bytes, file: str) -> tuple[str, ...]:
    """Return the class names in a text file's content; raises as `read_names`."""
    try:
        text = unicodedata.normalize("NFC", content.decode("utf-8-sig"))
        names = [line.strip() for line in text.splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    if not names or "" in names or len(set(names)) != len(names):
        raise DataError(f"{file}: is empty, or has empty lines or a name twice; write one name per line, all different")
    return tuple(names)
