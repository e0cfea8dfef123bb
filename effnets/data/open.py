"""Opens a data set of any kind by its path or name. Free of torch."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TypedDict, get_args

import numpy as np

from effnets.data.checks import (
    Check,
    affordable_check,
    check_classes,
    check_filled,
    check_labels,
    duplicate_notes,
    without_corrupt,
)
from effnets.data.dataset import ImageDataset
from effnets.data.folder import open_folder
from effnets.data.hub import open_hub_dataset, open_hub_stream
from effnets.data.multilabel import open_label_parquet, open_label_table
from effnets.data.parquet import open_parquet
from effnets.data.remote import is_url, open_remote_shards
from effnets.data.splits import (
    ALL,
    RawSplits,
    Splits,
    allowing_unseen_classes,
    default_val_share,
    split_validation,
)
from effnets.data.table import open_table
from effnets.data.tar import expand_braces, index_archive, is_webdataset, open_shards, open_tree
from effnets.errors import ArgumentError, DataError, EffnetsError, MissingFileError
from effnets.utils.junk import is_junk

_KINDS = (
    "a folder by class, a .csv table, a .tar, .parquet files, shards-{000..007}.tar, https://…, "
    "hf-dataset:user/name or hf-stream:user/name"
)


@dataclass(frozen=True, slots=True)
class DataConfig:
    """A data set of labeled images and how to read it.

    Attributes:
        path: a folder by class, with or without train/, val/ and test/ around the classes, which may have other usual
            names (see `effnets.data.splits.split_of`); a .tar of such a folder; a CSV or TSV file with the columns
            path, label and optionally split, or by other usual names; a parquet file in the Hub's layout, or a folder
            of such with names like train-0.parquet; WebDataset shards ("shards-{000..007}.tar", or a folder of them),
            also on a server ("https://host/shards-{000..007}.tar"); a data set of the Hub, fetched whole
            ("hf-dataset:user/name@revision"), or, in parquet, read as needed ("hf-stream:user/name@revision"). Shards
            on a server and streams of up to 16 GiB, or ``EFFNETS_SHARDS_GIB``, are fetched once and kept. Of larger
            ones, training fetches file after file in each epoch; evaluation keeps the files that it reads.
        image_column, label_column: of tables (CSV, parquet, Hub), if they do not have their usual names; of shards,
            label_column is the key in each sample's JSON.
        class_names: if labels are numbers, the names of the classes 0, 1, …; otherwise as many names as there are
            classes, in their order, to replace the data's own.
        val_share: part of the training images to validate with if the data has no validation images; 0 for none. By
            default a tenth, or a twentieth if the data has test images.
        check: how images are checked beforehand: "quick" (their first and last bytes), "full" (decoded, slow) or
            "none". Of more than 200,000 images, "quick" checks none.
        strict: raise an error for a corrupt image, or one without a label among others, instead of leaving it out.
        corrupt_limit: part of the images of a split that may be corrupt and are left out, with a note; 3 always may.
        multilabel: an image has any number of labels: of a CSV or TSV file, a column of 0 and 1 for each (empty or -1:
            unknown), or `label_column` with lists (``red|round``, JSON); of parquet, a column of lists.
        unseen_classes: images are compared: val and test may have classes that train lacks, and of validation images
            that are taken from training two and more are of one class.

    Raises:
        ArgumentError: if a value is out of its range.
    """

    path: str | os.PathLike[str]
    _: KW_ONLY
    image_column: str | None = None
    label_column: str | None = None
    class_names: Sequence[str] | None = None
    val_share: float | None = None
    check: Check = "quick"
    strict: bool = False
    corrupt_limit: float = 0.05
    multilabel: bool = False
    unseen_classes: bool = False

    def __post_init__(self) -> None:
        if self.check not in get_args(Check):
            raise ArgumentError(f"check is {self.check!r}; choose one of {', '.join(get_args(Check))}")
        if not 0 <= self.corrupt_limit <= 1:
            raise ArgumentError(f"corrupt_limit is {self.corrupt_limit!r}; give a part of the images, from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationData:
    """Images to evaluate on.

    Attributes:
        split: "test", "val", or "all" of a data set without splits.
        source: the images.
        notes: what the user should know.
    """

    split: str
    source: ImageDataset
    notes: tuple[str, ...]


def open_data(
    config: DataConfig | str | os.PathLike[str],
    *,
    seed: int = 0,
    progress: Callable[[str, float], object] | None = None,
) -> Splits:
    """Open a data set to train on.

    If it has no validation images, they are taken from its training images, the same share of every class. If it has
    no test images, `test` is None.

    Args:
        config: the data set and how to read it; a path or name alone takes the defaults.
        seed: of the draw of the validation images.
        progress: called with a description of the current step and its share done, 0 to 1, while files are checked.

    Raises:
        MissingFileError: if a file or folder does not exist.
        DataError: if the data set is damaged, of no known kind, or has nothing to train on.
        ArgumentError: if an argument is out of its range.
    """
    progress = progress or _no_progress
    config, raw = open_raw(config, progress)
    origin = os.fspath(config.path)
    with _with_notes(raw):
        check_filled(raw.empty, "training", origin)
    datasets, notes = dict(raw.datasets), list(raw.notes)
    if ALL in datasets:
        datasets["train"] = datasets.pop(ALL)
    check, more = affordable_check(config.check, datasets)
    notes += more
    for split in datasets:
        datasets[split], more = without_corrupt(
            split, datasets[split], check=check, limit=config.corrupt_limit, strict=config.strict, progress=progress
        )
        notes += more
    check_all = check_labels if config.multilabel else check_classes
    with _with_notes(raw):
        notes += check_all(datasets, "train" if "train" in datasets else None, origin)
    if "train" in datasets and "val" not in datasets:
        share = config.val_share
        if share is None:
            share = default_val_share(datasets)
        datasets["train"], val, more = split_validation(datasets["train"], share, seed, pairs=config.unseen_classes)
        notes += more
        if val is not None:
            datasets["val"] = val
    if check != "none":
        notes += duplicate_notes({split: datasets[split] for split in ("train", "val", "test") if split in datasets})
    train, val, test = (datasets.get(split) for split in ("train", "val", "test"))
    return Splits(train=train, val=val, test=test, notes=tuple(notes), revision=raw.revision)


def open_evaluation_data(
    config: DataConfig | str | os.PathLike[str], *, progress: Callable[[str, float], object] | None = None
) -> EvaluationData:
    """Open the images to evaluate on: those of test/, else of val/, else, without splits, all.

    Arguments are as of `open_data`.

    Raises:
        MissingFileError: if a file or folder does not exist.
        DataError: if the data set is damaged, of no known kind, or has training images only.
    """
    progress = progress or _no_progress
    config, raw = open_raw(config, progress)
    origin = os.fspath(config.path)
    split = next((split for split in ("test", "val", ALL) if split in raw.datasets), None)
    with _with_notes(raw):
        if split is None:
            raise DataError(
                f"{origin}: has training images only; put images that no network was trained on into test/ or val/"
            )
        if split == ALL:
            check_filled(raw.empty, "evaluation", origin)
    dataset = raw.datasets[split]
    if split != ALL and raw.empty:
        _leave_out_classes(dataset, raw.empty)
    check, _ = affordable_check(config.check, {split: dataset})
    dataset, notes = without_corrupt(
        split, dataset, check=check, limit=config.corrupt_limit, strict=config.strict, progress=progress
    )
    check_all = check_labels if config.multilabel else check_classes
    notes = (*raw.notes, *notes, *check_all({split: dataset}, None, origin))
    return EvaluationData(split=split, source=dataset, notes=notes)


@contextmanager
def _with_notes(raw: RawSplits) -> Iterator[None]:
    """Add what was passed over, which may be the reason, to an error."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}" + "".join(f". {note}" for note in raw.notes)) from None


