"""Trainings of labels: planted ones are learned, thresholds travel with the model, a resumed run has the same bits."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import effnets
from effnets.cli import main
from effnets.data import open_data
from effnets.data.augmentation import Augmentation
from effnets.data.open import DataConfig
from effnets.deploy.export.web import export_web
from effnets.engines.metadata import ModelMetadata
from effnets.evaluation.multilabel import evaluate_labels
from effnets.train.multilabel import LabelCriterion, LabelLoss, positive_weights
from effnets.train.task import task_of
from effnets.train.task_settings import MultilabelSettings
from tests.support.drawn_classes import write_table
from tests.support.interrupting import Interrupting
from tests.support.planted_labels import LABELS, plant_labels


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    return plant_labels(folder)


@pytest.fixture(scope="module")
def recipe(planted):
    return effnets.Recipe(
        model=str(write_table(planted.parent)),
        task="multilabel",
        weights="random",
        epochs=12,
        batch_size=16,
        learning_rate=2e-2,
        layer_decay=1.0,
        workers=0,
        precision="float32",
        augmentation=Augmentation(scale=(0.9, 1.0)),
    )


@pytest.fixture(scope="module")
def trained(planted, recipe, tmp_path_factory):
    return effnets.finetune(recipe, planted, tmp_path_factory.mktemp("runs") / "run")


def test_planted_labels_are_learned(trained):
    assert trained.metrics["best_mean_ap"] >= 95
    assert trained.metrics["test_mean_ap"] >= 95
    assert trained.metrics["best_top1"] is None
    assert [row["label"] for row in trained.metrics["labels"]["test"]["labels"]] == list(LABELS)
    assert trained.metrics["thresholds_fitted_on"] == "val"
    assert "Square" in (trained.folder / "report.html").read_text()


def test_the_folder_says_that_outputs_are_labels_and_has_their_thresholds(trained):
    config = json.loads((trained.folder / "config.json").read_text())
    thresholds = [row["threshold"] for row in trained.metrics["labels"]["val"]["labels"]]
    assert (config["classifier_activation"], config["label_names"]) == ("sigmoid", list(LABELS))
    assert config["thresholds"] == thresholds
    model = trained.load()
    assert (model.classifier_activation, model.thresholds) == ("sigmoid", tuple(thresholds))
    alone = effnets.create_model(trained.metrics["model"], weights=trained.folder / "model.safetensors")
    assert (alone.classifier_activation, alone.thresholds) == ("sigmoid", tuple(thresholds))
    alone.reset_classifier(2)
    assert (alone.classifier_activation, alone.thresholds) == ("softmax", None)


def expected_labels(model, picture):
    with torch.no_grad():
        likely = model(effnets.create_transform(model)(picture)[None]).sigmoid()[0].tolist()
    return {name: share for name, share, least in zip(LABELS, likely, model.thresholds, strict=True) if share >= least}


def test_thresholds_travel_through_onnx(planted, trained, tmp_path):
    model, pictures = trained.load(), [planted.parent / f"pictures/test{number}.png" for number in range(4)]
    effnets.export_onnx(model, tmp_path / "m.onnx", softmax=True, engines=["onnxruntime"])
    metadata = ModelMetadata.from_file(tmp_path / "m.onnx")
    assert (metadata.classifier_activation, metadata.thresholds) == ("sigmoid", model.thresholds)
    assert metadata.to_properties()["effnets.format"] == "2"
    engine = effnets.load_engine(tmp_path / "m.onnx", "onnxruntime")
    outputs = engine.run(np.zeros((1, 3, 32, 32), np.float32))
    assert outputs["probabilities"] == pytest.approx(1 / (1 + np.exp(-outputs["logits"])), abs=1e-6)
    for picture, exported, direct in zip(
        pictures, effnets.predict(engine, pictures, topk=1), effnets.predict(model, pictures, topk=1), strict=True
    ):
        expected = expected_labels(model, picture)
        assert {one.label for one in exported} == {one.label for one in direct} == set(expected)
        assert {one.label: one.probability for one in exported} == pytest.approx(expected, abs=1e-4)
    assert {one.label for one in effnets.predict(model, pictures[3])[0]} == set(LABELS)  # both are there, whatever topk


def test_the_commands_give_labels(planted, trained):
    pictures = [str(planted.parent / f"pictures/test{number}.png") for number in (0, 1)]
    found = CliRunner().invoke(main, ["predict", *pictures, "--weights", str(trained.folder), "--json"])
    assert found.exit_code == 0, found.output
    rows = json.loads(found.stdout)
    assert [[one["label"] for one in row["predictions"]] for row in rows] == [[], ["Square"]]
    table = CliRunner().invoke(main, ["predict", *pictures, "--weights", str(trained.folder)])
    assert "–" in table.stdout
    measured = CliRunner().invoke(main, ["eval", str(planted), "--weights", str(trained.folder), "--json", "-"])
    assert measured.exit_code == 0, measured.output
    evaluation = json.loads(measured.stdout)["evaluations"][0]
    assert evaluation["mean_ap"] == pytest.approx(trained.metrics["test_mean_ap"])
    assert [row["label"] for row in evaluation["labels"]] == list(LABELS)
    for option in (["--per-image"], ["--topk", "3"], ["--per-class"], ["--temperature", "1"]):
        refused = CliRunner().invoke(
            main, ["eval", str(planted), "--weights", str(trained.folder), "--json", "-", *option]
        )
        assert refused.exit_code == 2
        assert f"{option[0]} means nothing for a model of labels; leave it out" in refused.output


def test_what_is_for_classes_is_refused(planted, trained, tmp_path):
    model = trained.load()
    with pytest.raises(effnets.ArgumentError, match="gives an image any number of labels; measure it with"):
        effnets.evaluate(model, planted)
    with pytest.raises(effnets.ArgumentError, match=r"the web page is for networks that give an image one class"):
        export_web(model, tmp_path / "web")
    other = open_data(DataConfig(planted, multilabel=True)).test
    other.class_names = ("Square", "hat")
    with pytest.raises(effnets.ArgumentError, match=r"has 1 labels that the model lacks \(hat\); rename or remove"):
        evaluate_labels(model, other)


@pytest.mark.parametrize("changes", [{}, {"multilabel": MultilabelSettings(loss="asymmetric"), "balance": "weights"}])
def test_a_resumed_run_ends_with_the_same_bits(planted, recipe, tmp_path, changes):
    short = replace(recipe, epochs=3, epoch_repeats=1, **changes)
    undisturbed = effnets.finetune(short, planted, tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        effnets.finetune(short, planted, tmp_path / "run", callbacks=[Interrupting()])
    resumed = effnets.finetune(short, planted, tmp_path / "run", resume=True)
    expected = undisturbed.load().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.load().state_dict().items())
    assert resumed.metrics["labels"] == undisturbed.metrics["labels"]


def test_a_teacher_of_labels_is_learned_from(planted, trained, recipe, tmp_path):
    taught = replace(recipe, teacher=str(trained.folder), teacher_share=1.0, temperature=1.0)
    run = effnets.finetune(taught, planted, tmp_path / "run")
    assert run.metrics["best_mean_ap"] >= 90
    classes = effnets.create_model(recipe.model)
    classes.reset_classifier(2)
    classes.class_names = LABELS
    effnets.save_pretrained(classes, tmp_path / "classes")
    with pytest.raises(effnets.TrainingError, match=r"gives an image one class, and the student learns to give it any"):
        effnets.finetune(replace(taught, teacher=str(tmp_path / "classes")), planted, tmp_path / "other")


def test_a_classifier_of_classes_is_not_kept_for_labels(trained, recipe, tmp_path):
    classes = trained.load()
    classes.classifier_activation, classes.thresholds = "softmax", None
    effnets.save_pretrained(classes, tmp_path / "classes")
    task = task_of("multilabel")
    fresh, has_head = task.build_model(replace(recipe, weights=str(tmp_path / "classes")), LABELS)
    assert not has_head
    assert not torch.equal(fresh.classifier.weight, classes.classifier.weight)
    kept, has_head = task.build_model(replace(recipe, weights=str(trained.folder)), LABELS)
    assert has_head
    assert torch.equal(kept.classifier.weight, classes.classifier.weight)


def test_unknown_targets_have_no_part_in_the_loss():
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], requires_grad=True)
    targets = torch.tensor([[1.0, float("nan")], [0.0, float("nan")]])
    for kind in ("bce", "asymmetric"):
        (gradient,) = torch.autograd.grad(LabelCriterion(kind)(logits, targets), logits)
        assert (gradient[:, 1] == 0).all()
        assert (gradient[:, 0] != 0).all()
        assert LabelCriterion(kind)(logits, torch.full((2, 2), float("nan"))) == 0
    expected = -(torch.tensor(2.0).sigmoid().log() + (-torch.tensor(0.5)).sigmoid().log()) / 2
    assert LabelCriterion()(logits, targets).item() == pytest.approx(expected.item())
    smooth = LabelCriterion(smoothing=0.2)(logits[:1, :1], targets[:1, :1])
    assert smooth.item() == pytest.approx(0.9 * np.log1p(np.exp(-2)) + 0.1 * np.log1p(np.exp(2)))


def test_balance_weighs_what_is_rare(planted):
    train = open_data(DataConfig(planted, multilabel=True)).train
    train.targets = np.array([[1, 1], [0, 1], [0, np.nan], [0, 0]], np.float32)
    assert positive_weights(train).tolist() == [3.0, 0.5]


def test_a_teachers_probabilities_are_targets():
    logits, answer = torch.tensor([[0.3, -2.0]]), torch.tensor([[1.0, -1.0]])
    found = LabelLoss(LabelCriterion(), temperature=2.0)._distance(logits, answer)
    expected = torch.nn.functional.binary_cross_entropy((logits / 2).sigmoid(), (answer / 2).sigmoid()) * 4
    assert found.item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augmentation": Augmentation(mixup=0.2)}, "augmentation.mixup and cutmix are for task: classify"),
        ({"freeze": "backbone", "weights": "pretrained"}, "freeze is backbone, which is for task: classify"),
        (
            {"task": "classify", "multilabel": MultilabelSettings(loss="asymmetric")},
            "multilabel is for task: multilabel",
        ),
    ],
)
def test_settings_that_contradict_each_other(recipe, changes, message):
    with pytest.raises(effnets.ConfigError, match=message):
        replace(recipe, **changes)
