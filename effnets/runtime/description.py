"""What an exported file says of itself: model, labels, preprocessing, provenance. Free of torch.

In an ONNX file these are metadata properties whose keys begin with ``effnets.`` and whose values are JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from effnets.errors import ConfigError, WeightsError
from effnets.spec import PreprocessSpec

__all__ = ["FORMAT", "Description", "InputKind"]

InputKind = Literal["normalised", "uint8"]

FORMAT = 1  # raised when files of old no longer say what new programs need
_PREFIX = "effnets."


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
        return {_PREFIX + key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], source: str) -> Description:
        """What `to_properties` made; keys without the prefix are somebody else's.

        Raises:
            WeightsError: the properties are not effnets', or damaged; names `source`.
        """
        own = {key.removeprefix(_PREFIX): text for key, text in properties.items() if key.startswith(_PREFIX)}
        if "format" not in own:
            raise WeightsError(f"{source}: was not exported by effnets: it says nothing of labels and preprocessing")
        try:
            values = {key: json.loads(text) for key, text in own.items()}
            if values.pop("format") != FORMAT:
                raise WeightsError(f"{source}: was exported by another version of effnets; export the model again")
            preprocess = _preprocess(values.pop("preprocess"))
            labels = tuple(values.pop("labels"))
            size, usual = values.pop("size"), values.pop("usual_size", None)
            known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
            description = cls(
                preprocess=preprocess,
                labels=labels,
                size=tuple(size) if size else None,
                usual_size=tuple(usual) if usual else None,
                **known,
            )
            if description.input_kind not in ("normalised", "uint8") or not all(isinstance(x, str) for x in labels):
                raise ValueError("input kind or labels")
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            if isinstance(error, WeightsError):
                raise
            raise WeightsError(f"{source}: its metadata is damaged ({error}); export the model again") from None
        return description

    def resized(self, size: int | tuple[int, int] | None) -> Description:
        """The same, for another image size; None leaves it."""
        if size is None:
            return self
        return replace(self, size=size if isinstance(size, tuple) else (size, size))


def _preprocess(values: Mapping[str, Any]) -> PreprocessSpec:
    return PreprocessSpec(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
