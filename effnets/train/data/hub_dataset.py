"""Pictures of a data set on the Hugging Face Hub, or of one that the `datasets` library has saved. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from effnets.errors import DataError, EffnetsError, ImageError
from effnets.train.data.classes import index_labels
from effnets.train.data.source import ImageSource
from effnets.train.data.splits import SPLIT_NAMES, UNDIVIDED, Parts

if TYPE_CHECKING:
    from datasets import Dataset, Features

__all__ = ["HubSource", "open_hub_dataset"]

_PREFIX = "hf-dataset:"
_SLICE = 1000


class HubSource(ImageSource):
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


def open_hub_dataset(name: str, *, image_column: str | None = None, label_column: str | None = None) -> Parts:
    """Pictures of "hf-dataset:user/name[@revision]", or of a folder that `Dataset.save_to_disk` wrote.

    Raises:
        DataError: the data set cannot be had, has no column of pictures or labels, or another fault.
    """
    title = name.removeprefix(_PREFIX)
    loaded = _load(title)
    tables: dict[str, Dataset] = {}
    for split, table in loaded.items():
        known = SPLIT_NAMES.get(str(split).lower())
        if known is None and len(loaded) > 1:
            continue
        tables[known or UNDIVIDED] = table
    if not tables:
        raise DataError(f"{name}: has the splits {', '.join(map(str, loaded))}; wanted are train, validation or test")
    features = next(iter(tables.values())).features
    image, label = _columns(name, features, image_column, label_column)
    declared = getattr(features[label], "names", None)
    class_names, labels = index_labels({split: table[label][:] for split, table in tables.items()}, name, declared)
    sources: dict[str, ImageSource] = {
        split: HubSource(_undecoded(table, image), image, labels[split], class_names, f"{title}, {split}")
        for split, table in tables.items()
    }
    passed = [str(split) for split in loaded if SPLIT_NAMES.get(str(split).lower()) is None and len(loaded) > 1]
    notes = [f"passed over the splits {', '.join(passed)}"] if passed else []
    if label_column is None and len(several := _class_columns(features)) > 1:
        notes.append(
            f"of the columns of classes, {', '.join(several)}, {label} is learned; name another by label_column"
        )
    return Parts(sources=sources, notes=tuple(notes))


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
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{_PREFIX}{title}: cannot be had ({reason}); check the name, the revision and the network, or whether "
            "HF_HUB_OFFLINE is set"
        ) from error
    return loaded if isinstance(loaded, dict) else {UNDIVIDED: loaded}


def _saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _undecoded(table: Dataset, column: str) -> Dataset:
    from datasets import Image

    return table.cast_column(column, Image(decode=False))


def _columns(name: str, features: Features, image: str | None, label: str | None) -> tuple[str, str]:
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
    return images[0], labels[0]


def _class_columns(features: Features) -> list[str]:
    from datasets import ClassLabel

    return [column for column, kind in features.items() if isinstance(kind, ClassLabel)]
