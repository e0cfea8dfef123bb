"""Whether the metadata of an exported file are what `Description.to_properties` writes. Free of torch."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from effnets.engines.onnx_file import count_outputs, read_properties
from effnets.errors import WeightsError
from effnets.spec.specs import PreprocessSpec
from effnets.utils.arguments import MAX_SIDE

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


InputKind = Literal["normalised", "uint8"]

FORMAT = 1  # raised when files of old no longer say what new programs need


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a program needs to know to use an exported file, and a person to trust it.

    Attributes:
        model, family: ``mixnet_m`` and ``mixnet``.
        labels: a name for each output.
        preprocess: how images become the network's input; with `input_kind` uint8 the file does it itself.
        input_kind: ``normalised``, float32 ``[N, channels, H, W]``; or ``uint8``, images ``[N, H, W, channels]`` of any
            size.
        channels: of the input, 3 or 1 for images.
        size: (height, width) that the network takes; None for any.
        usual_size: what images are then brought to; None: that of the weights.
        weights: where the weights came from: source, tag, sha256, dialect.
        accuracy: published top1 and top5 in per cent, with the size and source of the figures; empty if unknown.
        rewrites: what was rewritten before the export, as `Rewrites.to_dict` has it; empty for nothing.
        versions: of the programs that wrote the file.
        precision: ``float32`` or ``int8``, of the file itself.
        engine: of `effnets.engines.base.ENGINES`, that it was made for and `load_engine` takes first; empty for any.
        quantisation: how int8 compared with float on held-out images, as `QuantizeReport.summary` has it.
    """

    model: str
    family: str
    labels: tuple[str, ...] = field(repr=False)
    preprocess: PreprocessSpec
    input_kind: InputKind = "normalised"
    channels: int = 3
    size: tuple[int, int] | None = None
    usual_size: tuple[int, int] | None = None
    weights: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    rewrites: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    engine: str = ""
    quantisation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) that images are brought to: the network's, or what is usual where it takes any."""
        return self.size or self.usual_size or (self.preprocess.input_size, self.preprocess.input_size)

    def to_properties(self) -> dict[str, str]:
        """As metadata: keys with ``effnets.`` before them, values in JSON."""
        values = {**asdict(self), "format": FORMAT}
        return {PREFIX + key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], source: str, *, outputs: int | None = None) -> Description:
        """What `to_properties` made; keys without the prefix are somebody else's.

        Args:
            properties: of the file. source: what it is called.
            outputs: how many classes the model in it tells apart; None if that is not known.

        Raises:
            WeightsError: the properties are not effnets', or damaged; names `source` and the key.
        """
        own = {key.removeprefix(PREFIX): text for key, text in properties.items() if key.startswith(PREFIX)}
        if "format" not in own:
            raise WeightsError(f"{source}: was not exported by effnets: it says nothing of labels and preprocessing")
        if own.pop("format") != str(FORMAT):
            raise WeightsError(f"{source}: was exported by another version of effnets; export the model again")
        values = decode(own, source)
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        sizes = {name: tuple(known[name]) for name in ("size", "usual_size") if known.get(name)}
        labels = tuple(values["labels"])
        if outputs not in (None, len(labels)):
            raise damaged(source, "labels", f"has {len(labels)} names for {outputs} classes")
        preprocess = decode_preprocess(values["preprocess"], source)
        return cls(**{**known, **sizes, "preprocess": preprocess, "labels": labels})

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Description:
        """What an ONNX file says of itself.

        Raises:
            MissingFileError: no such file. WeightsError: it is no ONNX file of effnets, or damaged.
        """
        return cls.from_properties(read_properties(path), str(path), outputs=count_outputs(path))

    def resized(self, size: int | tuple[int, int] | None) -> Description:
        """The same, for another image size; None leaves it."""
        if size is None:
            return self
        return replace(self, size=size if isinstance(size, tuple) else (size, size))
