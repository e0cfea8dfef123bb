"""`Rewrites`: which rewrites are applied, and the presets of the engines. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from effnets.errors import ArgumentError

Pointwise = Literal["keep", "group", "dense"]
Shortcut = Literal["concat", "pad", "inplace"]
SqueezeForm = Literal["conv", "vector"]

_RUNS = re.compile(r"[1-9]\d*(\+[1-9]\d*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrites:
    """The rewrites that `effnets.optimize` applies; they do not change what a network computes in evaluation mode.

    Attributes:
        fold_bn: fold batch normalization into the convolution before it, in squeeze-and-excite too.
        depthwise: which neighboring kernel groups of a mixed depthwise convolution become one convolution, the
            smaller kernels padded with zeros: ``all``, ``keep`` (no groups), or how many at a time, as in ``2+3``,
            which keeps layers with another number of groups. ``cost`` merges where the arithmetic that padding adds
            costs less than the splitting and joining that it saves, at `copy_taps`.
        copy_taps: the cost of copying one value into or out of a kernel group, in multiply-adds of a depthwise
            convolution, on maps of 14×14 and above; it falls with the pixels of smaller maps, which fit nearer caches.
        group_multiple: ``cost`` merges all groups if the channels of one are not a multiple of this, because ONNX
            Runtime has only slow general code for such groups.
        depthwise_taps: for which numbers of values in a depthwise kernel the engine has fast code. A kernel with more
            than any becomes a sum of kernels with some of its rows each, as many as cost least; empty leaves it whole.
        equal_pointwise: a mixed pointwise convolution of equal groups becomes a grouped one (``group``), a dense one
            with zeros between the groups (``dense``), or stays (``keep``).
        unequal_pointwise: likewise for unequal groups, which no grouped convolution computes: ``dense`` or ``keep``.
        layers: rules for single layers that override the general ones, as pairs of name and rule:
            ``("stages.1.0.depthwise", "2+2")``, ``("stages.1.0.project", "dense")``.
        align: pad channels inside the network with zeros to a multiple of this; 1 leaves them.
        shortcut: how ReXNet's input is added to the first channels of a wider output: by splitting and joining it
            (``concat``), by an addition after padding the input (``pad``), or into the output's memory (``inplace``).
        squeeze_excite: its two layers as 1×1 convolutions (``conv``) or as matrix products (``vector``).
        channels_last: weights and activations in NHWC order; the input may have any.
        fuse: convolutions and their activations as single calls of oneDNN, with weights packed ahead. Applies to
            networks in float32 on a CPU, if PyTorch has it; compiled or exported, the network is the plain one.
        mixed_kernel: mixed depthwise convolutions with their activations as one operator, as of
            `effnets.nn.mixed_depthwise`. Applies on CUDA, at shapes where its Triton kernel is measured to be faster;
            elsewhere the layers are the plain ones.
        micro_batch_mb: on a CPU, the layers of a classifier take as many images of a batch at a time as keep each
            feature map within so many megabytes; 0: all of them.
    """

    fold_bn: bool = True
    depthwise: str = "all"
    copy_taps: int = 0
    group_multiple: int = 1
    depthwise_taps: tuple[int, ...] = ()
    equal_pointwise: Pointwise = "group"
    unequal_pointwise: Pointwise = "dense"
    layers: tuple[tuple[str, str], ...] = ()
    align: int = 1
    shortcut: Shortcut = "pad"
    squeeze_excite: SqueezeForm = "conv"
    channels_last: bool = False
    fuse: bool = False
    mixed_kernel: bool = False
    micro_batch_mb: int = 0

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value, choices = getattr(self, field.name), get_args(hints[field.name])
            if field.name == "layers":
                _check_layers(value)
            elif field.name == "depthwise_taps":
                if not isinstance(value, tuple) or not all(type(taps) is int and taps > 0 for taps in value):
                    raise ArgumentError(
                        f"depthwise_taps is {value!r}; give a tuple of positive numbers, such as (9, 25)"
                    )
            elif hints[field.name] in (bool, int, str):
                # A bool is an int to isinstance.
                if type(value) is not hints[field.name]:
                    raise ArgumentError(f"{field.name} is {value!r}; it must be {hints[field.name].__name__}")
            elif value not in choices:
                raise ArgumentError(f"{field.name} is {value!r}; choose one of {', '.join(choices)}")
        _check_depthwise("depthwise", self.depthwise)
        if self.unequal_pointwise == "group":
            raise ArgumentError("unequal_pointwise is 'group', but unequal groups make no grouped convolution")
        for name, least in (("align", 1), ("group_multiple", 1), ("copy_taps", 0), ("micro_batch_mb", 0)):
            if getattr(self, name) < least:
                raise ArgumentError(f"{name} is {getattr(self, name)}; it must be at least {least}")

    def rule_of(self, layer: str, default: str) -> str:
        """Return the rule for the layer of that name, or `default`."""
        return dict(self.layers).get(layer, default)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {**asdict(self), "layers": dict(self.layers), "depthwise_taps": list(self.depthwise_taps)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Rewrites:
        """Return what `to_dict` was called on; absent keys take their defaults.

        Raises:
            ArgumentError: if a key is unknown, or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        if unknown := [key for key in values if key not in known]:
            raise ArgumentError(f"rewrites have no {', '.join(map(repr, unknown))}; they have {', '.join(known)}")
        values = dict(values)
        layers = values.pop("layers", {})
        if not isinstance(layers, Mapping):
            raise ArgumentError(f"layers is {layers!r}; give a mapping of layer names to rules")
        taps = values.pop("depthwise_taps", ())
        return cls(
            layers=tuple(layers.items()),
            depthwise_taps=tuple(taps) if isinstance(taps, list) else taps,
            **values,
        )


