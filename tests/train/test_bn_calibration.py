"""Batch statistics measured anew: the same function, now with something to train by."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import effnets
from effnets.inference.transform import create_transform
from effnets.train.bn_calibration import adapt_statistics, has_identity_statistics, restore_statistics
from tests.support import SHARED, error_between, images, needs_shared, shake

MODELS = ["mobilenetv1_025", "mobilenetv2_035", "mixnet_s", "rexnet_100", "rexnet_lite_100"]


def without_statistics(name: str) -> effnets.Classifier:
    """A network whose normalisations are folded away, as those of deployed files are."""
    torch.manual_seed(0)
    model = effnets.create_model(name, num_classes=5)
    shake(model, bn_high=1.2, size=64)
    for norm in (part for part in model.modules() if isinstance(part, nn.BatchNorm2d)):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        with torch.no_grad():
            norm.bias.sub_(norm.running_mean * scale)
            norm.weight.copy_(scale * (0.999 + norm.eps) ** 0.5)
            norm.running_mean.zero_()
            norm.running_var.fill_(0.999)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_the_function_stays_and_the_statistics_are_those_of_the_images(name):
    # In double precision: rounding grows in networks of random weights, and would hide an error.
    model = without_statistics(name).double()
    assert has_identity_statistics(model)
    x = images(16, 3, 64, 64).double()
    inputs = {}
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    with torch.no_grad():
        before = model(x)
        assert restore_statistics(model, x.split(4)) == 16
        assert not has_identity_statistics(model)
        for norm in norms:
            norm.register_forward_pre_hook(lambda norm, seen: inputs.__setitem__(norm, seen[0].clone()))
        assert error_between(before, model(x)) < 1e-9
    for norm in norms:
        assert torch.allclose(norm.running_mean, inputs[norm].mean((0, 2, 3)), rtol=1e-6, atol=1e-9)
        assert torch.allclose(norm.running_var, inputs[norm].var((0, 2, 3)), rtol=1e-6, atol=1e-9)


def test_modes_are_kept():
    model = without_statistics("mobilenetv1_025").train()
    restore_statistics(model, [images(4, 3, 64, 64)])
    assert all(part.training for part in model.modules())


def test_statistics_move_towards_those_of_the_images():
    model = shake(effnets.create_model("rexnet_lite_100", num_classes=5), size=64).double()
    # An input to many a layer hangs on what those before it normalise by: here by the batch.
    x = images(12, 3, 64, 64).double()
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    before = copy.deepcopy(model.state_dict())
    inputs = {}
    by_batch = copy.deepcopy(model).train()
    for module, norm in zip((m for m in by_batch.modules() if isinstance(m, nn.BatchNorm2d)), norms, strict=True):
        module.register_forward_pre_hook(lambda _, seen, norm=norm: inputs.setdefault(norm, seen[0].clone()))
    with torch.no_grad():
        by_batch(x)
    assert adapt_statistics(model, [x, x[:1]], own=36) == 12  # a single image has no statistics of a batch
    after = model.state_dict()
    for name, norm in ((n, m) for n, m in model.named_modules() if m in inputs):
        mean, variance = inputs[norm].mean((0, 2, 3)), inputs[norm].var((0, 2, 3))
        assert torch.allclose(after[f"{name}.running_mean"], 0.75 * before[f"{name}.running_mean"] + 0.25 * mean)
        assert torch.allclose(after[f"{name}.running_var"], 0.75 * before[f"{name}.running_var"] + 0.25 * variance)
    others = [name for name in before if not name.endswith(("running_mean", "running_var"))]
    assert all(torch.equal(before[name], after[name]) for name in others)
    assert len(inputs) == len(norms)


def test_nothing_seen_changes_nothing():
    model = shake(effnets.create_model("mobilenetv1_025", num_classes=5), size=64).train()
    before = copy.deepcopy(model.state_dict())
    assert adapt_statistics(model, [images(1, 3, 64, 64)], own=0) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(part.training for part in model.modules())


def test_real_statistics_are_no_identity():
    model = shake(effnets.create_model("mobilenetv1_025", num_classes=5), size=64)
    assert not has_identity_statistics(model)
    assert not has_identity_statistics(nn.Linear(2, 2))


@needs_shared
def test_a_real_dequantised_mobilenetv2_survives_training_mode():
    model = effnets.create_model(
        "tf_mobilenetv2_100", weights=SHARED / "weights" / "tf_mobilenetv2_100_224.timm.safetensors"
    ).eval()
    model.dropout.p = 0.0
    transform = create_transform(model)
    photos = torch.stack([transform(path) for path in sorted((SHARED / "data" / "photos").glob("*.jpg"))])
    assert has_identity_statistics(model)
    with torch.no_grad():
        answers = model(photos)
        destroyed = copy.deepcopy(model).train()(photos)  # which changes the statistics
        restore_statistics(model, photos.split(5))
        restored, trained = model.eval()(photos), model.train()(photos)
    assert error_between(answers, restored) < 1e-4
    assert torch.equal(answers.argmax(1), trained.argmax(1))
    assert (answers.argmax(1) == destroyed.argmax(1)).float().mean() < 0.5
