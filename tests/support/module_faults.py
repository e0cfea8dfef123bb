"""Faults of a conversion: each changes a rewritten tiny network in place, as a converter that errs would."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from effnets.deploy.optimize.sequential_block import SequentialBlock
from effnets.nn.classifier import Classifier
from effnets.nn.layers import Conv2d

Fault = Callable[[Classifier], object]
MODULE_FAULTS: dict[str, Fault] = {}


def fault(function: Fault) -> Fault:
    MODULE_FAULTS[function.__name__] = function
    return function


def convs(network: Classifier, kernel: int) -> list[Conv2d]:
    return [m for m in network.modules() if isinstance(m, Conv2d) and m.kernel_size[0] == kernel]


def weight_of(conv: nn.Module) -> torch.Tensor:
    return conv.weight.data


def replace_activation(network: Classifier, old: type[nn.Module], new: nn.Module) -> None:
    """Replace the first activation of a kind."""
    for block in network.modules():
        for name, layer in block.named_children():
            if isinstance(layer, old):
                setattr(block, name, new)
                return
    raise AssertionError(f"no {old.__name__}")


@fault
def one_weight_changed(network):
    weight = weight_of(convs(network, 1)[2]).view(-1)
    weight[weight.abs().argmax()] *= 1.01


@fault
def one_channel_scaled(network):
    weight_of(convs(network, 1)[1])[3] *= 1.001


@fault
def kernels_transposed(network):
    conv = convs(network, 3)[1]
    conv.weight.data = weight_of(conv).swapaxes(2, 3).contiguous()


@fault
def kernels_flipped(network):
    conv = convs(network, 5)[0]
    conv.weight.data = weight_of(conv).flip(2, 3).contiguous()


@fault
def weights_in_half_precision(network):
    conv = convs(network, 3)[0]
    conv.weight.data = weight_of(conv).half().float()


@fault
def channels_swapped(network):
    weight_of(convs(network, 3)[1])[[0, 1]] = weight_of(convs(network, 3)[1])[[1, 0]]


@fault
def blue_first(network):
    conv = convs(network, 3)[0]
    conv.weight.data = weight_of(conv).flip(1).contiguous()


@fault
def bias_dropped(network):
    convs(network, 1)[0].bias.data.zero_()


@fault
def one_bias_changed(network):
    bias = convs(network, 1)[-1].bias.data
    bias[2] += 0.01 * bias.abs().max()


@fault
def padded_symmetrically(network):
    conv = next(m for m in network.modules() if isinstance(m, Conv2d) and m.pads_by_size)
    conv.pads_by_size, conv.padding = False, (conv.reach // 2, conv.reach // 2)


@fault
def padded_on_the_other_side(network):
    conv = next(m for m in network.modules() if isinstance(m, Conv2d) and m.pads_by_size)
    plain = type(conv).forward
    conv.forward = lambda x: plain(conv, x.flip(2, 3)).flip(2, 3)


@fault
def padded_with_edges(network):
    conv = next(m for m in network.modules() if isinstance(m, Conv2d) and m.padding[0] > 0)
    plain, reach = type(conv).forward, conv.padding[0]
    conv.padding = (0, 0)
    conv.forward = lambda x: plain(conv, nn.functional.pad(x, (reach,) * 4, mode="replicate"))


@fault
def dilated(network):
    conv = next(m for m in network.modules() if isinstance(m, Conv2d) and m.padding[0] == 1)
    conv.dilation, conv.padding = (2, 2), (2, 2)


@fault
def layer_skipped(network):
    replace_activation(network, nn.ReLU6, nn.Identity())


@fault
def clip_forgotten(network):
    replace_activation(network, nn.ReLU6, nn.ReLU())


@fault
def relu_leaks(network):
    replace_activation(network, nn.ReLU, nn.LeakyReLU(0.001))


@fault
def silu_made_hard(network):
    replace_activation(network, nn.SiLU, nn.Hardswish())


@fault
def shortcut_forgotten(network):
    next(m for m in network.modules() if isinstance(m, SequentialBlock) and m.shortcut).shortcut = None


@fault
def gates_left_open(network):
    for block in network.modules():
        if isinstance(block, SequentialBlock) and hasattr(block, "se"):
            block.se = nn.Identity()


@fault
def two_classes_swapped(network):
    weight = network.classifier.weight.data
    weight[[4, 7]] = weight[[7, 4]]


@fault
def classifier_without_bias(network):
    network.classifier.bias.data.zero_()


@fault
def largest_value_pooled(network):
    network.pool.forward = lambda x: x.amax((2, 3))
