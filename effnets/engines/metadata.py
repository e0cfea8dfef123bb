"""The metadata of exported files: what effnets writes into them, and how it is read without loading the model."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from effnets.errors import MissingFileError, WeightsError
from effnets.spec.specs import ClassifierActivation, PreprocessSpec
from effnets.utils.arguments import MAX_SIDE

_PREFIX = "effnets."
_FORMATS = (1, 2)  # the second where programs must know the activation, so that earlier ones refuse the file

InputKind = Literal["normalised", "uint8", "pixels"]  # as files spell it


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """What a program needs to know to use an exported file, and a person to trust it. Field names are the file's keys.

    Attributes:
        model, family: ``mixnet_m`` and ``mixnet``.
        labels: a name for each output.
        preprocess: how images become the network's input; with `input_kind` uint8 the file does all
            of it, with pixels the normalization.
        input_kind: ``normalised``, float32 ``[N, channels, H, W]``; ``uint8``, images ``[N, H, W, channels]`` of any
            size; or ``pixels``, such images resized and cropped to `size` already.
        channels: of the input, 3 or 1 for images.
        size: (height, width) that the network takes; None for any.
        usual_size: (height, width) that images are then resized to; None: that of the weights.
        weights: where the weights came from: source, tag, sha256, dialect.
        accuracy: published top1 and top5 in percent, with the size and source of the figures; empty if unknown.
        rewrites: rewrites before the export, as of `Rewrites.to_dict`; empty without any.
        versions: of the programs that wrote the file.
        precision: ``float32`` or ``int8``, of the file itself.
        engine: one of `effnets.engines.base.ENGINES`, for which the file was made and which ``auto`` chooses; empty for
            any.
        quantisation: how int8 compared with float32 on held-out images, as of `QuantizeReport.summary`.
        embedding: length of the output ``embedding``, 0 without it.
        detector: the kind of an object detector, ``ssdlite``, whose outputs are boxes, labels and scores and whose
            first label is the background; empty for a classifier.
        classifier_activation: of the output ``logits``, which is not in it: ``softmax`` for one class an image,
            ``sigmoid`` for any number of labels, ``l2`` for an embedding, divided by its length.
        thresholds: of labels, the least probability of each that counts as yes; empty: a half.
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
    embedding: int = 0
    detector: str = ""
    classifier_activation: ClassifierActivation = "softmax"
    thresholds: tuple[float, ...] = ()

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) that images are resized to: the network's, or the usual one if it takes any."""
        return self.size or self.usual_size or (self.preprocess.input_size, self.preprocess.input_size)

    def to_properties(self) -> dict[str, str]:
        """Return the properties of a file: keys with the prefix ``effnets.``, values in JSON."""
        values = {**asdict(self), "format": _FORMATS[self.classifier_activation != "softmax"]}
        return {_PREFIX + key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}

    @classmethod
    def from_properties(
        cls, properties: Mapping[str, str], source: str, *, outputs: int | None = None
    ) -> ModelMetadata:
        """Decode what `to_properties` returned; keys without the prefix are ignored.

        There is a label for each of `outputs`, None if their number is unknown. Raises WeightsError if the properties
        are not effnets', or damaged; names the file, `source`, and the key.
        """
        own = {key.removeprefix(_PREFIX): text for key, text in properties.items() if key.startswith(_PREFIX)}
        if "format" not in own:
            raise WeightsError(
                f"{source}: was not exported by effnets, or is cut short: it has no labels and no preprocessing"
            )
        if own.pop("format") not in map(str, _FORMATS):
            raise WeightsError(f"{source}: was exported by another version of effnets; export the model again")
        values = _decode(own, source)
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        known |= {name: tuple(known[name]) for name in ("labels", "size", "usual_size") if known.get(name)}
        known["thresholds"] = tuple(known.get("thresholds", ()))
        metadata = cls(**{**known, "preprocess": _decode_preprocess(values["preprocess"], source)})
        if outputs is not None and not metadata.detector:
            metadata.check_outputs(outputs, source)
        return metadata

    def check_outputs(self, outputs: int, source: str) -> None:
        """Raise WeightsError unless there is a label for each of so many outputs of the file `source`."""
        if len(self.labels) != outputs:
            raise _damaged(source, "labels", f"has {len(self.labels)} names for {outputs} classes")
        if self.thresholds and len(self.thresholds) != outputs:
            raise _damaged(source, "thresholds", f"has {len(self.thresholds)} numbers for {outputs} labels")

    def to_json(self) -> str:
        """Return `to_properties` as one text."""
        return json.dumps(self.to_properties(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, source: str) -> ModelMetadata:
        """Decode what `to_json` returned; raises as `from_properties`."""
        try:
            properties = json.loads(text)
        except (ValueError, RecursionError):
            properties = None
        return cls.from_properties(properties if isinstance(properties, dict) else {}, source)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> ModelMetadata:
        """Read the metadata of an ONNX file; raises as `read_onnx_header` and `from_properties`."""
        properties, outputs = read_onnx_header(path)
        return cls.from_properties(properties, str(path), outputs=outputs)


def output_names(metadata: ModelMetadata, *, softmax: bool) -> tuple[str, ...]:
    """Return the names of the outputs of a file for phones, in their order."""
    return ("logits", *(("embedding",) if metadata.embedding else ()), *(("probabilities",) if softmax else ()))


def label_lines(metadata: ModelMetadata) -> str:
    """Return the labels, one a line, as programs on phones read them; line breaks within one become spaces."""
    return "\n".join(" ".join(label.split()) for label in metadata.labels)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_length(value: object) -> bool:
    return value == 0 or _is_count(value)


def _is_size(value: object) -> bool:
    sides = value if isinstance(value, list) else ()
    return value is None or (len(sides) == 2 and all(_is_count(side) and side <= MAX_SIDE for side in sides))


def _is_names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _is_shares(value: object) -> bool:
    return isinstance(value, list) and all(type(one) in (int, float) and 0 <= one <= 1 for one in value)


_TEXT = (lambda value: isinstance(value, str), "text")
_MAPPING = (lambda value: isinstance(value, dict), "a mapping")
_SIZE = (_is_size, "a height and a width in pixels, or null")
_EXPECTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("model", "family", "precision", "engine", "detector"), _TEXT),
    **dict.fromkeys(("preprocess", "weights", "accuracy", "rewrites", "versions", "quantisation"), _MAPPING),
    **dict.fromkeys(("size", "usual_size"), _SIZE),
    "labels": (_is_names, "a list of names"),
    "input_kind": (lambda value: value in get_args(InputKind), "normalised, uint8 or pixels"),
    "channels": (_is_count, "a number of channels"),
    "embedding": (_is_length, "a length"),
    "classifier_activation": (lambda value: value in get_args(ClassifierActivation), "softmax, sigmoid or l2"),
    "thresholds": (_is_shares, "a list of numbers from 0 to 1"),
}
_REQUIRED = ("model", "family", "labels", "preprocess", "size")


