"""The time that a network's arithmetic and memory traffic take at least: the roofline model, layer by layer.

Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785. Free of torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from effnets.spec.plan import BlockPlan, ConvGroups, NetworkPlan
from effnets.utils.arguments import check_size

__all__ = ["Ceiling", "Layer", "bound", "layers_of"]

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What a machine can do at best: `gflops`, 10⁹ floating-point operations/s, two for each multiply-add; `bandwidth`,
    10⁹ bytes/s read and written.
    """

    gflops: float
    bandwidth: float


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's work for one image: multiply-adds, values read and written, and weights, read once for a batch.

    Batch normalisation and activations count nothing: engines do them on the way.
    """

    name: str
    madds: int
    values: int
    weights: int

    def milliseconds(self, ceiling: Ceiling, batch: int = 1, bytes_each: int = 4) -> float:
        """At least, for one image of `batch`: what takes longer, arithmetic or traffic."""
        traffic = (self.values + self.weights / batch) * bytes_each
        return max(2 * self.madds / ceiling.gflops, traffic / ceiling.bandwidth) / 1e6


def bound(layers: list[Layer], ceiling: Ceiling, batch: int = 1, bytes_each: int = 4) -> float:
    """Milliseconds for one image of `batch` below which no engine that runs layer by layer comes."""
    return sum(layer.milliseconds(ceiling, batch, bytes_each) for layer in layers)


def layers_of(plan: NetworkPlan, input_size: int | Size) -> list[Layer]:
    """Every layer of a network, in the order in which they run.

    Raises:
        ArgumentError: `input_size` is no side and no (height, width).
    """
    size = check_size(input_size, "input_size")
    layers = [_convolution("stem", (plan.stem,), size)]
    size = _strided(size, plan.stem.stride)
    for stage_index, blocks in enumerate(plan.stages):
        for index, block in enumerate(blocks):
            layers += _block(f"stages.{stage_index}.{index}", block, size)
            size = _strided(size, block.stride)
    if plan.head:
        layers.append(_convolution("head", (plan.head,), size))
    channels = plan.num_features
    layers.append(Layer("pool", 0, channels * size[0] * size[1] + channels, 0))
    if plan.hidden_channels:
        layers.append(_linear("hidden", channels, plan.hidden_channels))
    if plan.num_classes:
        layers.append(_linear("classifier", plan.pre_logits_channels, plan.num_classes))
    return layers


def _block(name: str, block: BlockPlan, size: Size) -> Iterator[Layer]:
    out_size = _strided(size, block.stride)
    if block.expand:
        yield _convolution(f"{name}.expand", block.expand, size)
    yield _convolution(f"{name}.{'convolution' if block.type == 'cn' else 'depthwise'}", block.convolution, size)
    if squeeze := block.squeeze_channels:
        # The map is read to be averaged, and read and written to be scaled.
        work = 2 * block.expanded_channels * squeeze
        yield Layer(f"{name}.se", work, 3 * block.expanded_channels * out_size[0] * out_size[1], work)
    if block.project:
        yield _convolution(f"{name}.project", block.project, out_size)
    if block.shortcut:
        yield Layer(f"{name}.shortcut", 0, block.in_channels * size[0] * size[1], 0)


def _convolution(name: str, convs: ConvGroups, size: Size) -> Layer:
    """Convolutions side by side on an input of `size`."""
    height, width = _strided(size, convs[0].stride)
    weights = sum(conv.weights for conv in convs)
    read = sum(conv.in_channels for conv in convs) * size[0] * size[1]
    written = sum(conv.out_channels for conv in convs) * height * width
    return Layer(name, weights * height * width, read + written, weights)


def _linear(name: str, inputs: int, outputs: int) -> Layer:
    return Layer(name, inputs * outputs, inputs + outputs, inputs * outputs + outputs)


def _strided(size: Size, stride: int) -> Size:
    return -(-size[0] // stride), -(-size[1] // stride)
