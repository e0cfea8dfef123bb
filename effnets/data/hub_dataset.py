"""Pictures of a data set on the Hugging Face Hub, or of one that the `datasets` library has saved. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from effnets.data.classes import index_labels
from effnets.data.dataset import ImageDataset
from effnets.data.splits import ALL, SPLIT_NAMES, RawSplits
from effnets.errors import DataError, EffnetsError, ImageError

if TYPE_CHECKING:
    from datasets import Dataset, Features


_Table = TypeVar("_Table")

_PREFIX = "hf-dataset:"
_NO_LABELS = (None, -1)  # how the library says that a class is not known


class HubDataset(ImageDataset):
    """Pictures in a column of a `datasets.Dataset`, which lies on disk and is read at random.

    Args:
        dataset: whose column holds encoded pictures: `cast_column(column, Image(decode=False))`.
        column: its name.
        labels: [len]; indices into the class names.
        class_names: in the order of the network's outputs.
        title: of the data set, for messages.
    """

    def __init__(
        self, dataset: Dataset, column: str, labels: NDArray[np.int64], class_names: tuple[str, ...], title: str
    ) -> None:
        self.dataset, self.column, self.title = dataset.select_columns([column]), column, title
        self.labels, self.class_names = labels, class_names

    def name(self, index: int) -> str:
        return f"{self.title}, row {index}"

    def read(self, index: int) -> bytes:
        row = self.dataset[index][self.column]
        if row is None or (row["bytes"] is None and row["path"] is None):
            raise ImageError(f"{self.name(index)} has no picture; leave the row out")
        if row["bytes"] is not None:
            return row["bytes"]
        try:
            return Path(row["path"]).read_bytes()
        except OSError as error:
            raise ImageError(f"{self.name(index)}, {row['path']}, cannot be read ({error.strerror})") from error

    def sizes(self) -> NDArray[np.int64]:
        return np.fromiter(map(self._size, range(len(self))), np.int64, len(self))

    def _size(self, index: int) -> int:
        try:
            return len(self.read(index))
        except ImageError:
            return 0


def open_hub_dataset(name: str, *, image_column: str | None = None, label_column: str | None = None) -> RawSplits:
    """Pictures of "hf-dataset:user/name[@revision]", or of a folder that `Dataset.save_to_disk` wrote.

    Raises:
        DataError: the data set cannot be had, has no column of pictures or labels, or another fault.
    """
    title = name.removeprefix(_PREFIX)
    tables, passed = known_splits(_load(title), name)
    features = next(iter(tables.values())).features
    image, label, notes = choose_columns(name, features, image_column, label_column)
    declared = getattr(features[label], "names", None)
    written, unlabelled = without_unlabelled({split: table[label][:] for split, table in tables.items()}, name)
    class_names, labels = index_labels(written, name, declared)
    sources: dict[str, ImageDataset] = {
        split: HubDataset(_undecoded(tables[split], image), image, labels[split], class_names, f"{title}, {split}")
        for split in written
    }
    return RawSplits(sources=sources, notes=(*passed, *unlabelled, *notes))


def known_splits(found: Mapping[str, _Table], name: str) -> tuple[dict[str, _Table], tuple[str, ...]]:
    """Those splits that are for training, validation or test, by these words, and a note that names the others.

    A single one is the whole data set, whatever it is called.

    Raises:
        DataError: there are several, and none of these.
    """
    if len(found) == 1:
        split, table = next(iter(found.items()))
        return {SPLIT_NAMES.get(str(split).lower(), ALL): table}, ()
    known = {SPLIT_NAMES.get(str(split).lower(), ALL): table for split, table in found.items()}
    known.pop(ALL, None)
    if not known:
        raise DataError(f"{name}: has the splits {', '.join(map(str, found))}; wanted are train, validation or test")
    passed = [str(split) for split in found if str(split).lower() not in SPLIT_NAMES]
    return known, (f"passed over the splits {', '.join(passed)}",) if passed else ()


def without_unlabelled(
    labels: Mapping[str, Sequence[Any]], name: str
) -> tuple[dict[str, Sequence[Any]], tuple[str, ...]]:
    """Labels by split without the splits that have none, such as ImageNet's test pictures, and notes about these.

    Raises:
        DataError: no split has labels, or some pictures of one have none.
    """
    kept = {split: values for split, values in labels.items() if any(value not in _NO_LABELS for value in values)}
    if not kept:
        raise DataError(f"{name}: none of its pictures has a label; name the right column with label_column")
    for split, values in kept.items():
        if None in values:
            raise DataError(f"{name}: {split} has pictures without a label, row {list(values).index(None)} first")
    return kept, tuple(f"passed over {split}: its pictures have no labels" for split in labels if split not in kept)


def unavailable(name: str, error: Exception) -> DataError:
    """What to say where the Hub or its libraries fail."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        f"{name}: cannot be had ({reason}); check the name, the revision and the network, or whether "
        "HF_HUB_OFFLINE is set"
    )


def _load(title: str) -> Mapping[str, Dataset]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{_PREFIX}{title}: needs the datasets library; pip install 'effnets[train]'") from error
    path, _, revision = title.partition("@")
    try:
        if _saved(Path(path)):
            loaded = datasets.load_from_disk(path)
        else:
            loaded = datasets.load_dataset(path, revision=revision or None)
    except EffnetsError:
        raise
    except Exception as error:  # the library raises anything, from ConnectionError to its own classes
        raise unavailable(f"{_PREFIX}{title}", error) from error
    return loaded if isinstance(loaded, dict) else {ALL: loaded}


def _saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _undecoded(table: Dataset, column: str) -> Dataset:
    from datasets import Image

    return table.cast_column(column, Image(decode=False))


def choose_columns(
    name: str, features: Features, image: str | None, label: str | None
) -> tuple[str, str, tuple[str, ...]]:
    """The columns of pictures and of labels, these or those that are declared, and a note where there is a choice.

    Raises:
        DataError: there is no such column.
    """
    from datasets import Image

    images = [image] if image else [column for column, kind in features.items() if isinstance(kind, Image)]
    labels = [label] if label else _class_columns(features)
    if not labels:
        labels = [column for column in ("label", "labels") if column in features]
    for argument, found in (("image_column", images), ("label_column", labels)):
        if not found or found[0] not in features:
            option = "--" + argument.replace("_", "-")
            raise DataError(
                f"{name}: has the columns {', '.join(features)}; name the right one with {argument} ({option})"
            )
    if label is None and len(labels) > 1:
        note = f"of the columns of classes, {', '.join(labels)}, {labels[0]} is learned; name another by label_column"
        return images[0], labels[0], (note,)
    return images[0], labels[0], ()


def _class_columns(features: Features) -> list[str]:
    from datasets import ClassLabel

    return [column for column, kind in features.items() if isinstance(kind, ClassLabel)]
