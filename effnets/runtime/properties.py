"""Whether the metadata of an exported file are what `Description.to_properties` writes. Free of torch."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from effnets.errors import WeightsError
from effnets.spec.specs import PreprocessSpec
from effnets.utils.arguments import MAX_SIDE

__all__ = ["PREFIX", "damaged", "decode", "decode_preprocess"]

PREFIX = "effnets."


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_size(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, list) and len(value) == 2 and all(_is_count(side) and side <= MAX_SIDE for side in value)


def _are_names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict)


_SIZE = (_is_size, "a height and a width in pixels, or null")
_FACTS = (_is_mapping, "a mapping")
_TEXT = (_is_text, "text")
_WANTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "model": _TEXT,
    "family": _TEXT,
    "labels": (_are_names, "a list of names"),
    "preprocess": _FACTS,
    "input_kind": (lambda value: value in ("normalised", "uint8"), "normalised or uint8"),
    "channels": (_is_count, "a number of channels"),
    "size": _SIZE,
    "usual_size": _SIZE,
    "weights": _FACTS,
    "accuracy": _FACTS,
    "rewrites": _FACTS,
    "versions": _FACTS,
    "precision": _TEXT,
    "engine": _TEXT,
    "quantisation": _FACTS,
}
_REQUIRED = ("model", "family", "labels", "preprocess", "size")


def damaged(source: str, key: str, what: str) -> WeightsError:
    """The error that says what is wrong with the property `key` of the file `source`."""
    return WeightsError(f"{source}: its metadata is damaged: {PREFIX}{key} {what}; export the model again")


def decode(texts: Mapping[str, str], source: str) -> dict[str, Any]:
    """The values of properties by key, without the prefix, each of the type it must have.

    Raises:
        WeightsError: one is missing, no JSON, or of another type or length; names `source` and the key.
    """
    values = {}
    for key, text in texts.items():
        try:
            values[key] = json.loads(text)
        except (TypeError, ValueError, RecursionError):
            raise damaged(source, key, "is no JSON") from None
    for key in _REQUIRED:
        if key not in values:
            raise damaged(source, key, "is missing")
    for key, (is_right, wanted) in _WANTED.items():
        if key in values and not is_right(values[key]):
            raise damaged(source, key, f"is {reprlib.repr(values[key])}, not {wanted}")
    return values


def decode_preprocess(values: Mapping[str, Any], source: str) -> PreprocessSpec:
    """The preprocessing that a file states.

    Raises:
        WeightsError: a value that it cannot have, or no such key; names `source`.
    """
    for key in ("input_size", "test_input_size"):
        if values.get(key) is not None and not _is_count(values[key]):
            raise damaged(source, "preprocess", f"has the {key} {reprlib.repr(values[key])}, not a number of pixels")
    try:
        return PreprocessSpec(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
    except KeyError as error:
        raise damaged(source, "preprocess", f"has no {error}") from None
    except (TypeError, ValueError) as error:
        raise damaged(source, "preprocess", f"is none ({error})") from None
