"""Freezing: no gradients, statistics that stand still, and what copies and wrappers make of it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import effnets
from effnets.nn.freeze import parse_until
from tests.support import images, shake

MODELS = ["mobilenetv1_025", "mobilenetv2_035", "mixnet_s", "rexnet_100", "rexnet_lite_100"]


def learning(model: nn.Module) -> set[str]:
    """First components of the names of what learns."""
    return {".".join(name.split(".")[:2]) for name, value in model.named_parameters() if value.requires_grad}


def small(name: str, **arguments) -> effnets.Classifier:
    torch.manual_seed(0)
    return effnets.create_model(name, num_classes=5, **arguments)


@pytest.mark.parametrize("name", MODELS)
def test_until_is_inclusive_and_what_lies_above_learns(name):
    model = small(name)
    stages = len(model.stages)
    effnets.freeze(model, "stem")
    assert not any(part.startswith("stem") for part in learning(model))
    assert {f"stages.{index}" for index in range(stages)} <= learning(model)
    effnets.freeze(model, 2)
    assert {part for part in learning(model) if part.startswith("stages")} == {
        f"stages.{index}" for index in range(2, stages)
    }
    effnets.freeze(model, "stages")
    assert not any(part.startswith("stages") for part in learning(model))
    effnets.freeze(model, "backbone")
    assert learning(model) == {"classifier.weight", "classifier.bias"}
    effnets.freeze(model, None)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(type(part) is nn.BatchNorm2d for part in model.modules() if isinstance(part, nn.BatchNorm2d))


@pytest.mark.parametrize("name", MODELS)
def test_a_frozen_backbone_computes_the_same_while_training(name):
    model = shake(small(name), size=64)
    effnets.freeze(model, "backbone")
    model.train()
    x = images(4, 3, 64, 64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    features = model.forward_features(x)
    model.eval()
    assert torch.equal(features, model.forward_features(x))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_statistics_above_follow_the_images():
    model = shake(small("mobilenetv2_035"), size=64)
    effnets.freeze(model, 3)
    before = {name: value.clone() for name, value in model.state_dict().items() if "running_mean" in name}
    model.train()
    model(images(4, 3, 64, 64))
    moved = {name for name, value in before.items() if not torch.equal(model.state_dict()[name], value)}
    assert moved == {name for name in before if not name.startswith(("stem", "stages.0", "stages.1", "stages.2"))}


def test_bn_train_lets_statistics_follow_and_keeps_scale_and_shift():
    model = shake(small("mobilenetv2_035"), size=64)
    effnets.freeze(model, "backbone", bn="train")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    model(images(4, 3, 64, 64)).sum().backward()
    moved = {name for name, value in before.items() if not torch.equal(model.state_dict()[name], value)}
    assert moved == {name for name in before if "running" in name or "tracked" in name}
    assert all(value.grad is None for name, value in model.named_parameters() if "classifier" not in name)


def test_copies_and_wrappers_stay_frozen():
    model = small("mobilenetv1_025")
    wrapped = nn.DataParallel(model)
    effnets.freeze(wrapped, "backbone")
    twin = copy.deepcopy(model).train()
    assert not any(part.training for part in twin.modules() if isinstance(part, nn.BatchNorm2d))
    assert twin.dropout.training
    assert list(twin.state_dict()) == list(small("mobilenetv1_025").state_dict())


def test_a_pyramid_is_all_backbone():
    model = effnets.create_model("mobilenetv1_025", features_only=True)
    effnets.freeze(model, "backbone")
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("until", [0, -1, 99, True, "stage", "all", 1.0])
def test_unknown_parts_are_named(until):
    with pytest.raises(effnets.ArgumentError, match="a number of stages from 1 to 5, 'stages', 'backbone'"):
        effnets.freeze(small("mobilenetv1_025"), until)


def test_unknown_choices_are_named():
    with pytest.raises(effnets.ArgumentError, match="bn is 'frozen'; choose one of eval, train"):
        effnets.freeze(small("mobilenetv1_025"), "stem", bn="frozen")
    with pytest.raises(effnets.ArgumentError, match="freeze is '-1'; choose none, stem"):
        parse_until("-1")
    assert [parse_until(text) for text in ("none", "stem", "3", "backbone")] == [None, "stem", 3, "backbone"]
