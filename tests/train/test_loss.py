"""Losses: smoothing, soft targets, class weights, and a teacher that sees the pupil's pictures as its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import effnets
from effnets.train.loss import Objective, Teacher
from effnets.train.network import load_teacher
from effnets.train.recipe import Recipe
from tests.support import images, shake
from tests.support.drawn_classes import write_table

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3]])
LABELS = torch.tensor([0, 2])


def test_smoothed_cross_entropy_is_that_with_smoothed_targets():
    smoothed = 0.9 * F.one_hot(LABELS, 3) + 0.1 / 3
    expected = -(smoothed * LOGITS.log_softmax(1)).sum(1).mean()
    objective = Objective(label_smoothing=0.1)
    assert torch.allclose(objective(LOGITS, LABELS, LOGITS), expected)
    assert torch.allclose(Objective()(LOGITS, smoothed, LOGITS), expected)


def test_class_weights_weigh():
    objective = Objective(class_weights=torch.tensor([3.0, 1.0, 1.0]))
    each = F.cross_entropy(LOGITS, LABELS, reduction="none")
    assert torch.allclose(objective(LOGITS, LABELS, LOGITS), (3 * each[0] + each[1]) / 4)


@pytest.fixture
def networks(tmp_path):
    table = write_table(tmp_path)
    torch.manual_seed(0)
    pupil, teacher = (shake(effnets.create_model(table), size=32, seed=seed) for seed in (1, 2))
    pupil.class_names = teacher.class_names = ("disc", "frame", "stripes")
    return pupil, teacher


def test_a_teacher_sees_its_own_normalisation(networks):
    pupil, network = networks
    x = images(2, 3, 32, 32)
    wanted = network(x)
    preprocess = replace(network.spec.preprocess, mean=(0.5,) * 3, std=(0.25,) * 3)
    pupil.spec = replace(pupil.spec, preprocess=preprocess)
    ours, theirs = preprocess, network.spec.preprocess
    pixels = x * torch.tensor(theirs.std).view(-1, 1, 1) + torch.tensor(theirs.mean).view(-1, 1, 1)
    seen = (pixels - torch.tensor(ours.mean).view(-1, 1, 1)) / torch.tensor(ours.std).view(-1, 1, 1)
    answer = Teacher(network, pupil).train()(seen)
    assert torch.allclose(answer, wanted, atol=1e-4)
    assert not answer.requires_grad


def test_a_perfect_pupil_has_no_distance(networks):
    pupil, network = networks
    x = images(2, 3, 32, 32)
    objective = Objective(teacher=Teacher(network, pupil), teacher_share=1.0)
    assert objective(network(x), LABELS, x).item() == pytest.approx(0, abs=1e-6)
    assert objective(pupil(x), LABELS, x).item() > 1e-4
    half = Objective(teacher=Teacher(network, pupil), teacher_share=0.5)
    expected = (F.cross_entropy(pupil(x), LABELS) + objective(pupil(x), LABELS, x)) / 2
    assert torch.allclose(half(pupil(x), LABELS, x), expected)


def test_a_teachers_classes_are_matched_by_name(networks, tmp_path):
    pupil, teacher = networks
    teacher.class_names = ("stripes", "disc", "frame")
    effnets.save_pretrained(teacher, tmp_path / "teacher")
    recipe = Recipe(model="x", teacher=str(tmp_path / "teacher"))
    x = images(2, 3, 32, 32)
    found = load_teacher(recipe, pupil)
    assert torch.allclose(found(x), teacher(x)[:, [1, 2, 0]], atol=1e-6)
    teacher.class_names = ("stripes", "disc", "cone")
    effnets.save_pretrained(teacher, tmp_path / "teacher")
    with pytest.raises(effnets.TrainingError, match=r"does not know 1 of 3 classes \(frame\); fine-tune it on these"):
        load_teacher(recipe, pupil)
    assert load_teacher(Recipe(model="x"), pupil) is None
