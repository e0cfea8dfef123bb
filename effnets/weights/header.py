"""What a weights file says about the network it was trained for, applied to that network's spec. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from effnets.errors import ConfigError, WeightsError
from effnets.spec import ModelSpec

__all__ = ["apply_header", "make_header", "stated_background"]


def _numbers(text: str) -> tuple[float, ...]:
    """``0.5`` (for every channel) or ``[0.485, 0.456, 0.406]``."""
    values = json.loads(text)
    if isinstance(values, list):
        return tuple(float(value) for value in values)
    return (float(values),) * 3


_MODEL_FIELDS: Mapping[str, Callable[[str], Any]] = {"padding": str, "activation": str, "bn_eps": float}
_PREPROCESS_FIELDS: Mapping[str, Callable[[str], Any]] = {
    "input_size": int,
    "crop_pct": float,
    "interpolation": str,
    "mean": _numbers,
    "std": _numbers,
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
    return {key: json.dumps(value) if isinstance(value, tuple) else str(value) for key, value in values.items()}


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
        except (ValueError, TypeError):
            raise WeightsError(f"{source}: its header says {key} = {header[key]!r}, which is no such value") from None
        if value != getattr(target, key):
            values[key] = value
    return values
