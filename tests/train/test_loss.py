"""Losses: smoothing, soft targets, class weights, and a teacher that sees the student's images as its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import effnets
from effnets.train.loss import Loss
from effnets.train.recipe import Recipe
from effnets.train.teacher import Teacher, load_teacher
from tests.support import images, shake
from tests.support.drawn_classes import write_table

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3]])
LABELS = torch.tensor([0, 2])


def test_smoothed_cross_entropy_is_that_with_smoothed_targets():
    smoothed = 0.9 * F.one_hot(LABELS, 3) + 0.1 / 3
    expected = -(smoothed * LOGITS.log_softmax(1)).sum(1).mean()
    loss_function = Loss(nn.CrossEntropyLoss(label_smoothing=0.1))
    assert torch.allclose(loss_function(LOGITS, LABELS, LOGITS), expected)
    assert torch.allclose(Loss()(LOGITS, smoothed, LOGITS), expected)


def test_class_weights_weigh():
    loss_function = Loss(nn.CrossEntropyLoss(torch.tensor([3.0, 1.0, 1.0])))
    each = F.cross_entropy(LOGITS, LABELS, reduction="none")
    assert torch.allclose(loss_function(LOGITS, LABELS, LOGITS), (3 * each[0] + each[1]) / 4)


@pytest.fixture
def networks(tmp_path):
    table = write_table(tmp_path)
    torch.manual_seed(0)
    student, teacher = (shake(effnets.create_model(table), size=32, seed=seed) for seed in (1, 2))
    student.class_names = teacher.class_names = ("disc", "frame", "stripes")
    return student, teacher


def test_a_teacher_sees_its_own_normalisation(networks):
    student, network = networks
    x = images(2, 3, 32, 32)
    wanted = network(x)
    preprocess = replace(network.spec.preprocess, mean=(0.5,) * 3, std=(0.25,) * 3)
    student.spec = replace(student.spec, preprocess=preprocess)
    ours, theirs = preprocess, network.spec.preprocess
    pixels = x * torch.tensor(theirs.std).view(-1, 1, 1) + torch.tensor(theirs.mean).view(-1, 1, 1)
    seen = (pixels - torch.tensor(ours.mean).view(-1, 1, 1)) / torch.tensor(ours.std).view(-1, 1, 1)
    answer = Teacher(network, student).train()(seen)
    assert torch.allclose(answer, wanted, atol=1e-4)
    assert not answer.requires_grad


def test_a_perfect_student_has_no_distance(networks):
    student, network = networks
    x = images(2, 3, 32, 32)
    loss_function = Loss(teacher=Teacher(network, student), teacher_share=1.0)
    assert loss_function(network(x), LABELS, x).item() == pytest.approx(0, abs=1e-6)
    assert loss_function(student(x), LABELS, x).item() > 1e-4
    half = Loss(teacher=Teacher(network, student), teacher_share=0.5)
    expected = (F.cross_entropy(student(x), LABELS) + loss_function(student(x), LABELS, x)) / 2
    assert torch.allclose(half(student(x), LABELS, x), expected)


def test_a_teachers_classes_are_matched_by_name(networks, tmp_path):
    student, teacher = networks
    teacher.class_names = ("stripes", "disc", "frame")
    effnets.save_pretrained(teacher, tmp_path / "teacher")
    recipe = Recipe(model="x", teacher=str(tmp_path / "teacher"))
    x = images(2, 3, 32, 32)
    found = load_teacher(recipe, student)
    assert torch.allclose(found(x), teacher(x)[:, [1, 2, 0]], atol=1e-6)
    teacher.class_names = ("stripes", "disc", "cone")
    effnets.save_pretrained(teacher, tmp_path / "teacher")
    with pytest.raises(effnets.TrainingError, match=r"lacks 1 of 3 classes \(frame\); fine-tune it on these"):
        load_teacher(recipe, student)
    assert load_teacher(Recipe(model="x"), student) is None