def _no_progress(_step: str, _share: float) -> None:
    """Ignore progress."""


def open_raw(
    config: DataConfig | str | os.PathLike[str], progress: Callable[[str, float], object]
) -> tuple[DataConfig, RawSplits]:
    """Open a data set as it is stored: before checks, and before validation images are taken. Raises as `open_data`."""
    if not isinstance(config, DataConfig):
        config = DataConfig(config)
    data = os.fspath(config.path)
    try:
        with allowing_unseen_classes(config.unseen_classes):
            if config.multilabel:
                raw = _open_multilabel(config)
            else:
                raw = _open_dataset(data, config.image_column, config.label_column, progress, strict=config.strict)
    except EffnetsError:
        raise
    except OSError as error:
        raise DataError(f"{data}: cannot be read ({error.strerror or error})") from error
    return config, raw if config.class_names is None else _renamed(raw, config.class_names, data)


def _open_dataset(
    data: str,
    image_column: str | None,
    label_column: str | None,
    progress: Callable[[str, float], object],
    *,
    strict: bool,
) -> RawSplits:
    """Open the data set that `data` names, unchecked."""
    if is_url(data):
        _refuse_columns(data, "shards", image_column=image_column)
        return open_remote_shards(expand_braces(data), label_key=label_column, strict=strict, progress=progress)
    columns = _Columns(image_column=image_column, label_column=label_column, strict=strict)
    if data.startswith("hf-dataset:"):
        return open_hub_dataset(data, **columns)
    if data.startswith("hf-stream:"):
        return open_hub_stream(data, **columns, progress=progress)
    path = Path(data)
    if "{" in path.name and not path.exists():
        _refuse_columns(data, "shards", image_column=image_column)
        return open_shards([Path(name) for name in expand_braces(data)], label_key=label_column, strict=strict)
    if not path.exists():
        raise MissingFileError(f"{data} does not exist; check its spelling and the current folder")
    if path.is_dir():
        return _open_folder(path, columns)
    match path.suffix.lower():
        case ".csv" | ".tsv":
            return open_table(path, **columns)
        case ".tar":
            return _open_tar(path, columns)
        case ".parquet":
            return open_parquet([path], single=True, **columns)
        case ".zip" | ".tgz" | ".gz" | ".bz2" | ".xz" | ".zst" | ".7z" | ".rar":
            raise DataError(f"{data}: is compressed, so single images cannot be read; unpack it, and give its folder")
    raise DataError(f"{data}: is not a known kind of data set; give {_KINDS}")


