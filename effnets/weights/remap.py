"""Bring a weights file into this library's names: header, dialect, tensors for one network."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from torch import Tensor

from effnets.errors import ConfigError, WeightsError
from effnets.spec.plan import make_plan
from effnets.spec.specs import ClassifierActivation, ModelSpec
from effnets.weights.dialects import DIALECTS, detect_dialect, get_dialect
from effnets.weights.files import Checkpoint, read_checkpoint


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
    """Return `spec` with the header's values, and a note on each change.

    Raises:
        WeightsError: if a value is invalid; names the file, the key and the value.
    """
    model = _read(spec, header, _MODEL_FIELDS, source)
    preprocess = _read(spec.preprocess, header, _PREPROCESS_FIELDS, source)
    try:
        changed = replace(spec, **model, preprocess=replace(spec.preprocess, **preprocess))
    except ConfigError as error:
        raise WeightsError(f"{source}: its header cannot be followed: {error}") from None
    return changed, tuple(
        f"its header sets {key} to {value} (the model has {getattr(target, key)})"
        for target, values in ((spec, model), (spec.preprocess, preprocess))
        for key, value in values.items()
    )


def make_header(spec: ModelSpec) -> dict[str, str]:
    """Return a header from which `apply_header` restores what belongs to the weights."""
    values = {key: getattr(spec, key) for key in _MODEL_FIELDS}
    values |= {key: getattr(spec.preprocess, key) for key in _PREPROCESS_FIELDS}
    return {
        key: json.dumps(value) if isinstance(value, tuple) else str(value)
        for key, value in values.items()
        if value is not None
    }


def read_class_names(header: Mapping[str, str], source: str) -> tuple[str, ...] | None:
    """Return the class names in the header; None without them.

    Raises:
        WeightsError: if they are not a list of strings.
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


def read_outputs(header: Mapping[str, str], source: str) -> tuple[ClassifierActivation, tuple[float, ...] | None]:
    """Return what the outputs are for, and the thresholds of labels, if there are any.

    Raises:
        WeightsError: if the header states something else.
    """
    stated = header.get("classifier_activation", '"softmax"')
    activation = next((one for one in get_args(ClassifierActivation) if stated == json.dumps(one)), None)
    if activation is None:
        raise WeightsError(
            f"{source}: its header says classifier_activation = {stated[:40]!r}; it must be softmax, sigmoid or l2"
        )
    try:
        numbers = json.loads(header.get("thresholds", "[]"))
    except (ValueError, RecursionError):
        numbers = None
    if not isinstance(numbers, list) or not all(type(one) in (int, float) and 0 <= one <= 1 for one in numbers):
        raise WeightsError(f"{source}: thresholds in its header are no JSON list of numbers from 0 to 1")
    return activation, tuple(map(float, numbers)) or None


def _stated_background(header: Mapping[str, str], source: str) -> bool | None:
    """Return whether the first output is the background; None if the header does not state it."""
    if "background" not in header:
        return None
    if header["background"] not in ("true", "false"):
        raise WeightsError(f"{source}: its header says background = {header['background']!r}; it must be true or false")
    return header["background"] == "true"


def _read(
    target: object, header: Mapping[str, str], known: Mapping[str, Callable[[str], Any]], source: str
) -> dict[str, Any]:
    """Return the header's values of the fields in `known` that differ from those of `target`."""
    values = {}
    for key, parse in known.items():
        if key not in header:
            continue
        try:
            value = parse(header[key])
        except (ValueError, TypeError, RecursionError, OverflowError):
            shown = header[key][:40]
            raise WeightsError(f"{source}: its header says {key} = {shown!r}, which is not a valid value") from None
        if value != getattr(target, key):
            values[key] = value
    return values


_CLASSIFIER = ("classifier.weight", "classifier.bias")


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeWeights:
    """A checkpoint's tensors under native names, and the network they were trained for.

    `source` names their origin; `background` is whether the first output is the background; `classifier_activation` and
    `thresholds` are as of `Classifier`.
    """

    checkpoint: Checkpoint
    source: str
    dialect: str
    spec: ModelSpec
    tensors: Mapping[str, Tensor]
    class_names: tuple[str, ...] | None
    background: bool
    notes: tuple[str, ...]
    classifier_activation: ClassifierActivation = "softmax"
    thresholds: tuple[float, ...] | None = None

    @property
    def num_classes(self) -> int | None:
        """Outputs of the checkpoint's classifier; None if it has none."""
        return _count_outputs(self.tensors)


def prepare_weights(
    path: str | os.PathLike[str],
    spec: ModelSpec,
    dialect: str = "auto",
    num_classes: int | None = None,
    *,
    sha256: str | None = None,
    background: bool | None = None,
    class_names: tuple[str, ...] | None = None,
    ema: bool = False,
) -> NativeWeights:
    """Read a file and name its tensors natively; its header's statements are applied to `spec`.

    An output for background is left out, unless `num_classes` counts it in. `sha256` is the file's, `background` and
    `class_names` describe its outputs where its header does not. `ema` takes averaged weights.

    Raises:
        MissingFileError, WeightsError: as `read_checkpoint`, `detect_dialect` and `apply_header`; or the framework has
            no such network.
    """
    named = None if dialect == "auto" else get_dialect(dialect)
    dialects = tuple(DIALECTS.values()) if named is None else (named,)
    checkpoint = read_checkpoint(path, sha256=sha256, dialects=dialects, ema=ema)
    source = str(checkpoint.path)
    chosen = named or detect_dialect(checkpoint.tensors.keys(), source)
    spec, notes = apply_header(spec, checkpoint.header, source)
    notes += chosen.differences(spec)
    try:
        tensors = chosen.to_native(checkpoint.tensors, make_plan(spec))
    except WeightsError as error:
        raise WeightsError(f"{source} ({chosen.name} names), for {spec.name}: {error}") from None
    outputs = _count_outputs(tensors)
    if (stated := _stated_background(checkpoint.header, source)) is not None:
        background = stated
    if outputs is None or background is None:
        background = outputs is not None and outputs == chosen.background_outputs
    class_names = read_class_names(checkpoint.header, source) or class_names
    if background and num_classes != outputs:
        notes += (f"of {outputs} outputs the first, background, was dropped",)
        tensors |= {name: tensors[name][1:] for name in _CLASSIFIER if name in tensors}
        background = False
        if class_names is not None and len(class_names) == outputs:
            class_names = class_names[1:]
    activation, thresholds = read_outputs(checkpoint.header, source)
    return NativeWeights(
        checkpoint=checkpoint,
        source=source,
        dialect=chosen.name,
        spec=spec,
        tensors=tensors,
        class_names=class_names,
        background=background,
        notes=(*checkpoint.notes, *notes),
        classifier_activation=activation,
        thresholds=thresholds,
    )


def _count_outputs(tensors: Mapping[str, Tensor]) -> int | None:
    weight = tensors.get("classifier.weight")
    return None if weight is None or weight.ndim == 0 else weight.shape[0]
