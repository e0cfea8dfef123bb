"""Which rewrites are applied: a choice that can be stored, searched over and handed on. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from effnets.errors import ArgumentError

Pointwise = Literal["keep", "group", "dense"]
Shortcut = Literal["concat", "pad", "inplace"]
SqueezeForm = Literal["conv", "vector"]

_RUNS = re.compile(r"[1-9]\d*(\+[1-9]\d*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrites:
    """The rewrites that `effnets.optimize` applies. None of them changes what a network computes in evaluation mode.

    Attributes:
        fold_bn: batch normalisation folded into the convolution before it, in squeeze-and-excite too.
        depthwise: which neighbouring kernel groups of a mixed depthwise convolution become one convolution, the
            smaller kernels zero-padded: ``all``, ``keep`` (none), or how many at a time, as in ``2+3``; a layer with
            another number of groups is then kept. ``cost`` merges where the arithmetic that padding adds costs less
            than the splitting and joining that it saves, at `copy_taps`.
        copy_taps: what it costs to copy one value into or out of a kernel group, in multiply-adds of a depthwise
            convolution, on maps of 14×14 and above; smaller ones lie in nearer caches, and copying costs their share.
        group_multiple: ``cost`` merges all groups where the channels of one are no multiple of this: for such groups
            ONNX Runtime has slow general code alone.
        equal_pointwise: a mixed pointwise convolution of equal groups becomes a grouped one (``group``), a dense one
            with zeros between the groups (``dense``), or stays (``keep``).
        unequal_pointwise: likewise for unequal groups, which no grouped convolution computes: ``dense`` or ``keep``.
        layers: rules for single layers that go before the general ones, as pairs of name and rule:
            ``("stages.1.0.depthwise", "2+2")``, ``("stages.1.0.project", "dense")``.
        align: channels inside of the network are padded with zeros to a multiple of this; 1 leaves them.
        shortcut: how ReXNet's input is added to the first channels of a wider output: by splitting and joining it
            (``concat``), by an addition after padding the input (``pad``), or into the output's memory (``inplace``).
        squeeze_excite: its two layers as 1×1 convolutions (``conv``) or as matrix products (``vector``).
        channels_last: weights and activations in NHWC order; the input may have any.
        fuse: convolutions with their activations as single calls of oneDNN, weights packed ahead. Only where PyTorch
            has it and the network is one in float32 on a CPU; compiled or exported, the network is the plain one.
    """

    fold_bn: bool = True
    depthwise: str = "all"
    copy_taps: int = 0
    group_multiple: int = 1
    equal_pointwise: Pointwise = "group"
    unequal_pointwise: Pointwise = "dense"
    layers: tuple[tuple[str, str], ...] = ()
    align: int = 1
    shortcut: Shortcut = "pad"
    squeeze_excite: SqueezeForm = "conv"
    channels_last: bool = False
    fuse: bool = False

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value, choices = getattr(self, field.name), get_args(hints[field.name])
            if field.name == "layers":
                _check_layers(value)
            elif hints[field.name] in (bool, int, str):
                # A bool is an int to isinstance.
                if type(value) is not hints[field.name]:
                    raise ArgumentError(f"{field.name} is {value!r}; it must be {hints[field.name].__name__}")
            elif value not in choices:
                raise ArgumentError(f"{field.name} is {value!r}; choose one of {', '.join(choices)}")
        _check_depthwise("depthwise", self.depthwise)
        if self.unequal_pointwise == "group":
            raise ArgumentError("unequal_pointwise is 'group', but unequal groups make no grouped convolution")
        if self.align < 1 or self.group_multiple < 1 or self.copy_taps < 0:
            raise ArgumentError(
                f"align is {self.align}, group_multiple {self.group_multiple} and copy_taps {self.copy_taps}; "
                "at least 1, 1 and 0 make sense"
            )

    def rule_of(self, layer: str, default: str) -> str:
        """The rule for the layer of that name, `default` where it has none of its own."""
        return dict(self.layers).get(layer, default)

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "layers": dict(self.layers)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Rewrites:
        """What `to_dict` made; absent keys take their defaults.

        Raises:
            ArgumentError: an unknown key, or a value that a field cannot take.
        """
        known = [field.name for field in fields(cls)]
        if unknown := [key for key in values if key not in known]:
            raise ArgumentError(f"rewrites have no {', '.join(map(repr, unknown))}; they have {', '.join(known)}")
        values = dict(values)
        layers = values.pop("layers", {})
        if not isinstance(layers, Mapping):
            raise ArgumentError(f"layers is {layers!r}; give a mapping of layer names to rules")
        return cls(layers=tuple(layers.items()), **values)


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


# What each engine starts from; measuring on the machine at hand may refine it.
#
# Single mixed depthwise convolutions of MixNet-S, M and L between two pointwise ones, float32, one thread of an AVX-512
# machine, ms an image at batch 1 / 16 (processor time, the pointwise ones included):
#
#   map, stride, kernels, channels      ONNX Runtime split → merged           OpenVINO split → merged
#   112×112, 2, 3.5.7, 192           2.80 / 3.94 → 1.56 / 2.17             2.51 / 2.80 → 1.98 / 2.11
#   56×56, 2, 3.5.7.9, 240           0.68 / 1.58 → 0.48 / 0.83             0.54 / 1.12 → 0.52 / 0.76
#   28×28, 1, 3.5, 336               0.39 / 0.94 → 0.23 / 0.54             0.35 / 0.62 → 0.31 / 0.43
#   14×14, 1, 3.5.7, 480             0.12 / 0.15 → 0.10 / 0.14             0.13 / 0.18 → 0.15 / 0.18
#   14×14, 1, 3.5.7.9, 480           0.19 / 0.28 → 0.22 / 0.24             0.25 / 0.27 → 0.33 / 0.28
#   14×14, 1, 3.5.7.9, 360           0.86 / 0.89 → 0.17 / 0.18             … / 0.15 → … / 0.20   (groups of 90)
#   7×7, 1, 3.5.7.9, 1584            0.17 / 0.17 → 0.25 / 0.22             0.14 / 0.15 → 0.17 / 0.19
#
# Merging some neighbours of three groups or more hardly ever won: what is split at all is copied whole. Two pointwise
# groups cost ONNX Runtime more as a grouped convolution than as a dense one (MixNet-M whole, 11.7 / 12.2 and 11.3 /
# 11.5 ms), and OpenVINO less (10.3 / 9.8 and 11.0 / 10.5). With two threads, which wait for each other at every split
# and join, OpenVINO too gains from a higher price of copies than these figures ask for: at 20 instead of 9, MixNet-S is
# 1.04 / 1.01 and M 1.05 / 0.95 to 1.03 times as fast, L as before.
PRESETS: dict[str, Rewrites] = {
    "torch": Rewrites(shortcut="inplace", squeeze_excite="vector", channels_last=True, fuse=True),
    "torch-compile": Rewrites(channels_last=True),
    "onnxruntime": Rewrites(depthwise="cost", copy_taps=20, group_multiple=4, equal_pointwise="dense", align=8),
    "openvino": Rewrites(depthwise="cost", copy_taps=20),
    "none": Rewrites(
        fold_bn=False, depthwise="keep", equal_pointwise="keep", unequal_pointwise="keep", shortcut="concat"
    ),
}


def preset(engine: str) -> Rewrites:
    """What `engine` starts from, of `effnets.engines.base.ENGINES`.

    Raises:
        ArgumentError: no preset is for it.
    """
    base = {"aotinductor": "torch-compile", "onnxruntime-cuda": "onnxruntime", "onnxruntime-tensorrt": "onnxruntime"}
    name = base.get(engine, engine)
    if name not in PRESETS:
        raise ArgumentError(f"engine is {engine!r}, for which there is no preset; choose from {', '.join(PRESETS)}")
    return PRESETS[name]
