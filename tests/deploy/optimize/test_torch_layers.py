"""What PyTorch executes faster on a CPU: weights packed for the shapes that come, and batches in parts."""

from __future__ import annotations

import copy
import io
from dataclasses import replace

import pytest
import torch
from torch import nn

import effnets
from effnets.deploy.optimize.micro_batches import MicroBatchClassifier
from effnets.deploy.optimize.rewrites import PRESETS
from effnets.deploy.optimize.sequential_block import SequentialBlock
from effnets.deploy.optimize.torch_layers import OneDNNConv, can_fuse
from tests.support import error_between, images
from tests.support.rewriting import EXACT, outputs, shaken

# The networks of `shaken` are in float64 and shared: these are copies.
FAMILIES = ("mobilenetv1_025", "mobilenetv2_035", "tf_mixnet_s", "rexnet_100")


def optimized(name: str, **changes) -> nn.Module:
    return effnets.optimize(copy.deepcopy(shaken(name)).float(), replace(PRESETS["torch"], **changes))


def batches_of(network: nn.Module, x: torch.Tensor) -> list[list[int]]:
    """How many images each block takes at each of its calls."""
    seen: list[list[int]] = []
    for block in (module for module in network.modules() if isinstance(module, SequentialBlock)):
        calls: list[int] = []
        seen.append(calls)
        block.register_forward_hook(lambda _, inputs, __, calls=calls: calls.append(len(inputs[0])))
    with torch.inference_mode():
        network(x)
    return seen


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_in_parts_computes_the_same(name):
    whole, parts = (optimized(name, fuse=False, micro_batch_mb=size).double() for size in (0, 1))
    x = images(7, 3, 65, 97).double()
    assert error_between(*outputs(whole, x), *outputs(parts, x)) <= EXACT
    assert outputs(parts, x[:0])[0].shape == (0, 1000)


def test_layers_with_large_maps_take_fewer_images():
    network = optimized("mobilenetv1_100")
    seen = batches_of(network, images(16, 3, 224, 224))
    assert all(sum(calls) == 16 for calls in seen)
    # 64 channels of 112×112 in the first block: 3.2 MB an image, of which two are below 8 MB.
    assert seen[1] == [2] * 8
    assert [max(calls) for calls in seen] == sorted(max(calls) for calls in seen)
    assert seen[-1] == [16]
    for size in (1, 32):
        small = optimized("mobilenetv1_100")
        assert all(calls == [2] for calls in batches_of(small, images(2, 3, size, size)))


def test_a_pyramid_and_a_gradient_see_whole_batches():
    pyramid = effnets.create_model("mobilenetv1_025", features_only=True)
    assert not any(isinstance(part, MicroBatchClassifier) for part in effnets.optimize(pyramid).modules())
    network = optimized("mobilenetv1_025", micro_batch_mb=1)
    x = images(8, 3, 128, 128).requires_grad_()
    calls = []
    network.stages[1].register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    network(x).sum().backward()
    assert calls == [8]
    assert x.grad is not None


def test_copies_and_saved_networks_go_on_in_parts():
    network = optimized("mobilenetv1_025", micro_batch_mb=1)
    saved = io.BytesIO()
    torch.save(network, saved)
    saved.seek(0)
    for made in (network, copy.deepcopy(network), torch.load(saved, weights_only=False)):
        assert batches_of(made, images(4, 3, 160, 160))[0] == [2, 2]


def test_the_classifier_of_a_rewritten_network_can_be_replaced():
    network = optimized("mobilenetv1_025")
    network.reset_classifier(3)
    assert network(images(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.skipif(not can_fuse(), reason="this PyTorch has no oneDNN")
def test_weights_are_packed_for_each_shape_and_few_are_kept():
    network = optimized("mobilenetv1_025")
    layer = next(module for module in network.modules() if isinstance(module, OneDNNConv))
    packed = []
    for count in (1, 4, 1, 2):
        network(images(count, 3, 64, 64))
        packed.append([shape[0] for shape in layer._packed])
    assert packed == [[1], [1, 4], [1, 4], [1, 4, 2]]
    network(images(3, 3, 64, 64))
    assert [shape[0] for shape in layer._packed] == [3]
    with torch.no_grad():
        layer.conv.weight.mul_(2)
    network(images(1, 3, 64, 64))
    assert [shape[0] for shape in layer._packed] == [1]