def _damaged(source: str, key: str, what: str) -> WeightsError:
    return WeightsError(f"{source}: its metadata is damaged: {_PREFIX}{key} {what}; export the model again")


def _decode(texts: Mapping[str, str], source: str) -> dict[str, Any]:
    """Return the values by key, each of the type it must have."""
    values = {}
    for key, text in texts.items():
        try:
            values[key] = json.loads(text)
        except (TypeError, ValueError, RecursionError):
            raise _damaged(source, key, "is not JSON") from None
    for key in _REQUIRED:
        if key not in values:
            raise _damaged(source, key, "is missing")
    for key, (is_right, expected) in _EXPECTED.items():
        if key in values and not is_right(values[key]):
            raise _damaged(source, key, f"is {reprlib.repr(values[key])}, not {expected}")
    return values


def _decode_preprocess(values: Mapping[str, Any], source: str) -> PreprocessSpec:
    for key in ("input_size", "test_input_size"):
        if values.get(key) is not None and not _is_count(values[key]):
            raise _damaged(source, "preprocess", f"has the {key} {reprlib.repr(values[key])}, not a number of pixels")
    try:
        return PreprocessSpec(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
    except KeyError as error:
        raise _damaged(source, "preprocess", f"has no {error}") from None
    except (TypeError, ValueError) as error:
        raise _damaged(source, "preprocess", f"is invalid ({error})") from None


def read_onnx_header(path: str | os.PathLike[str]) -> tuple[dict[str, str], int | None]:
    """Read the metadata properties of an ONNX file, and the number of outputs that its first output's shape states.

    The properties decide which engine is loaded. Importing onnx (0.2 s), or ONNX Runtime (0.3 s) for a file made for
    OpenVINO, only to read them would cost more than all else that `effnets predict` does; this costs 3 ms.

    Raises:
        MissingFileError: if the file does not exist.
        WeightsError: if it is not an ONNX file, or damaged.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise WeightsError(f"{path}: is not a regular file; name an exported model")
    try:
        return _parse_model(memoryview(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(f"{path}: no such exported model") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, LookupError, TypeError):
        raise WeightsError(f"{path}: is not an ONNX file, or damaged; export the model again") from None


def _parse_model(data: memoryview) -> tuple[dict[str, str], int | None]:
    # Field numbers of onnx.proto: ModelProto has ir_version 1, graph 7, metadata_props 14, each with key 1 and value 2.
    properties, present, outputs = {}, set(), None
    for number, value in _fields(data):
        present.add(number)
        if number == 14:
            entry = dict(_fields(value))
            properties[str(entry.get(1, b""), "utf-8")] = str(entry.get(2, b""), "utf-8")
        elif number == 7:
            # GraphProto.output 12, ValueInfoProto.type 2, TypeProto.tensor_type 1, .shape 2, .dim 1, .dim_value 1.
            for inner in (12, 2, 1, 2):
                value = next((part for key, part in _fields(value) if key == inner), b"")
            dimensions = [dict(_fields(part)).get(1) for key, part in _fields(value) if key == 1]
            outputs = dimensions[-1] if dimensions else None
    if not {1, 7} <= present:
        raise ValueError("not a model")
    return properties, outputs


def _fields(data: memoryview | bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a protobuf message: an int, or a view of the bytes of all other types."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = 0
        for shift in range(0, 70, 7):
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("not a varint")

    while position < len(data):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
            continue
        length = varint() if tag & 7 == 2 else {1: 8, 5: 4}[tag & 7]
        if position + length > len(data):
            raise ValueError("a field is longer than its message")
        yield tag >> 3, data[position : position + length]
        position += length
