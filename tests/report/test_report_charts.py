"""Confusion matrices of any size that can be read, and class-activation maps that are those of the paper."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

import effnets
from effnets.errors import ArgumentError
from effnets.report.charts import confusion_matrix
from effnets.report.images import class_activation_maps
from tests.support import images, shake


def matrix_of(count: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    return np.diag(generator.integers(20, 50, count)) + generator.binomial(1, 0.05, (count, count))


@pytest.mark.parametrize("count", [2, 20, 100])
def test_confusion_matrices_can_be_read(count):
    names = [f"class number {index}" for index in range(count)]
    chart = confusion_matrix(matrix_of(count), names)
    assert chart
    # At its own width no name is smaller than 8 pixels, and the page holds it.
    assert chart.width <= 1056
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", chart.svg)]
    assert min(sizes) >= 8
    for name in names:
        assert chart.svg.count(f">{name}<") == 2
    with Image.open(io.BytesIO(chart.png)) as image:
        assert abs(image.width - 2 * chart.width) <= 2
    assert len(chart.svg) < 1_500_000


def test_too_many_classes_are_no_chart():
    assert confusion_matrix(matrix_of(101), ["x"] * 101) is None


def test_counts_stand_in_the_cells_of_small_ones():
    chart = confusion_matrix(np.array([[31, 2], [0, 57]]), ("a", "b"))
    assert chart
    assert [number for number in ("31", "2", "0", "57") if f">{number}<" in chart.svg] == ["31", "2", "57"]
    assert chart.text == "Confusion matrix of 2 classes: 88 of 90 answers lie on the diagonal"


def test_a_class_without_images():
    assert confusion_matrix(np.array([[3, 0], [0, 0]]), ("a", "b"))


def test_long_names_are_shortened_and_dollars_are_no_formula():
    chart = confusion_matrix(np.eye(2, dtype=int), ("$a_1$", "n" * 200))
    assert chart
    assert ">$a_1$<" in chart.svg
    assert f">{'n' * 25}…<" in chart.svg


@pytest.mark.parametrize("name", ["mobilenetv1_025", "mobilenetv2_035", "mixnet_s", "rexnet_100"])
def test_the_mean_of_a_map_is_the_logit(name):
    """Zhou et al. 2016, equations 1 and 2: average pooling and the classifier may be exchanged."""
    model = shake(effnets.create_model(name, num_classes=5), size=64)
    inputs = images(2, 3, 96, 64)
    maps = class_activation_maps(model, inputs, [[0, 3], [4, 1]])
    assert maps.shape == (2, 2, 3, 2)
    with torch.inference_mode():
        logits = model(inputs)
    expected = (
        torch.stack([logits[0, [0, 3]], logits[1, [4, 1]]]) - model.classifier.bias[torch.tensor([[0, 3], [4, 1]])]
    )
    found = torch.from_numpy(maps).mean((2, 3))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-4 * logits.abs().max().item())


@pytest.mark.parametrize("name", ["mobilenetv1_100h", "rexnet_lite_100"])
def test_networks_with_a_layer_after_pooling(name):
    """Of an image that is a single place, the map is the logit all the same."""
    model = shake(effnets.create_model(name, num_classes=4), size=64)
    inputs = images(1, 3, 32, 32)
    maps = class_activation_maps(model, inputs, [[2, 0]])
    with torch.inference_mode():
        logits = model(inputs)[0, [2, 0]] - model.classifier.bias[[2, 0]]
    torch.testing.assert_close(torch.from_numpy(maps).flatten(), logits.detach(), rtol=1e-4, atol=1e-4)


def test_maps_leave_the_mode_and_need_a_classifier():
    model = effnets.create_model("mobilenetv1_025", num_classes=2).train()
    class_activation_maps(model, images(1, 3, 32, 32), [[0]])
    assert all(module.training for module in model.modules())
    model.reset_classifier(0)
    with pytest.raises(ArgumentError, match="no classifier, so that no place speaks for a class"):
        class_activation_maps(model, images(1, 3, 32, 32), [[0]])