def _open_multilabel(config: DataConfig) -> RawSplits:
    """Open images with any number of labels each, unchecked."""
    data, path = os.fspath(config.path), Path(config.path)
    if config.class_names is not None:
        raise ArgumentError(f"class_names is given, but the labels of {data} have names; leave it out")
    columns = _Columns(image_column=config.image_column, label_column=config.label_column, strict=config.strict)
    if not path.exists() and not data.startswith("hf-") and not is_url(data):
        raise MissingFileError(f"{data} does not exist; check its spelling and the current folder")
    if path.suffix.lower() in (".csv", ".tsv"):
        return open_label_table(path, **columns)
    if path.suffix.lower() == ".parquet":
        return open_label_parquet([path], single=True, **columns)
    if path.is_dir() and (tables := _below(path, "*.parquet")):
        return open_label_parquet(tables, single=False, **columns)
    raise DataError(
        f"{data}: images with several labels are read from a .csv or .tsv table, or from .parquet files, and this is "
        "neither; list the images in a table with a column of 0 and 1 for each label"
    )


class _Columns(TypedDict):
    """How tables are read."""

    image_column: str | None
    label_column: str | None
    strict: bool


def _open_tar(path: Path, columns: _Columns) -> RawSplits:
    archive, image, label = index_archive(path), columns["image_column"], columns["label_column"]
    if is_webdataset(archive):
        _refuse_columns(str(path), "shards", image_column=image)
        return open_shards([path], archives=[archive], label_key=label, strict=columns["strict"])
    _refuse_columns(str(path), "an archive of folders", image_column=image, label_column=label)
    return open_tree(archive)


def _open_folder(folder: Path, columns: _Columns) -> RawSplits:
    image, label = columns["image_column"], columns["label_column"]
    # An archive beside folders is what they were unpacked from.
    if not any(entry.is_dir() and not is_junk(entry.name) and entry.name != "data" for entry in folder.iterdir()):
        tables = _below(folder, "*.parquet")
        if tables:
            return open_parquet(tables, single=False, **columns)
        shards = _below(folder, "*.tar")
        if shards:
            _refuse_columns(str(folder), "shards", image_column=image)
            return open_shards(shards, label_key=label, strict=columns["strict"])
    _refuse_columns(str(folder), "a folder by class", image_column=image, label_column=label)
    return open_folder(folder)


def _refuse_columns(data: str, kind: str, **columns: str | None) -> None:
    """Raise an ArgumentError for columns that would have no effect."""
    for argument, value in columns.items():
        if value is not None:
            raise ArgumentError(f"{argument} is {value!r}, but {data} is {kind} without columns; leave it out")


def _below(folder: Path, pattern: str) -> Sequence[Path]:
    """Return files of a folder, or of its data/, the layout of the Hub."""
    found = [
        [path for path in sorted(place.glob(pattern)) if not is_junk(path.name)] for place in (folder, folder / "data")
    ]
    return found[0] or found[1]


def _leave_out_classes(dataset: ImageDataset, empty: Sequence[str]) -> None:
    """Remove classes that training has no image of, unless `dataset` has one: no model needs to know them."""
    counts = np.bincount(dataset.labels, minlength=len(dataset.class_names))
    kept = [label for label, name in enumerate(dataset.class_names) if counts[label] or name not in empty]
    dataset.labels = np.searchsorted(kept, dataset.labels).astype(np.int64)
    dataset.class_names = tuple(dataset.class_names[label] for label in kept)


def _renamed(raw: RawSplits, class_names: Sequence[str], data: str) -> RawSplits:
    found = next(iter(raw.datasets.values())).class_names
    class_names = [unicodedata.normalize("NFC", name) for name in class_names]
    if len(set(class_names)) < len(class_names) or "" in class_names:
        raise ArgumentError(f"class_names has empty names, or one twice; give one for each class of {data}")
    if len(class_names) != len(found) and not _are_indices(found, len(class_names)):
        raise ArgumentError(
            f"class_names has {len(class_names)} names, but {data} has {len(found)} classes "
            f"({', '.join(found[:3])}{', …' if len(found) > 3 else ''}); give one for each"
        )
    numbers = range(len(found)) if len(class_names) == len(found) else map(int, found)
    names = {name: class_names[number] for name, number in zip(found, numbers, strict=True)}
    for dataset in raw.datasets.values():
        if len(class_names) != len(found):  # some of the numbers do not occur
            dataset.labels = np.array([int(name) for name in found], np.int64)[dataset.labels]
        dataset.class_names = tuple(class_names)
    return replace(raw, empty=tuple(names[name] for name in raw.empty))


def _are_indices(found: Sequence[str], count: int) -> bool:
    """Return whether the names are numbers of `count` classes, counted from 0."""
    return found[0] == "0" and all(name.isascii() and name.isdigit() and int(name) < count for name in found)
