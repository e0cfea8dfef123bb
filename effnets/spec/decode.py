"""The values of an entry, of architectures and of weights alike: of what kind each is, and how it is decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_args

from effnets.errors import ConfigError
from effnets.spec.block_string import decode_block, encode_block, override_block
from effnets.spec.specs import (
    ACTIVATIONS,
    BlockSpec,
    ChannelSchedule,
    DepthRounding,
    Interpolation,
    ModelSpec,
    Padding,
    PreprocessSpec,
    Scaling,
)
from effnets.spec.yaml import Node
from effnets.utils.arguments import MAX_BLOCKS, RANGES

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryKey:
    """What one key of an entry holds.

    `kind` is ``integer``, ``number``, ``boolean``, ``text``, ``block`` (a block string, or a piece of one),
    ``blocks`` (a list of them), ``numbers`` (one for every channel, or one for all) or ``schedule``.
    """

    kind: str
    doc: str
    choices: tuple[str, ...] = ()


SCHEDULE_KEYS: Mapping[str, EntryKey] = MappingProxyType(
    {
        "start": EntryKey(kind="integer", doc="Channels of the first block."),
        "growth": EntryKey(kind="integer", doc="What the ramp adds over the whole depth."),
        "inclusive": EntryKey(kind="boolean", doc="True: the last block reaches start + growth exactly."),
    }
)

_EXPECTED = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "text": "text",
    "block": "a piece of a block string, such as k3.5",
    "blocks": "a list of block strings",
    "numbers": "a number, or a list of one for each channel",
    "schedule": "a mapping such as {start: 16, growth: 180}, or null",
}


def decode_mapping(
    where: str, path: Path, mapping: Mapping[str, Node], known: Mapping[str, EntryKey]
) -> dict[str, Any]:
    """The values of a mapping whose keys must be among the `known` ones.

    Raises:
        ConfigError: unknown key or wrong type, with file, line, `where` and what belongs there.
    """
    values = {}
    for key, node in mapping.items():
        if key not in known:
            raise ConfigError(
                f"{path}:{node.line}:{node.column}: {where}: unknown key {key!r}; keys are {', '.join(known)}"
            )
        values[key] = _decode_value(f"{where}: {key}", path, node, known[key])
    return values


def _decode_value(where: str, path: Path, node: Node, key: EntryKey) -> Any:
    """Check the type of one value and decode it; the error says where it stands and what belongs there."""
    value = node.value
    match key.kind:
        case "integer" if isinstance(value, int) and not isinstance(value, bool):
            return value
        case "number" if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        case "boolean" if isinstance(value, bool):
            return value
        case "text" if isinstance(value, str) and (not key.choices or value in key.choices):
            return value
        case "block" if isinstance(value, str):
            return value
        case "blocks" if isinstance(value, list):
            if len(value) > MAX_BLOCKS:
                raise ConfigError(
                    f"{path}:{node.line}:{node.column}: {where}: {len(value):,} rows are too many; "
                    f"the limit is {MAX_BLOCKS:,}, and a row repeats with r"
                )
            return tuple(_decode_row(where, path, number, row) for number, row in enumerate(value, start=1))
        case "numbers" if isinstance(value, int | float) and not isinstance(value, bool):
            return (float(value),) * 3
        case "numbers" if isinstance(value, list):
            number_key = EntryKey(kind="number", doc="")
            return tuple(_decode_value(where, path, item, number_key) for item in value)
        case "schedule" if value is None:
            return None
        case "schedule" if isinstance(value, dict):
            return _decode_schedule(where, path, node, value)
    expected = f"one of {', '.join(key.choices)}" if key.choices else _EXPECTED[key.kind]
    raise ConfigError(f"{path}:{node.line}:{node.column}: {where} is {_shown(value)}; it must be {expected}")


def _decode_row(where: str, path: Path, number: int, row: Node) -> BlockSpec:
    if not isinstance(row.value, str):
        raise ConfigError(
            f"{path}:{row.line}:{row.column}: {where}: row {number} is {_shown(row.value)}; it must be a block string"
        )
    return placed(path, row.line, f"{where}: row {number}", decode_block, row.value)


def _decode_schedule(where: str, path: Path, node: Node, mapping: Mapping[str, Node]) -> ChannelSchedule:
    values = decode_mapping(where, path, mapping, SCHEDULE_KEYS)
    for key in ("start", "growth"):
        if key not in values:
            raise ConfigError(f"{path}:{node.line}: {where}: {key!r} is missing; write {{start: 16, growth: 180}}")
    return placed(path, node.line, where, lambda: ChannelSchedule(**values))


def _shown(value: object) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def placed(path: Path, line: int, where: str, make: Callable[..., Result], *args: Any) -> Result:
    """Call `make`, and let a complaint about a value say where in the file it stands."""
    try:
        return make(*args)
    except ConfigError as error:
        raise ConfigError(f"{path}:{line}: {where}: {error}") from None


ENTRY_KEYS: Mapping[str, EntryKey] = MappingProxyType(
    {
        "base": EntryKey(kind="text", doc="The model this one inherits everything from that it does not state."),
        "family": EntryKey(kind="text", doc="Family name; by default the name of the file that holds the first base."),
        "stem": EntryKey(kind="integer", doc="Channels of the first 3×3 convolution."),
        "stem_stride": EntryKey(kind="integer", doc="Stride of the first convolution: 2, or 1 for small images."),
        "stem_scaling": EntryKey(
            kind="text",
            doc="How the width multiplier acts on the stem: not, multiply, or multiply where it is above 1.",
            choices=get_args(Scaling),
        ),
        "blocks": EntryKey(kind="blocks", doc="The block strings, in order; a stage is a run of rows of one width."),
        "every_block": EntryKey(kind="block", doc="A piece of a block string laid over every row, such as k3.5.7."),
        "channels": EntryKey(kind="schedule", doc="ReXNet's linear schedule, for rows that state no channels."),
        "head": EntryKey(kind="integer", doc="Channels of the 1×1 convolution after the last block; 0 for none."),
        "head_scaling": EntryKey(
            kind="text", doc="How the width multiplier acts on the head.", choices=get_args(Scaling)
        ),
        "head_hidden": EntryKey(kind="integer", doc="Channels of a 1×1 convolution after pooling (ReXNet-lite)."),
        "width": EntryKey(kind="number", doc="Width multiplier α of all channels."),
        "depth": EntryKey(kind="number", doc="Multiplier of the repeats of each stage."),
        "depth_rounding": EntryKey(
            kind="text", doc="How multiplied repeats are rounded.", choices=get_args(DepthRounding)
        ),
        "depth_fixed_ends": EntryKey(kind="boolean", doc="Leave the depth of the first and last stage as it is."),
        "divisor": EntryKey(kind="integer", doc="Channels are rounded to a multiple of this."),
        "activation": EntryKey(kind="text", doc="Activation of every block that states none.", choices=ACTIVATIONS),
        "padding": EntryKey(kind="text", doc="symmetric (PyTorch) or same (TensorFlow).", choices=get_args(Padding)),
        "bn_eps": EntryKey(kind="number", doc="Epsilon of every batch normalisation."),
        "bn_momentum": EntryKey(kind="number", doc="Momentum of the running statistics, in PyTorch's meaning."),
        "drop_rate": EntryKey(kind="number", doc="Dropout before the classifier while training."),
        "num_classes": EntryKey(kind="integer", doc="Outputs of the classifier."),
        "input_size": EntryKey(kind="integer", doc="Side of the square input in pixels."),
        "resolution": EntryKey(kind="number", doc="Resolution multiplier ρ of the input size."),
        "crop_pct": EntryKey(kind="number", doc="The centre crop's share of the resized image's side."),
        "interpolation": EntryKey(kind="text", doc="Of the resize.", choices=get_args(Interpolation)),
        "test_input_size": EntryKey(kind="integer", doc="Input size at which the weights do best, if another."),
        "test_crop_pct": EntryKey(kind="number", doc="Crop share at which the weights do best, if another."),
        "mean": EntryKey(kind="numbers", doc="Mean of each input channel, of values in 0..1."),
        "std": EntryKey(kind="numbers", doc="Standard deviation of each input channel."),
    }
)

# Keys that steer the decoding and are no fields of a spec.
_DIRECTIVES = frozenset({"base", "every_block", "resolution"})
_PREPROCESS_FIELDS = frozenset(field.name for field in fields(PreprocessSpec))


def decode_entry(path: Path, name: str, node: Node, inherited: Mapping[str, Any]) -> dict[str, Any]:
    """The entry's values laid over the `inherited` ones; `every_block` acts on the rows as they then are.

    Raises:
        ConfigError: unknown key, wrong type or bad block string, with file, line, model and the fix.
    """
    assert isinstance(node.value, dict), "effnets.spec.models checks this"
    own = decode_mapping(f"{name}", path, node.value, ENTRY_KEYS)
    values = {**inherited, **{key: value for key, value in own.items() if key not in ("base", "every_block")}}
    if "every_block" in own:
        line = node.value["every_block"].line
        if not values.get("blocks"):
            raise ConfigError(
                f"{path}:{line}: {name}: every_block has no rows to act on; state 'blocks', or a 'base' that does"
            )
        values["blocks"] = tuple(
            placed(path, line, f"{name}: every_block", override_block, block, own["every_block"])
            for block in values["blocks"]
        )
    return values


def make_spec(name: str, values: Mapping[str, Any]) -> ModelSpec:
    """Put decoded values together.

    Raises:
        ConfigError: something is missing or out of range.
    """
    for key in ("stem", "blocks"):
        if key not in values:
            raise ConfigError(f"{key!r} is missing; state it, or a 'base' that does")
    preprocess = {key: value for key, value in values.items() if key in _PREPROCESS_FIELDS}
    if "resolution" in values:
        nominal = preprocess.get("input_size", PreprocessSpec().input_size)
        preprocess["input_size"] = _scale_input(nominal, values["resolution"])
    model = {key: value for key, value in values.items() if key not in _PREPROCESS_FIELDS and key not in _DIRECTIVES}
    return ModelSpec(name=name, preprocess=PreprocessSpec(**preprocess), **model)


def encode_entry(spec: ModelSpec) -> dict[str, Any]:
    """The entry, in plain data, that decodes to `spec`: what it states without a base, defaults left out."""
    entry: dict[str, Any] = {"family": spec.family, "stem": spec.stem}
    entry["blocks"] = [encode_block(block) for block in spec.blocks]
    if spec.channels is not None:
        entry["channels"] = asdict(spec.channels)
    for part in (spec, spec.preprocess):
        for field in fields(part):
            value = getattr(part, field.name)
            if field.name in ENTRY_KEYS and field.name not in entry and value != field.default and value is not None:
                entry[field.name] = list(value) if isinstance(value, tuple) else value
    return entry


def _scale_input(nominal: int, resolution: float) -> int:
    least, most = RANGES["resolution"]
    if not least <= resolution <= most:
        raise ConfigError(
            f"resolution is {resolution:g}; it multiplies the input size, and must lie in {least:g}..{most:g}"
        )
    return round(nominal * resolution)
