"""Match the classes of data with a model's outputs, and read ImageNet's ReaL labels. Free of torch."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from effnets.errors import ArgumentError, MissingFileError
from effnets.evaluation.result import RealScore
from effnets.inference.labels import class_orders, first_numbered, imagenet1k, spellings

if TYPE_CHECKING:
    from effnets.data.dataset import ImageDataset


_SHOWN = 6


def match_classes(
    data_names: Sequence[str],
    model_names: Sequence[str],
    *,
    named: bool = True,
    class_order: Literal["numeric", "lexicographic"] | None = None,
) -> tuple[NDArray[np.int64], str | None]:
    """Return the output of each class of the data ``[classes of the data]``, and a note for the user, if any.

    Classes are matched by name, in any order. Of ImageNet's 1000 outputs, or 1001 with a background before
    them, the WordNet numbers of its folders (``n01440764``) and the full entries ("tench, Tinca tinca") are names too.
    If the data only number their classes, from 0 and as many as the model's, these are the numbers of its outputs (in a
    folder's listing, class 10 comes before class 2). If the model does not name its outputs (`named` is False), they
    are in the order of the data's classes, of which there may be two, see `effnets.inference.labels.class_orders`:
    then `class_order` says which.

    Raises:
        ArgumentError: if the model lacks classes of the data, or their order is not known; the message shows both.
    """
    if list(data_names) == list(model_names):
        return np.arange(len(data_names)), None
    if not named:
        return _in_order(data_names, model_names, class_order)
    outputs = _by_number(data_names, model_names)
    if outputs is not None:
        return outputs, "the data number their classes, which are taken for the model's outputs in order"
    data_names = [unicodedata.normalize("NFC", name) for name in data_names]
    for names in spellings(model_names):
        offset = len(model_names) - len(names)  # of a background, which no other list of names has
        if list(data_names) == list(names):
            return np.arange(len(names)) + offset, None
        outputs = _by_name(data_names, names)
        if outputs is not None:
            return outputs + offset, _subset_note(data_names, model_names)
    missing = [name for name in data_names if name not in set(model_names)]
    doubled = "names occur more than once, in another order" if not missing else f"{len(missing)} are not the model's"
    raise _mismatch(data_names, model_names, doubled)


def _in_order(
    data_names: Sequence[str], model_names: Sequence[str], class_order: Literal["numeric", "lexicographic"] | None
) -> tuple[NDArray[np.int64], str]:
    """Return the outputs of the data's classes in an order that programs train in, and a note."""
    orders = class_orders(data_names)
    numeric, lexicographic = orders["numeric"], orders["lexicographic"]
    if len(numeric) != len(model_names):
        raise _mismatch(data_names, model_names, "their numbers differ, and the model does not name its outputs")
    if class_order is None and numeric != lexicographic:
        raise ArgumentError(
            f"the model does not name its {len(model_names)} outputs, and the data's classes have two orders.\n"
            f"  numeric, as in effnets and timm: {_listed(numeric)}\n"
            f"  lexicographic, as in torchvision's ImageFolder and Keras: {_listed(lexicographic)}\n"
            "Say in which the model was trained: class_order='numeric' or 'lexicographic' (--class-order)"
        )
    order = orders[class_order or "numeric"]
    which = f"{class_order} order" if class_order else "the order of the data's classes"
    note = f"the model does not name its {len(model_names)} outputs: taken in {which}"
    return np.array([order.index(name) for name in data_names], np.int64), note


