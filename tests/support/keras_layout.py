"""Keras' HDF5 layouts, written with h5py alone as Keras 2.8 and 3.15 were seen to write them.

Layer names come from the lists here and the weights in module order, so that nothing is shared with the dialect.
"""

from __future__ import annotations

from collections import defaultdict

import h5py
from torch import nn

V1 = ["conv1", "conv1_bn"]
for _number in range(1, 14):
    V1 += [f"conv_dw_{_number}", f"conv_dw_{_number}_bn", f"conv_pw_{_number}", f"conv_pw_{_number}_bn"]
V1 += ["conv_preds"]

V2 = ["Conv1", "bn_Conv1"]
for _block in ("expanded_conv", *(f"block_{number}" for number in range(1, 17))):
    if _block != "expanded_conv":
        V2 += [f"{_block}_expand", f"{_block}_expand_BN"]
    V2 += [f"{_block}_depthwise", f"{_block}_depthwise_BN", f"{_block}_project", f"{_block}_project_BN"]
V2 += ["Conv_1", "Conv_1_bn", "predictions"]

# The names in the MobileNetV2 files that Keras publishes: those of github.com/JonathanCMitchell/mobilenet_v2_keras.
OLD_V2 = ["Conv1", "bn_Conv1", *("mobl0_conv_0_depthwise", "bn0_conv_0_bn_depthwise")]
OLD_V2 += ["mobl0_conv_0_project", "bn0_conv_0_bn_project"]
for _number in range(1, 17):
    for _part in ("expand", "depthwise", "project"):
        OLD_V2 += [f"mobl{_number}_conv_{_number}_{_part}", f"bn{_number}_conv_{_number}_bn_{_part}"]
OLD_V2 += ["Conv_1", "Conv_1_bn", "Logits"]


def layers(model: nn.Module, names: list[str]) -> dict[str, dict[str, object]]:
    """Keras' layers with their weights, kernels turned Keras' way."""
    found = {}
    modules = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]
    for name, module in zip(names, modules, strict=True):
        weight = module.weight.detach()
        if isinstance(module, nn.BatchNorm2d):
            weights = {"gamma": weight, "beta": module.bias, "moving_mean": module.running_mean}
            weights["moving_variance"] = module.running_var
        elif isinstance(module, nn.Linear):
            kernel = weight.T[None, None] if name == "conv_preds" else weight.T
            weights = {"kernel": kernel, "bias": module.bias}
        elif module.groups > 1:
            weights = {"depthwise_kernel": weight.permute(2, 3, 0, 1)}
        else:
            weights = {"kernel": weight.permute(2, 3, 1, 0)}
        found[name] = {key: value.detach().numpy() for key, value in weights.items()}
    return found


def write_layers(path, found, style: str = "{layer}/{weight}:0", under: str = "", keras_3: bool = False) -> None:
    """Layers at the root or `under` a group; Keras 3's whole models have other weight names."""
    with h5py.File(path, "w") as file:
        root = file.create_group(under) if under else file
        root.attrs["layer_names"] = [name.encode() for name in ("input_1", *found)]
        root.attrs["backend"], root.attrs["keras_version"] = b"tensorflow", b"2.8.0"
        root.create_group("input_1").attrs["weight_names"] = []
        root.create_group("top_level_model_weights").attrs["weight_names"] = []
        for layer, weights in found.items():
            group = root.create_group(layer)
            paths = []
            for weight, value in weights.items():
                weight = "kernel" if keras_3 and weight == "depthwise_kernel" else weight
                paths.append(style.format(layer=layer, weight=weight))
                group.create_dataset(paths[-1], data=value)
            group.attrs["weight_names"] = [name.encode() for name in paths]


def write_keras_3(path, found) -> None:
    """Keras 3's ``.weights.h5``: layers counted by class, weights numbered."""
    counts: dict[str, int] = defaultdict(int)
    with h5py.File(path, "w") as file:
        file.create_group("vars")
        file.create_group("layers/re_lu/vars").attrs["name"] = "conv1_relu"
        for layer, weights in found.items():
            kind = "batch_normalization" if "gamma" in weights else "dense" if layer == "predictions" else "conv2d"
            if "depthwise_kernel" in weights:
                kind = "depthwise_conv2d"
            suffix = f"_{counts[kind]}" if counts[kind] else ""
            counts[kind] += 1
            group = file.create_group(f"layers/{kind}{suffix}/vars")
            group.attrs["name"] = layer
            for number, value in enumerate(weights.values()):
                group.create_dataset(str(number), data=value)
