"""What an exported file says of itself: model, labels, preprocessing, provenance. Free of torch.

In an ONNX file these are metadata properties whose keys begin with ``effnets.`` and whose values are JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from effnets.errors import WeightsError
from effnets.runtime.onnx_file import count_outputs, read_properties
from effnets.runtime.properties import PREFIX, damaged, decode, decode_preprocess
from effnets.spec.specs import PreprocessSpec

__all__ = ["FORMAT", "Description", "InputKind"]

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
        engine: of `effnets.runtime.engine.ENGINES`, that it was made for and `load_engine` takes first; empty for any.
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
