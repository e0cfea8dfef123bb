"""The names of Keras Applications' MobileNet and MobileNetV2, as `effnets.weights.files` reads and writes them.

A name is the layer's and the weight's, ``conv_dw_1/depthwise_kernel``. Kernels are height, width, input, output;
depthwise ones as height, width, channel, 1. MobileNet's classifier is a 1×1 convolution, MobileNetV2's a dense layer.

A layer has up to three names: Keras' own of today, which is written; that of the MobileNetV2 files of 2018, which Keras
still publishes; and that of Keras 3's ``.weights.h5``, its class and how many of this class come before it.

Keras' MobileNet pads every strided depthwise convolution below and to the right, also where the side is odd and
TensorFlow's SAME would pad all round: its logits are SAME's at multiples of 32 pixels, and its own at other sizes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import ClassVar

from torch import Tensor

from effnets.spec.plan import NetworkPlan
from effnets.weights.dialects.interface import (
    Dialect,
    block_modules,
    collect,
    conv_bn,
    is_mobilenet_v1,
    is_mobilenet_v2,
    no_such_network,
)

_SEPARABLE = conv_bn(depthwise=("conv_dw_{0}", "conv_dw_{0}_bn"), project=("conv_pw_{0}", "conv_pw_{0}_bn"))
_INVERTED_RESIDUAL = {
    "expand.conv": ("{block}_expand", "mobl{number}_conv_{number}_expand"),
    "expand.bn": ("{block}_expand_BN", "bn{number}_conv_{number}_bn_expand"),
    "depthwise.conv": ("{block}_depthwise", "mobl{number}_conv_{number}_depthwise"),
    "depthwise.bn": ("{block}_depthwise_BN", "bn{number}_conv_{number}_bn_depthwise"),
    "project.conv": ("{block}_project", "mobl{number}_conv_{number}_project"),
    "project.bn": ("{block}_project_BN", "bn{number}_conv_{number}_bn_project"),
}

_NORMALISATION = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
# Keras 3 calls every kernel a kernel.
_WEIGHTS = {"kernel": "weight", "depthwise_kernel": "weight", "bias": "bias"}
_WEIGHTS |= {foreign: own for own, foreign in _NORMALISATION.items()}

_DENSE, _KERNEL, _DEPTHWISE = (1, 0), (3, 2, 0, 1), (2, 3, 0, 1)
_INVERSE = {_KERNEL: (2, 3, 1, 0), _DEPTHWISE: (2, 3, 0, 1)}

# How many convolutions, depthwise ones and normalizations MobileNet has, with its classifier and without; MobileNetV2.
_COUNTS = ((15, 13, 27), (14, 13, 27), (35, 17, 52))


class Keras(Dialect):
    """Keras Applications'."""

    name = "keras"
    suffixes = (".h5", ".hdf5")
    settings: ClassVar[Mapping[str, str | float]] = {"padding": "same", "bn_eps": 1e-3, "activation": "relu6"}

    def claims(self, keys: Collection[str]) -> bool:
        mobilenet_v1 = "conv1/kernel" in keys and "conv_pw_1/kernel" in keys
        mobilenet_v2 = "Conv1/kernel" in keys and "Conv_1/kernel" in keys
        layers = {key.partition("/")[0] for key in keys}
        counts = Counter(layer.rstrip("0123456789").rstrip("_") for layer in layers)
        counted = (counts["conv2d"], counts["depthwise_conv2d"], counts["batch_normalization"]) in _COUNTS
        return mobilenet_v1 or mobilenet_v2 or counted

    def module_names(self, plan: NetworkPlan) -> Mapping[str, str]:
        return {module: names[0] for module, names in _layers(plan).items()}

    def to_native(self, tensors: Mapping[str, Tensor], plan: NetworkPlan) -> dict[str, Tensor]:
        modules = {name: module for module, names in _layers(plan).items() for name in names}
        native = []
        for key, tensor in tensors.items():
            layer, _, weight = key.partition("/")
            if layer in modules and weight in _WEIGHTS:
                module = modules[layer]
                native.append((f"{module}.{_WEIGHTS[weight]}", _kernel_to_native(module, tensor)))
            else:
                native.append((key, tensor))
        return collect(native)

    def from_native(self, tensors: Mapping[str, Tensor], plan: NetworkPlan) -> dict[str, Tensor]:
        layers = self.module_names(plan)
        named = []
        for key, tensor in tensors.items():
            module, _, own = key.rpartition(".")
            if own == "num_batches_tracked":  # Keras keeps no count
                continue
            weight = own
            if module.endswith(".bn"):
                weight = _NORMALISATION[own]
            elif own == "weight":
                weight = "depthwise_kernel" if _layout(module) == _DEPTHWISE else "kernel"
                if module == "classifier" and plan.head is None:
                    tensor = tensor[:, :, None, None]
                tensor = tensor.permute(_INVERSE[_layout(module)] if tensor.ndim == 4 else _DENSE)
            named.append((f"{layers[module]}/{weight}", tensor))
        return collect(named)


def _kernel_to_native(module: str, tensor: Tensor) -> Tensor:
    """A tensor that has not the dimensions of a kernel stays as it is: the merge compares shapes."""
    if module == "classifier" and tensor.ndim == 4 and tensor.shape[:2] == (1, 1):
        tensor = tensor[0, 0]
    if module == "classifier" and tensor.ndim == 2:
        return tensor.permute(_DENSE)
    return tensor.permute(_layout(module)) if tensor.ndim == 4 else tensor


def _layout(module: str) -> tuple[int, int, int, int]:
    return _DEPTHWISE if module.endswith("depthwise.conv") else _KERNEL


def _layers(plan: NetworkPlan) -> dict[str, tuple[str, ...]]:
    """Native module names to the names of Keras' layers, in Keras' order."""
    layers: dict[str, tuple[str, ...]]
    if is_mobilenet_v1(plan, depth=13):
        layers, classifier = {"stem.conv": ("conv1",), "stem.bn": ("conv1_bn",)}, "conv2d"
        for number, place, _, part in block_modules(plan):
            layers[f"{place}.{part}"] = (_SEPARABLE[part].format(number + 1),)
        layers["classifier"] = ("conv_preds",)
    elif is_mobilenet_v2(plan, depth=17):
        layers, classifier = {"stem.conv": ("Conv1",), "stem.bn": ("bn_Conv1",)}, "dense"
        for number, place, _, part in block_modules(plan):
            block = f"block_{number}" if number else "expanded_conv"
            names = (name.format(block=block, number=number) for name in _INVERTED_RESIDUAL[part])
            layers[f"{place}.{part}"] = tuple(names)
        layers |= {"head.conv": ("Conv_1",), "head.bn": ("Conv_1_bn",), "classifier": ("predictions", "Logits")}
    else:
        raise no_such_network("Keras Applications", "MobileNetV1 and MobileNetV2")
    before: Counter[str] = Counter()
    for module, named in layers.items():
        kind = "batch_normalization" if module.endswith(".bn") else "conv2d"
        kind = {"classifier": classifier}.get(module, "depthwise_conv2d" if _layout(module) == _DEPTHWISE else kind)
        layers[module] = (*named, f"{kind}_{before[kind]}" if before[kind] else kind)
        before[kind] += 1
    return layers
