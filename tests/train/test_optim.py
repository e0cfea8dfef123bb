"""Parameter groups of every family."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import effnets
from effnets.data.folder import FileDataset
from effnets.train.optim import (
    RateSchedule,
    ema_decay,
    epoch_repeats,
    layer_depths,
    learning_rate,
    make_optimizer,
    parameter_groups,
)
from effnets.train.recipe import Recipe

MODELS = ["mobilenetv1_025", "mobilenetv1_100_conv", "mobilenetv2_035", "mixnet_s", "rexnet_100", "rexnet_lite_100"]


def groups_of(model, **changes):
    return parameter_groups(model, **{"learning_rate": 1.0, "weight_decay": 0.1, "layer_decay": 0.5, **changes})


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_in_one_group_by_its_depth_and_kind(name):
    model = effnets.create_model(name, num_classes=5)
    groups = groups_of(model)
    modules = dict(model.named_modules())
    named = [parameter for group in groups for parameter in group["names"]]
    assert sorted(named) == sorted(parameter for parameter, _ in model.named_parameters())
    for group in groups:
        for parameter in group["names"]:
            owner, _, kind = parameter.rpartition(".")
            module = modules[owner]
            depthwise = isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels
            spared = kind == "bias" or isinstance(module, nn.BatchNorm2d) or depthwise
            assert group["weight_decay"] == (0.0 if spared else 0.1), parameter
    blocks = sum(len(stage) for stage in model.stages)
    heads = sum(any(True for _ in part.parameters()) for part in (model.head, model.hidden, model.classifier))
    rates = sorted({group["lr"] for group in groups})
    assert rates == [0.5**power for power in range(blocks + heads, -1, -1)]
    rate = {parameter: group["lr"] for group in groups for parameter in group["names"]}
    assert rate["classifier.weight"] == 1.0
    assert rate["stem.conv.weight"] == rates[0]
    assert all(value > rates[0] for parameter, value in rate.items() if not parameter.startswith("stem."))


@pytest.mark.parametrize("name", ["mobilenetv2_035", "mixnet_s", "rexnet_100"])
def test_depths_rise_from_stem_to_classifier(name):
    depths = layer_depths(effnets.create_model(name, num_classes=5))
    order = list(depths.values())
    assert order == sorted(order)
    assert depths["stem.conv.weight"] == 0
    assert depths["classifier.bias"] == max(order)


def test_frozen_parameters_are_in_no_group():
    model = effnets.create_model("mobilenetv1_025", num_classes=5)
    effnets.freeze(model, "backbone")
    named = {name for group in groups_of(model) for name in group["names"]}
    assert named == {"classifier.bias", "classifier.weight"}


def recipe(**changes) -> Recipe:
    return Recipe(**{"model": "mobilenetv1_025", "layer_decay": 0.5, "learning_rate": 0.1, **changes})


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsproptf", "lamb"])
def test_the_rates_of_layers_act(optimizer):
    """One step: what is nearer to the input moves by less, in the ratio of the rates."""
    torch.manual_seed(0)
    network = nn.Sequential()  # anything else counts as one layer
    network.append(nn.Linear(2, 2))
    model = effnets.create_model("mobilenetv1_025", num_classes=5)
    chosen = make_optimizer(model, recipe(optimizer=optimizer, weight_decay=0.0, momentum=0.9))
    assert len({group["lr"] for group in chosen.param_groups}) == 15
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    chosen.step()
    if optimizer != "lamb":  # which scales by the weights' norms
        moved = {name: (value - before[name]).abs().max().item() for name, value in model.named_parameters()}
        assert moved["classifier.bias"] > 1000 * moved["stem.conv.weight"] > 0
    assert len(make_optimizer(network, recipe(optimizer=optimizer)).param_groups) == 2


def test_errors_of_optimizers_name_the_setting():
    model = effnets.create_model("mobilenetv1_025", num_classes=5)
    with pytest.raises(effnets.ArgumentError, match="optimizer is 'adamm', which timm does not have"):
        make_optimizer(model, recipe(optimizer="adamm"))
    with pytest.raises(effnets.ArgumentError, match="optimizer adamw does not take alpha"):
        make_optimizer(model, recipe(optimizer="adamw", alpha=0.9))
    effnets.freeze(model, "backbone")
    model.classifier.requires_grad_(False)
    with pytest.raises(effnets.ArgumentError, match="every layer is frozen; freeze less"):
        make_optimizer(model, recipe())


def rates(steps: int, steps_per_epoch: int, epochs: int, **changes) -> list[float]:
    network = nn.Linear(2, 2)
    chosen = recipe(layer_decay=1.0, **changes)
    optimizer = make_optimizer(network, chosen)
    schedule = RateSchedule(optimizer, chosen, steps_per_epoch, epochs)
    seen = []
    for step in range(steps):
        schedule.set(step)
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


def test_a_cosine_rises_and_falls_to_its_end():
    seen = rates(40, 4, 10, schedule="cosine", warmup_epochs=1, min_learning_rate=0.01)
    assert seen[0] == pytest.approx(0.025)
    assert seen[3] == seen[4] == max(seen) == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(seen[4:]))
    assert seen[-1] == pytest.approx(0.01, abs=1e-3)


def test_a_short_training_warms_up_for_a_quarter_of_it():
    seen = rates(8, 8, 1, schedule="cosine")
    assert seen.index(max(seen)) == 1
    assert seen[-1] < 0.02
    seen = rates(32, 4, 8, schedule="cosine")
    assert seen.index(max(seen)) == 3


def test_an_exponential_falls_in_steps():
    seen = rates(12, 4, 3, schedule="exponential", decay_rate=0.5, decay_epochs=1, warmup_epochs=0)
    assert seen == pytest.approx([0.1] * 4 + [0.05] * 4 + [0.025] * 4)
    seen = rates(10, 4, 3, schedule="exponential", decay_rate=0.9, decay_epochs=0.5, warmup_epochs=0)
    assert seen == pytest.approx([0.1 * 0.9 ** (step // 2) for step in range(10)])
    # Counted from the first step on, as the papers' programs do.
    seen = rates(12, 4, 3, schedule="exponential", decay_rate=0.5, decay_epochs=1, warmup_epochs=0.5)
    assert seen == pytest.approx([0.05, 0.1, 0.1, 0.1, *[0.05] * 4, *[0.025] * 4])


@pytest.mark.parametrize(
    ("name", "rate"), [("mobilenetv1_025", 2e-3), ("mobilenetv1_100", 1e-3), ("mobilenetv2_100", 2e-3 / 5**0.5)]
)
def test_wider_networks_learn_at_lower_rates(name, rate):
    network = effnets.create_model(name, num_classes=5)
    assert learning_rate(Recipe(model=name), network) == pytest.approx(rate)
    optimizer = make_optimizer(network, Recipe(model=name))
    assert max(group["lr"] for group in optimizer.param_groups) == pytest.approx(rate)
    assert learning_rate(Recipe(model=name, learning_rate=0.1), network) == 0.1
    assert learning_rate(Recipe(model=name, freeze="backbone"), network) == 0.01
    assert learning_rate(Recipe(model=name, min_learning_rate=0.01), network) == 0.01


@pytest.mark.parametrize(("steps", "decay"), [(20, 0.0), (200, 0.9), (10_000, 0.998), (20_000, 0.999), (10**6, 0.999)])
def test_the_average_reaches_back_over_a_twentieth_of_the_steps(steps, decay):
    assert ema_decay(Recipe(model="mixnet_s"), steps) == pytest.approx(decay)
    assert ema_decay(Recipe(model="mixnet_s", ema_decay=0.5), steps) == min(0.5, decay)


@pytest.mark.parametrize(
    ("images", "settings", "repeats"),
    [
        (1023, {}, 2),
        (1024, {}, 1),
        (1024, {"accumulate": 2}, 2),
        (10, {"epoch_repeats": 1}, 1),
        (5000, {"epoch_repeats": 3}, 3),
    ],
)
def test_few_images_come_twice_in_an_epoch(images, settings, repeats):
    train = FileDataset(Path(), [""] * images, np.zeros(images, np.int64), ("a", "b"))
    assert epoch_repeats(Recipe(model="mixnet_s", **settings), train) == repeats


def test_a_constant_stays():
    assert rates(12, 4, 3, schedule="constant", warmup_epochs=0) == pytest.approx([0.1] * 12)


def test_a_schedule_depends_on_the_step_alone():
    network, chosen = nn.Linear(2, 2), recipe(layer_decay=1.0)
    optimizer = make_optimizer(network, chosen)
    schedule = RateSchedule(optimizer, chosen, 5, 4)
    forwards = []
    for step in range(20):
        schedule.set(step)
        forwards.append(optimizer.param_groups[0]["lr"])
    schedule.set(7)
    assert optimizer.param_groups[0]["lr"] == forwards[7]
