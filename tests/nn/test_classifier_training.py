"""Training the classifier: dropout, stochastic depth, gradients and batch statistics."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import effnets
from effnets.nn.layers import DropPath
from tests.support import images
from tests.support.networks import ONE_A_FAMILY, create


def test_dropout_acts_in_training_only():
    x = images(2, 3, 64, 64)
    for rate, differ in ((0.5, True), (0.0, False)):
        model = create(drop_rate=rate)
        first, second = model.train()(x), model(x)
        assert torch.equal(first, second) != differ
        model.eval()
        assert torch.equal(model(x), model(x))


def test_dropout_is_the_models_own_unless_given():
    assert create("rexnet_100", device="meta").dropout.p == effnets.load_spec("rexnet_100").drop_rate == 0.2
    assert create("rexnet_100", device="meta", drop_rate=0.0).dropout.p == 0
    assert create("mixnet_s", device="meta").dropout.p == 0


@pytest.mark.parametrize("name", ["mobilenetv2_035", "rexnet_100"])
def test_stochastic_depth_acts_in_training_only(name):
    x = images(4, 3, 64, 64)
    model = create(name, drop_path_rate=0.5, drop_rate=0.0)
    assert not torch.equal(model.train()(x), model(x))
    plain = create(name, drop_rate=0.0)
    assert torch.equal(plain.train()(x), plain(x))
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("name", ["mobilenetv2_100", "mixnet_s", "rexnet_100"])
def test_stochastic_depth_rises_to_the_last_block(name):
    model = create(name, device="meta", drop_path_rate=0.3)
    blocks = [block for stage in model.stages for block in stage]
    assert len(blocks) > 10
    for index, block in enumerate(blocks):
        expected = 0.3 * index / (len(blocks) - 1)
        assert isinstance(block.drop_path, DropPath) == (block.shortcut and index > 0)
        if isinstance(block.drop_path, DropPath):
            assert block.drop_path.rate == pytest.approx(expected)


@pytest.mark.parametrize("name", ONE_A_FAMILY)
def test_every_parameter_learns(name):
    """One backward pass: all gradients finite, and nothing that an in-place activation has overwritten is needed."""
    model = create(name, num_classes=5, drop_path_rate=0.1).train()
    x = images(8, 3, 64, 64).requires_grad_()
    features = model.forward_features(x)
    features.retain_grad()
    before = features.detach().clone()
    nn.functional.cross_entropy(model.forward_head(features), torch.arange(8) % 5).backward()
    assert torch.equal(features.detach(), before)
    for tensor in (x, features):
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{key} has no gradient"
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), f"{key} has a gradient of zero"


def test_batch_statistics_move_by_the_specs_momentum():
    spec = dataclasses.replace(effnets.load_spec("mobilenetv1_025"), bn_momentum=0.3, bn_eps=0.01)
    torch.manual_seed(0)
    model = effnets.create_model(spec).train()
    assert {(bn.momentum, bn.eps) for bn in model.modules() if isinstance(bn, nn.BatchNorm2d)} == {(0.3, 0.01)}
    x = images(4, 3, 64, 64)
    with torch.no_grad():
        batch = model.stem.conv(x)
        model(x)
    assert torch.allclose(model.stem.bn.running_mean, 0.3 * batch.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(model.stem.bn.running_var, 0.7 + 0.3 * batch.var((0, 2, 3)), atol=1e-5)
    before = model.stem.bn.running_mean.clone()
    model.eval()(x)
    assert torch.equal(model.stem.bn.running_mean, before)
