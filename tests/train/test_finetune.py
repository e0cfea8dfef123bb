"""Trainings as a user starts them from Python: what the folder holds, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

import effnets
from effnets.data import open_data
from effnets.data.augmentation import Augmentation
from effnets.inference.transform import create_transform
from effnets.train.model import build_model
from effnets.train.recipe import read_recipe
from effnets.train.run_state import RunState
from effnets.train.task import evaluate_best
from tests.support.drawn_classes import CLASSES
from tests.support.interrupting import Interrupting


def top1(model, source):
    transform = create_transform(model)
    with torch.no_grad():
        answers = model(torch.stack([transform(source.image(index)) for index in range(len(source))])).argmax(1)
    return 100 * (answers == torch.from_numpy(source.labels)).float().mean().item()


def test_the_folder_holds_a_network_that_gives_the_figures(folder, trained):
    model = trained.load()
    splits = open_data(folder / "data")
    assert model.class_names == CLASSES
    assert trained.best_top1 == pytest.approx(top1(model, splits.val))
    assert trained.test_top1 == pytest.approx(top1(model, splits.test))
    assert effnets.predict(model, splits.test.image(0), topk=1)[0][0].label in CLASSES


def test_the_temperature_is_fitted_on_validation_and_measured_on_test(folder, trained, recipe):
    splits, network = open_data(folder / "data"), trained.load()
    for source in (splits.val, splits.test):
        source.labels = source.labels.copy()
        source.labels[::4] = (source.labels[::4] + 1) % 3  # where every answer is right, no temperature is best
    state = RunState(recipe=recipe, data="data", command=None, class_names=CLASSES, images={})
    validated = effnets.evaluate(network, splits.val, batch_size=12).calibration
    found = evaluate_best(network, splits, state, lambda *_: None, strict=False)
    assert (found.split, found.calibration.fitted_here) == ("test", False)
    assert found.calibration.temperature == validated.temperature
    assert state.calibration == {
        "temperature": validated.temperature,
        "temperature_fitted_on": "val",
        "judged_on": "test",
        "ece": found.calibration.error,
        "scaled_ece": found.calibration.scaled_error,
    }
    alone = evaluate_best(network, replace(splits, test=None), state, lambda *_: None, strict=False)
    assert (alone.split, alone.calibration.fitted_here) == ("val", True)
    assert (state.calibration["temperature_fitted_on"], state.calibration["judged_on"]) == ("val", "val")
    assert evaluate_best(
        network, replace(splits, val=None), state, lambda *_: None, strict=False
    ).calibration.fitted_here
    assert state.calibration["temperature_fitted_on"] == "test"


def test_metrics_describe_the_training(trained, recipe):
    metrics = json.loads((trained.folder / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(trained.metrics))
    assert metrics["finished"] is True
    assert metrics["images"] == {"train": 72, "val": 24, "test": 24}
    assert [row["epoch"] for row in metrics["epochs"]] == [0, 1, 2, 3, 4]
    assert all(row["train_loss"] > 0 and row["images"] == 2 * 72 for row in metrics["epochs"][1:])
    scores = [row[key] for row in metrics["epochs"] for key in ("val_top1", "average_top1") if row[key] is not None]
    noise = 100 * (0.25 / 24) ** 0.5
    assert metrics["best_top1"] in scores
    assert max(scores) - noise <= metrics["best_top1"] <= max(scores)
    assert metrics["command"] == "effnets finetune …"
    assert metrics["calibration"]["judged_on"] == "test"
    assert 0 <= metrics["calibration"]["ece"] <= 1
    assert metrics["seed"] == 0
    assert metrics["cached"] is True
    assert metrics["epoch_repeats"] == 2  # few images
    assert {"effnets", "torch", "timm"} <= metrics["versions"].keys()
    assert read_recipe(trained.folder / "recipe.yaml") == recipe


def test_the_same_seed_gives_the_same_tensors_and_another_others(folder, trained, recipe):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = effnets.finetune(recipe, folder / "data", folder / "again")
    assert torch.equal(torch.get_rng_state(), before)
    other = effnets.finetune(replace(recipe, seed=1), folder / "data", folder / "other")
    state, twin, stranger = (run.load().state_dict() for run in (trained, again, other))
    assert all(torch.equal(value, twin[name]) for name, value in state.items())
    assert not torch.equal(state["stem.conv.weight"], stranger["stem.conv.weight"])


def test_a_pretrained_network_starts_with_a_trained_classifier(folder, trained, recipe):
    """Head first: its score before any training of the whole is that of a linear probe."""
    weights = folder / "nameless.pt"
    torch.save(trained.load().state_dict(), weights)
    start = replace(recipe, weights=str(weights), epochs=1, head_epochs=20)
    run = effnets.finetune(start, folder / "data", folder / "second")
    rows = run.metrics["epochs"]
    assert [row["phase"] for row in rows] == ["head"] * 20 + ["all"] * 2
    assert rows[19]["train_loss"] < rows[0]["train_loss"]
    assert rows[20]["val_top1"] >= trained.best_top1 - 15
    assert run.best_top1 >= rows[20]["val_top1"]


def test_weights_that_know_the_classes_keep_their_classifier(folder, trained, recipe):
    further = replace(recipe, weights=str(trained.folder), epochs=1, head_epochs=20)
    run = effnets.finetune(further, folder / "data", folder / "further")
    assert [row["phase"] for row in run.metrics["epochs"]] == ["all"] * 2
    assert run.metrics["epochs"][0]["val_top1"] == trained.best_top1


def changed_by(run, before):
    return {name for name, value in run.load().state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("bn", ["train", "eval"])
def test_a_probe_trains_the_classifier_alone_on_kept_features(folder, trained, recipe, bn):
    probe = replace(recipe, weights=str(trained.folder), freeze="backbone", epochs=15, bn=bn, precision="bfloat16")
    run = effnets.finetune(probe, folder / "data", folder / f"probe-{bn}")
    before = trained.load().state_dict()
    statistics = {name for name in before if name.endswith(("running_mean", "running_var"))} if bn == "train" else set()
    assert changed_by(run, before) == {"classifier.weight", "classifier.bias", *statistics}
    notes = [note for note in run.metrics["notes"] if "statistics were moved towards those of the training" in note]
    assert len(notes) == (bn == "train")
    assert run.metrics["precision"] == "float32"
    assert run.best_top1 >= trained.best_top1 - 15
    assert (run.folder / "last" / "features.safetensors").is_file()
    assert {row["phase"] for row in run.metrics["epochs"]} == {"head"}
    assert max(row["learning_rate"] for row in run.metrics["epochs"]) == pytest.approx(5e-3, rel=0.05)
    assert "without effect with freeze: backbone: layer_decay, precision" in run.metrics["notes"]


@pytest.mark.parametrize("lost", [False, True])
def test_a_resumed_probe_ends_with_the_same_backbone(folder, trained, recipe, tmp_path, lost):
    probe = replace(recipe, weights=str(trained.folder), freeze="backbone")
    undisturbed = effnets.finetune(probe, folder / "data", tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        effnets.finetune(probe, folder / "data", tmp_path / "run", callbacks=[Interrupting()])
    if lost:
        (tmp_path / "run" / "last" / "features.safetensors").unlink()
    resumed = effnets.finetune(probe, folder / "data", tmp_path / "run", resume=True)
    assert changed_by(resumed, undisturbed.load().state_dict()) == set()
    assert resumed.metrics["notes"] == undisturbed.metrics["notes"]


def test_a_classifier_of_other_classes_is_reset(trained, recipe):
    recipe = replace(recipe, weights=str(trained.folder))
    kept = trained.load().classifier.weight
    network, known = build_model(recipe, CLASSES)
    assert known
    assert torch.equal(network.classifier.weight, kept)
    others, known = build_model(recipe, ("other", *CLASSES[1:]))
    assert not known
    assert others.class_names == ("other", *CLASSES[1:])
    assert not torch.equal(others.classifier.weight, kept)


def test_a_frozen_part_stays(folder, trained, recipe):
    partly = replace(recipe, weights=str(trained.folder), freeze="2", epochs=1, head_epochs=0, ema_decay=0.0)
    run = effnets.finetune(partly, folder / "data", folder / "partly")
    before, after = trained.load().state_dict(), run.load().state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert not any(name.startswith(("stem", "stages.0", "stages.1")) for name in changed)
    assert {"stages.2.0.expand.conv.weight", "classifier.weight"} <= changed or run.metrics["best_epoch"] == 0


def test_a_teacher_has_an_effect(folder, trained, recipe):
    taught = replace(recipe, teacher=str(trained.folder), teacher_share=0.9, epochs=2)
    run = effnets.finetune(taught, folder / "data", folder / "taught")
    alone = trained.metrics["epochs"][1]["train_loss"]
    assert run.metrics["epochs"][1]["train_loss"] != alone


@pytest.mark.parametrize(
    "changes", [{"balance": "weights"}, {"balance": "sampler"}, {"ema_decay": 0.0}, {"bn": "eval"}, {"cache": "none"}]
)
def test_variants_train(folder, recipe, changes, tmp_path):
    run = effnets.finetune(replace(recipe, epochs=1, **changes), folder / "data", tmp_path / "run")
    assert 0 <= run.best_top1 <= 100


def test_mixing_and_bfloat16_train(folder, recipe, tmp_path):
    mixed = replace(
        recipe, epochs=1, precision="bfloat16", clip_grad=1.0, augmentation=Augmentation(mixup=0.2, cutmix=1.0)
    )
    run = effnets.finetune(mixed, folder / "data", tmp_path / "run")
    assert run.metrics["precision"] == "bfloat16"
    assert run.load().stem.conv.weight.dtype == torch.float32


def test_without_validation_the_last_average_is_kept(folder, recipe, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(folder / "data" / "train", data / "train")
    # Nor is there anything to be patient for.
    run = effnets.finetune(replace(recipe, epochs=2, val_share=0.0, patience=1), data, tmp_path / "run")
    assert "there is no report" in run.metrics["notes"][-1]
    assert not (run.folder / "report.html").exists()
    assert run.best_top1 is None
    assert run.test_top1 is None
    assert (run.metrics["best_epoch"], run.metrics["best_is_average"]) == (2, True)


def test_a_rate_that_is_not_stated_is_recorded(folder, recipe, tmp_path):
    run = effnets.finetune(replace(recipe, epochs=1, learning_rate=None), folder / "data", tmp_path / "run")
    assert run.metrics["recipe"]["learning_rate"] == pytest.approx(2e-3)
    assert read_recipe(run.folder / "recipe.yaml").learning_rate is None


def test_patience_ends_early(folder, recipe, tmp_path):
    run = effnets.finetune(
        replace(recipe, epochs=40, learning_rate=1e-9, patience=2, ema_decay=0.0, bn="eval"),
        folder / "data",
        tmp_path / "run",
    )
    assert len(run.metrics["epochs"]) < 40


def test_the_image_size_becomes_the_networks(folder, recipe, tmp_path):
    run = effnets.finetune(replace(recipe, epochs=1, image_size=40), folder / "data", tmp_path / "run")
    assert run.load().spec.input_size == 40
    assert create_transform(run.load()).size == 40