def _by_name(data_names: Sequence[str], names: Sequence[str]) -> NDArray[np.int64] | None:
    """Return the position of each of the data's names in `names`; None unless each occurs exactly once."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    found = [places.get(name, []) for name in data_names]
    if len(set(data_names)) < len(data_names) or any(len(where) != 1 for where in found):
        return None
    return np.array([where[0] for where in found], np.int64)


def _by_number(data_names: Sequence[str], model_names: Sequence[str]) -> NDArray[np.int64] | None:
    """Return the outputs if the data number their classes, each once."""
    first = None if len(set(data_names)) < len(data_names) else first_numbered(data_names, model_names)
    return None if first is None else np.array([int(name) for name in data_names], np.int64) + first


def _subset_note(data_names: Sequence[str], model_names: Sequence[str]) -> str | None:
    others = len(model_names) - len(data_names)
    if not others or (others == 1 and model_names[0] == "background"):
        return None
    return (
        f"the data have {len(data_names)} of the model's {len(model_names)} classes; "
        "an answer among the others counts as wrong"
    )


def _mismatch(data_names: Sequence[str], model_names: Sequence[str], why: str) -> ArgumentError:
    return ArgumentError(
        f"the data's classes are not the model's ({why}).\n"
        f"  data:  {_listed(data_names)}\n"
        f"  model: {_listed(model_names)}\n"
        "Evaluate a model that was trained on these classes, or rename the data's classes to the model's"
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return f"{len(names)} ({shown})"


_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


class RealLabels:
    """A file of ReaL labels: a JSON list with a list of ImageNet-1k's class numbers for each validation image.

    Entry k belongs to ``ILSVRC2012_val_`` k + 1. Images with other names are taken in the order of their file names, if
    there are as many as entries.

    Raises:
        MissingFileError: if the file does not exist. ArgumentError: if it contains something else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        try:
            entries = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MissingFileError(f"{path}: no file of ReaL labels; give the path of ReaL's real.json") from None
        except (OSError, ValueError) as error:
            raise ArgumentError(f"{path}: cannot be read as JSON ({error}); give ReaL's real.json") from None
        if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
            raise ArgumentError(
                f"{path}: expected a list of lists of class numbers from 0 to 999; give ReaL's real.json"
            )
        self._entries: list[list[int]] = entries

    def check(self, source: ImageDataset, class_names: tuple[str, ...]) -> None:
        """Check that these labels fit the images and the model, before an hour of evaluation.

        Raises:
            ArgumentError: if the model has other classes than ImageNet's, or the labels are of other images.
        """
        self._places(source)
        _background(class_names, self._path)

    def score(
        self,
        source: ImageDataset,
        class_names: tuple[str, ...],
        indices: NDArray[np.int64],
        answers: NDArray[np.int64],
    ) -> RealScore:
        """Return how many `answers` for the images `indices` of `source` are among their labels; raises as `check`."""
        places, offset = self._places(source), _background(class_names, self._path)
        labels = [self._entries[places[index]] for index in indices]
        right = [answer - offset in own for own, answer in zip(labels, answers, strict=True) if own]
        if not right:
            raise ArgumentError(f"{self._path}: has no label for any of the {len(labels)} images")
        return RealScore(right=sum(right), count=len(right), left_out=len(labels) - len(right))

    def _places(self, source: ImageDataset) -> NDArray[np.int64]:
        """Return the entry of each image."""
        names = [source.name(index) for index in range(len(source))]
        numbers = [_NUMBER.search(name) for name in names]
        if all(numbers):
            places = np.array([int(number[1]) - 1 for number in numbers if number], np.int64)
            if places.max() < len(self._entries) and places.min() >= 0:
                return places
        elif len(names) == len(self._entries):
            order = sorted(range(len(names)), key=lambda index: (PurePosixPath(names[index]).name, names[index]))
            places = np.empty(len(names), np.int64)
            places[order] = np.arange(len(names))
            return places
        raise ArgumentError(
            f"{self._path}: has labels for {len(self._entries)} images, and the data have {len(names)}, "
            f"such as {names[0]}; give ImageNet's validation images, called ILSVRC2012_val_00000001.JPEG and so on"
        )


def _is_entry(entry: object) -> bool:
    return isinstance(entry, list) and all(type(label) is int and 0 <= label < 1000 for label in entry)


def _background(class_names: tuple[str, ...], path: Path) -> int:
    """Return the number of outputs before ImageNet's first class."""
    offset = len(class_names) - 1000
    if offset not in (0, 1) or class_names[offset:] != imagenet1k():
        raise ArgumentError(
            f"{path}: ReaL labels are of ImageNet-1k's classes, and the model has {len(class_names)} others; "
            "leave the ReaL labels out"
        )
    return offset
