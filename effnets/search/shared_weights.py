"""Weights that all candidates of a search space share: layers as large as any candidate's, of which each takes a part.

A candidate is the ordinary network of its spec. Its channels are the first of the shared ones, a kernel is the middle
of the largest, and of the groups of a mixed convolution each takes its own range of channels, so that 3×3, {3×3, 5×5}
and larger mixtures of one block share their weights. Blocks are matched by their row in the table and their number
within it, not by their stage, which depends on what is chosen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from effnets.errors import ConfigError
from effnets.nn.classifier import Classifier
from effnets.nn.layers import Conv2d, Linear, MixedConv
from effnets.nn.utils import initialize


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer with parameters.

    Attributes:
        name: in its network. place: in every candidate, such as ``rows_3_0_depthwise_conv``.
        module: the layer. start: its first output and input channel within a mixed convolution.
    """

    name: str
    place: str
    module: Conv2d | nn.BatchNorm2d | Linear
    start: tuple[int, int] = (0, 0)


class SharedWeights(nn.Module):
    """The shared layers, newly initialized; they are never called.

    Args:
        networks: candidates among which each layer has its largest size; they may be on the meta device.
    """

    def __init__(self, networks: Iterable[Classifier]) -> None:
        super().__init__()
        places: dict[str, list[_Layer]] = defaultdict(list)
        for network in networks:
            for layer in _layers(network):
                places[layer.place].append(layer)
        self.layers = nn.ModuleDict({place: _largest(layers) for place, layers in places.items()})
        initialize(self)

    def parts(self, network: Classifier) -> dict[str, Tensor]:
        """Return the parameters of a candidate by name: parts of the shared ones, through which gradients flow.

        Raises:
            ConfigError: if a layer of `network` is larger than the shared one.
        """
        parts = {}
        for layer in _layers(network):
            shared = self.layers[layer.place]
            index = _index(layer, shared)
            for name, parameter in layer.module.named_parameters():
                whole = getattr(shared, name)
                part = whole[index[: whole.ndim]]
                if part.shape != parameter.shape:
                    raise ConfigError(
                        f"{network.spec.name}: {layer.name}.{name} is {tuple(parameter.shape)}, larger than the shared "
                        f"{tuple(whole.shape)}: several choices enlarge it only together; offer fewer of them"
                    )
                parts[f"{layer.name}.{name}"] = part
        return parts


def _layers(network: Classifier) -> Iterator[_Layer]:
    """All layers of `network` with parameters; the convolutions of a mixed one have the place of the whole."""
    blocks = _block_places(network)
    mixed: dict[str, tuple[str, tuple[int, int]]] = {}
    for name, module in network.named_modules():
        if isinstance(module, MixedConv):
            outputs = inputs = 0
            for number, conv in enumerate(module):
                assert isinstance(conv, Conv2d), "the builder's are of these"
                mixed[f"{name}.{number}"] = name, (outputs, inputs)
                outputs, inputs = outputs + conv.out_channels, inputs + conv.in_channels
        elif isinstance(module, Conv2d | nn.BatchNorm2d | Linear):
            whole, start = mixed.get(name, (name, (0, 0)))
            parts = whole.split(".")
            place = [blocks[tuple(parts[1:3])], *parts[3:]] if parts[0] == "stages" else parts
            yield _Layer(name, "_".join(place), module, start)


def _block_places(network: Classifier) -> dict[tuple[str, ...], str]:
    """The place of each block by its stage and its number within it: its row, and its number within that."""
    seen: Counter[int] = Counter()
    places: dict[tuple[str, ...], str] = {}
    for stage, blocks in enumerate(network.plan.stages):
        for number, block in enumerate(blocks):
            places[str(stage), str(number)] = f"rows_{block.row}_{seen[block.row]}"
            seen[block.row] += 1
    return places


def _largest(layers: list[_Layer]) -> nn.Module:
    """Make a layer that has all `layers` as parts."""
    modules = [layer.module for layer in layers]
    if norms := [module for module in modules if isinstance(module, nn.BatchNorm2d)]:
        return nn.BatchNorm2d(max(norm.num_features for norm in norms), track_running_stats=False)
    if linears := [module for module in modules if isinstance(module, Linear)]:
        return Linear(max(each.in_features for each in linears), max(each.out_features for each in linears))
    convs = [(layer.module, layer.start) for layer in layers if isinstance(layer.module, Conv2d)]
    outputs = max(conv.out_channels + start[0] for conv, start in convs)
    depthwise = any(conv.groups > 1 for conv, _ in convs)
    return Conv2d(
        in_channels=outputs if depthwise else max(conv.in_channels + start[1] for conv, start in convs),
        out_channels=outputs,
        kernel_size=max(conv.reach for conv, _ in convs) + 1,
        groups=outputs if depthwise else 1,
        bias=any(conv.bias is not None for conv, _ in convs),
    )


def _index(layer: _Layer, shared: nn.Module) -> tuple[slice, ...]:
    """Which part of the shared weight is the layer's."""
    module, (outputs, inputs) = layer.module, layer.start
    if isinstance(module, nn.BatchNorm2d):
        return (slice(module.num_features),)
    if isinstance(module, Linear):
        return slice(module.out_features), slice(module.in_features)
    assert isinstance(shared, Conv2d), "a place has layers of one kind"
    depthwise = shared.groups > 1
    margin = (shared.reach - module.reach) // 2
    # Dilated kernels take the weights at the same distances from the middle as plain ones of their reach.
    taps = slice(max(margin, 0), margin + module.reach + 1, module.dilation[0])
    return (
        slice(outputs, outputs + module.out_channels),
        slice(None) if depthwise else slice(inputs, inputs + module.in_channels),
        taps,
        taps,
    )
