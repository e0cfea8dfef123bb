"""Parameter groups: how fast each layer learns, and which weights are held small."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

from torch import nn

from effnets.nn.classifier import Classifier

__all__ = ["ParameterGroup", "layer_depths", "parameter_groups"]


class ParameterGroup(TypedDict):
    """What torch's optimisers take, with the names of the parameters for people."""

    params: list[nn.Parameter]
    names: list[str]
    lr: float
    weight_decay: float


def parameter_groups(
    model: nn.Module, *, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[ParameterGroup]:
    """The parameters of `model` that learn, by layer, from the input on, each layer's in up to two groups.

    The learning rate falls by `layer_decay` with every block from the classifier down, for what lies near the input is
    general and what lies near the output is not (arXiv:1801.06146, section 3.2). There is no weight decay on
    depthwise kernels (MobileNet, arXiv:1704.04861, section 3), which have few weights and lose accuracy by it, nor on
    normalisation and biases, which it does not regularise.

    Args:
        model: a classifier; or any other module, which counts as one layer.
        learning_rate: of the last layer.
        weight_decay: of the weights that have any.
        layer_decay: factor from one layer to the one below, above 0 and up to 1.
    """
    depths = layer_depths(model)
    last = max(depths.values(), default=0)
    spared = {id(parameter) for parameter in _without_decay(model)}
    groups: dict[tuple[int, bool], ParameterGroup] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        key = depths[name], id(parameter) not in spared
        if key not in groups:
            groups[key] = ParameterGroup(
                params=[],
                names=[],
                lr=learning_rate * layer_decay ** (last - key[0]),
                weight_decay=weight_decay if key[1] else 0.0,
            )
        groups[key]["params"].append(parameter)
        groups[key]["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def layer_depths(model: nn.Module) -> dict[str, int]:
    """The layer of each parameter by its name: 0 the stem, then each block, the head, and last the classifier."""
    layers: list[tuple[str, nn.Module]] = [("", model)]
    if isinstance(model, Classifier):
        layers = [("stem.", model.stem)]
        for index, stage in enumerate(model.stages):
            assert isinstance(stage, nn.Sequential), "the builder's stages are sequences of blocks"
            layers += [(f"stages.{index}.{number}.", block) for number, block in enumerate(stage)]
        layers += [("head.", model.head), ("hidden.", model.hidden), ("classifier.", model.classifier)]
        layers = [(prefix, layer) for prefix, layer in layers if any(True for _ in layer.parameters())]
    return {
        prefix + name: depth for depth, (prefix, layer) in enumerate(layers) for name, _ in layer.named_parameters()
    }


def _without_decay(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1 and module.groups == module.in_channels
        for parameter in module.parameters(recurse=False):
            if depthwise or parameter.ndim <= 1:
                yield parameter