def _check_depthwise(where: str, rule: str) -> None:
    if rule not in ("all", "keep", "cost") and not _RUNS.fullmatch(rule):
        raise ArgumentError(f"{where} is {rule!r}; give all, keep, cost, or how many groups at a time, such as 2+2")


def _check_layers(layers: object) -> None:
    pairs = layers if isinstance(layers, tuple) else (None,)
    if not all(isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(x, str) for x in pair) for pair in pairs):
        raise ArgumentError(f"layers is {layers!r}; give pairs of a layer's name and its rule")
    for name, rule in pairs:
        if name.endswith(".depthwise"):
            _check_depthwise(f"the rule of {name}", rule)
        elif rule not in get_args(Pointwise):
            raise ArgumentError(f"the rule of {name} is {rule!r}; choose one of {', '.join(get_args(Pointwise))}")


# Where each engine starts; `effnets.deploy.tune` may improve on it. docs/performance.md has the measurements.
PRESETS: dict[str, Rewrites] = {
    "torch": Rewrites(shortcut="inplace", squeeze_excite="vector", channels_last=True, fuse=True, micro_batch_mb=8),
    "torch-compile": Rewrites(channels_last=True),
    # Not measured yet: `scripts/gpu_report.py` does.
    "torch-cuda": Rewrites(
        depthwise="keep",
        equal_pointwise="dense",
        shortcut="inplace",
        squeeze_excite="vector",
        channels_last=True,
        mixed_kernel=True,
    ),
    "onnxruntime": Rewrites(depthwise="cost", copy_taps=20, group_multiple=4, equal_pointwise="dense", align=8),
    "openvino": Rewrites(depthwise="cost", copy_taps=20),
    # XNNPACK has fast code for depthwise kernels of 9 and of 25 values alone: larger ones are split, none is merged.
    "litert": Rewrites(depthwise="keep", depthwise_taps=(9, 25)),
    "executorch": Rewrites(depthwise="keep", depthwise_taps=(9, 25)),
    # In WebAssembly the zeros that larger kernels add cost more than fewer calls save (docs/web.md).
    "onnxruntime-web": Rewrites(depthwise="keep"),
    # Not measured: Core ML is on Apple's systems alone. The depthwise convolutions stay as small as they are.
    "coreml": Rewrites(depthwise="keep"),
    "none": Rewrites(
        fold_bn=False, depthwise="keep", equal_pointwise="keep", unequal_pointwise="keep", shortcut="concat"
    ),
}


def preset(engine: str) -> Rewrites:
    """Return the preset of `engine`, of `effnets.engines.base.ENGINES`; raises ArgumentError if it has none."""
    base = {"aotinductor": "torch-compile", "onnxruntime-cuda": "onnxruntime", "onnxruntime-tensorrt": "onnxruntime"}
    name = base.get(engine, engine)
    if name not in PRESETS:
        raise ArgumentError(f"engine is {engine!r}, for which there is no preset; choose from {', '.join(PRESETS)}")
    return PRESETS[name]
