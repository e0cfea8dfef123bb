"""What PyTorch executes faster on a CPU: weights packed for the shapes that come, and batches in parts."""

from __future__ import annotations

import copy
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn

import effnets
from effnets.deploy.optimize.align import TrimChannels
from effnets.deploy.optimize.micro_batches import MicroBatchClassifier
from effnets.deploy.optimize.rewrites import PRESETS
from effnets.deploy.optimize.sequential_block import SequentialBlock
from effnets.deploy.optimize.torch_layers import OneDNNConv, can_fuse
from effnets.errors import ArgumentError
from effnets.nn.classifier import Classifier
from effnets.nn.layers import Conv2d
from tests.support import error_between, images, shake
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


needs_onednn = pytest.mark.skipif(not can_fuse(), reason="this PyTorch has no oneDNN")


@needs_onednn
def test_weights_are_packed_for_each_shape_and_few_are_kept():
    network = optimized("mobilenetv1_025")
    layer = next(module for module in network.modules() if isinstance(module, OneDNNConv))
    packed = []
    for count in (1, 4, 1, 2):
        network(images(count, 3, 64, 64))
        packed.append([shape[0] for shape in layer._packed[2]])
    assert packed == [[1], [1, 4], [1, 4], [1, 4, 2]]
    for count in (5, 6, 3):
        network(images(count, 3, 64, 64))
    assert [shape[0] for shape in layer._packed[2]] == [3]
    with torch.no_grad():
        layer.conv.weight.mul_(2)
    network(images(1, 3, 64, 64))
    assert [shape[0] for shape in layer._packed[2]] == [1]


def test_weights_put_in_place_of_others_are_packed():
    """Also where they get the address of those that were there."""
    network, x = optimized("mobilenetv1_025"), images(1, 3, 32, 32)
    for factor in (1.0, 3.0, -2.0):
        network(x)
        for times in (0.0, factor):
            state = {name: value + times for name, value in network.state_dict().items()}
            network.load_state_dict(state, assign=True)
            del state
        assert error_between(*outputs(copy.deepcopy(network), x), *outputs(network, x)) == 0


def test_threads_share_a_network():
    network = optimized("mobilenetv1_025")
    inputs = [images(count, 3, 32, 32) for count in (1, 2, 3, 4, 5, 6, 7)]
    wanted = [outputs(network, x)[0] for x in inputs]

    def infer(turn: int) -> bool:
        return torch.allclose(outputs(network, inputs[turn % 7])[0], wanted[turn % 7], atol=1e-5)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(infer, range(140)))


def test_a_copy_made_in_inference_mode_computes_the_same():
    network, x = optimized("mixnet_s"), images(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(copy.deepcopy(network)(x), network(x))


class Doubled(Classifier):
    """A classifier with a forward of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


class Shifted(nn.Sequential):
    """A stage with a forward of its own."""

    def forward(self, x):
        return super().forward(x) + 1


def test_code_of_the_user_runs():
    x = images(8, 3, 160, 160)
    network = copy.deepcopy(shaken("mobilenetv1_025")).float()
    network.__class__ = Doubled
    assert error_between(*outputs(network, x), *outputs(effnets.optimize(network), x)) <= 1e-4
    network = copy.deepcopy(shaken("mobilenetv1_025")).float()
    network.stages[1] = Shifted(*network.stages[1])
    assert error_between(*outputs(network, x), *outputs(effnets.optimize(network), x)) <= 1e-4
    network = copy.deepcopy(shaken("mobilenetv1_025")).float()
    rewritten = effnets.optimize(network)
    for made in (network, rewritten):
        made.stages[1].register_forward_hook(lambda _, __, output: output / 2)
    assert error_between(*outputs(network, x), *outputs(rewritten, x)) <= 1e-4


def test_a_convolution_of_the_user_and_inputs_of_other_shapes():
    network = copy.deepcopy(shaken("mobilenetv1_025")).float()
    network.stem.conv = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
    rewritten, x = effnets.optimize(network), images(3, 3, 64, 64)
    assert error_between(*outputs(network, x), *outputs(rewritten, x)) <= 1e-4
    for wrong in (x[:, :2], x[:, :, :0]):
        with pytest.raises(RuntimeError) as ours:
            network(wrong)
        with pytest.raises(RuntimeError) as theirs:
            rewritten(wrong)
        assert str(theirs.value) == str(ours.value)


def test_parts_of_a_batch_with_aligned_channels():
    network = optimized("mobilenetv1_025", align=24, micro_batch_mb=1)
    assert any(isinstance(module, TrimChannels) for module in network.modules())
    x = images(7, 3, 128, 128)
    assert error_between(*outputs(optimized("mobilenetv1_025"), x), *outputs(network, x)) <= 1e-4


def _standardize(network):
    class Standardized(Conv2d):
        def forward(self, x):
            return super().forward(x) * 2

    network.stages[0][0].depthwise.conv.__class__ = Standardized


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_standardize, r"stages\.0\.0\.depthwise\.conv has a forward of its own, .*; use the network as it is"),
        (lambda network: setattr(network.stem.conv, "stride", (2, 1)), r"stem\.conv has stride \(2, 1\)"),
        (lambda network: setattr(network.stem.conv, "padding", (0, 0)), r"stem\.conv has padding \(0, 0\)"),
        (lambda network: setattr(network.stem.conv, "padding_mode", "circular"), "has padding_mode circular"),
        (lambda network: network.stages[1][0].register_forward_hook(print), r"stages\.1\.0 has a hook, .* remove it"),
    ],
)
def test_what_rewrites_would_lose_is_refused(change, message):
    network = effnets.create_model("mobilenetv1_025")
    change(network)
    with pytest.raises(ArgumentError, match=message):
        effnets.optimize(network)


TABLE = """
mine:
  base: mixnet_xs_32px
  blocks: [ir_r2_k3_s1_e2_c8_se0.5_nre, cn_r2_k3_s1_c8_nre_skip]
"""


def test_derivatives_are_those_of_the_network(tmp_path):
    (tmp_path / "mine.yaml").write_text(TABLE)
    network = shake(effnets.create_model(tmp_path / "mine.yaml"), size=32)
    rewritten, x, direction = effnets.optimize(network), images(2, 3, 32, 32), images(2, 3, 32, 32).flip(0)
    gradients = []
    for made in (network.eval().requires_grad_(False), rewritten):
        given = x.clone().requires_grad_()
        made(given).square().sum().backward()
        gradients.append(given.grad)
    assert error_between(*gradients) <= 1e-3
    tangents = [torch.func.jvp(made, (x,), (direction,))[1] for made in (network, rewritten)]
    assert tangents[0].abs().max() > 1e-3
    assert error_between(*tangents) <= 1e-3


@needs_onednn
def test_whether_layers_are_fused_does_not_depend_on_where_it_is_asked():
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert can_fuse.__wrapped__()
    finally:
        torch.set_default_dtype(torch.float32)
