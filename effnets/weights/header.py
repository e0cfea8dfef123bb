"""What a weights file says about the network it was trained for, applied to that network's spec. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from effnets.errors import ConfigError, WeightsError
from effnets.spec.specs import ModelSpec

__all__ = ["apply_header", "make_header", "read_class_names", "stated_background"]


def _numbers(text: str) -> tuple[float, ...]:
    """``0.5`` (for every channel) or ``[0.485, 0.456, 0.406]``."""
    values = json.loads(text)
    numbers = values if isinstance(values, list) else [values] * 3
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        raise ValueError("not numbers")
    return tuple(float(number) for number in numbers)


_MODEL_FIELDS: Mapping[str, Callable[[str], Any]] = {"padding": str, "activation": str, "bn_eps": float}
_PREPROCESS_FIELDS: Mapping[str, Callable[[str], Any]] = {
    "input_size": int,
    "crop_pct": float,
    "interpolation": str,
    "mean": _numbers,
    "std": _numbers,
    "test_input_size": int,
    "test_crop_pct": float,
}


def apply_header(spec: ModelSpec, header: Mapping[str, str], source: str) -> tuple[ModelSpec, tuple[str, ...]]:
    """`spec` with what the header states put in place, and a note on each change.

    Raises:
        WeightsError: a value that is not of its kind; names the file, the key and the value.
    """
    model = _read(spec, header, _MODEL_FIELDS, source)
    preprocess = _read(spec.preprocess, header, _PREPROCESS_FIELDS, source)
    try:
        changed = replace(spec, **model, preprocess=replace(spec.preprocess, **preprocess))
    except ConfigError as error:
        raise WeightsError(f"{source}: its header cannot be followed: {error}") from None
    notes = [f"its header sets {key} to {value} (the model has {getattr(spec, key)})" for key, value in model.items()]
    notes += [
        f"its header sets {key} to {value} (the model has {getattr(spec.preprocess, key)})"
        for key, value in preprocess.items()
    ]
    return changed, tuple(notes)


def make_header(spec: ModelSpec) -> dict[str, str]:
    """A header from which `apply_header` restores what belongs to the weights."""
    values = {key: getattr(spec, key) for key in _MODEL_FIELDS}
    values |= {key: getattr(spec.preprocess, key) for key in _PREPROCESS_FIELDS}
    return {
        key: json.dumps(value) if isinstance(value, tuple) else str(value)
        for key, value in values.items()
        if value is not None
    }


def read_class_names(header: Mapping[str, str], source: str) -> tuple[str, ...] | None:
    """Names of the classifier's outputs, where the header has them.

    Raises:
        WeightsError: it has something else in their place.
    """
    if "class_names" not in header:
        return None
    try:
        names = json.loads(header["class_names"])
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise WeightsError(f"{source}: class_names in its header are no JSON list of names")
    return tuple(names)


def stated_background(header: Mapping[str, str], source: str) -> bool | None:
    """Whether the first output stands for none of the classes; None where the header does not say.

    Raises:
        WeightsError: it says neither true nor false.
    """
    if "background" not in header:
        return None
    if header["background"] not in ("true", "false"):
        raise WeightsError(f"{source}: its header says background = {header['background']!r}; it must be true or false")
    return header["background"] == "true"


def _read(
    target: object, header: Mapping[str, str], known: Mapping[str, Callable[[str], Any]], source: str
) -> dict[str, Any]:
    """The header's values of the fields in `known` where they differ from those of `target`."""
    values = {}
    for key, parse in known.items():
        if key not in header:
            continue
        try:
            value = parse(header[key])
        except (ValueError, TypeError, RecursionError, OverflowError):
            shown = header[key][:40]
            raise WeightsError(f"{source}: its header says {key} = {shown!r}, which is no such value") from None
        if value != getattr(target, key):
            values[key] = value
    return values
