"""Which output of a model stands for which class of the data. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from effnets.errors import ArgumentError
from effnets.inference.labels import first_numbered, spellings

_SHOWN = 6


def match_classes(
    data_names: Sequence[str], model_names: Sequence[str], *, named: bool = True
) -> tuple[NDArray[np.int64], str | None]:
    """The output of each class of the data ``[classes of the data]``, and a note where that wants saying.

    Classes are matched by name, whatever their order. Of ImageNet's 1000 outputs, or 1001 with a background before
    them, the WordNet numbers of its folders (``n01440764``) and the full entries ("tench, Tinca tinca") are names too.
    Data that only number their classes, from 0 and as many as the model's, mean its outputs by these numbers (in a
    folder's listing, class 10 comes before class 2). A model that does not name its outputs (`named` is False) has them
    in the order of the data's classes.

    Raises:
        ArgumentError: classes of the data that the model does not have; shows both.
    """
    if list(data_names) == list(model_names):
        return np.arange(len(data_names)), None
    outputs = _by_number(data_names, model_names)
    if outputs is not None:
        note = "the data number their classes, which are taken for the model's outputs in order" if named else None
        return outputs, note
    if not named:
        if len(data_names) == len(model_names):
            note = f"the model does not name its {len(model_names)} outputs: taken in the order of the data's classes"
            return np.arange(len(data_names)), note
        raise _mismatch(data_names, model_names, "their numbers differ, and the model does not name its outputs")
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


def _by_name(data_names: Sequence[str], names: Sequence[str]) -> NDArray[np.int64] | None:
    """The place of each of the data's names, None unless each stands there exactly once."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    found = [places.get(name, []) for name in data_names]
    if len(set(data_names)) < len(data_names) or any(len(where) != 1 for where in found):
        return None
    return np.array([where[0] for where in found], np.int64)


def _by_number(data_names: Sequence[str], model_names: Sequence[str]) -> NDArray[np.int64] | None:
    """Outputs where the data number their classes, each once."""
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
