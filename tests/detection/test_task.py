"""Detection as a task of `effnets.finetune`: whole trainings on small pictures, their folders, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import effnets
from effnets.data.augmentation import Augmentation
from effnets.data.detection_augmentation import DetectionAugmentation
from effnets.errors import ArgumentError, ConfigError, DataError, TrainingError
from effnets.train.recipe import Recipe, encode_recipe, read_recipe
from effnets.train.task_settings import DetectionSettings
from tests.support.boxed_sets import CLASSES, Scene, splits, voc_files
from tests.support.data_sets import write
from tests.support.interrupting import Interrupting

RECIPE = Recipe(
    model="mobilenetv1_025",
    task="detect",
    weights="random",
    image_size=64,
    epochs=3,
    epoch_repeats=1,
    batch_size=4,
    workers=0,
    ema_decay=0.5,
    detection=DetectionSettings(augmentation=DetectionAugmentation(zoom_out=0.0)),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes")
    for name, content in voc_files(splits()).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    return effnets.finetune(RECIPE, data, tmp_path_factory.mktemp("run") / "run")


def test_training_leaves_a_detector_its_figures_and_a_report(data, trained):
    detector = trained.load()
    assert detector.class_names == CLASSES
    assert not detector.training
    found = json.loads((trained.folder / "metrics.json").read_text())
    assert found["best_top1"] is None
    assert found["images"] == {"train": 8, "val": 4, "test": 4}
    assert found["test_mean_ap"] == found["detection"]["mean_ap"]
    assert {one["name"] for one in found["detection"]["classes"]} == set(CLASSES)
    assert [row["epoch"] for row in found["epochs"]] == [0, 1, 2, 3]
    assert all(row["val_mean_ap"] is not None for row in found["epochs"])
    assert "mAP" in (trained.folder / "report.html").read_text()
    assert effnets.detection.annotations.open_boxes(data).train.class_names == CLASSES


def test_an_interrupted_training_goes_on_to_the_same_tensors(data, trained, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        effnets.finetune(RECIPE, data, tmp_path / "run", callbacks=[Interrupting()])
    resumed = effnets.finetune(RECIPE, data, tmp_path / "run", resume=True)
    expected, found = trained.load().state_dict(), resumed.load().state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in found.items())
    curve = [(row["train_loss"], row["val_mean_ap"]) for row in trained.metrics["epochs"]]
    assert [(row["train_loss"], row["val_mean_ap"]) for row in resumed.metrics["epochs"]] == curve


def test_training_goes_on_from_a_trained_detector(data, trained, tmp_path):
    recipe = replace(RECIPE, weights=str(trained.folder), epochs=1, learning_rate=1e-8, ema_decay=0.0)
    again = effnets.finetune(recipe, data, tmp_path / "run").load().state_dict()
    before = trained.load().state_dict()
    weights = [name for name in before if name.endswith("weight")]
    assert all(torch.allclose(before[name], again[name], atol=1e-5) for name in weights)


@pytest.mark.parametrize("kind", ["faster_rcnn", "retinanet"])
def test_the_other_detectors_train(data, tmp_path, kind):
    recipe = replace(RECIPE, epochs=1, batch_size=2, detection=DetectionSettings(detector=kind))
    trained = effnets.finetune(recipe, data, tmp_path / "run")
    assert trained.metrics["epochs"][-1]["train_loss"] > 0
    assert trained.load().settings.kind == kind


def test_recipes_of_detectors_come_back_as_they_were(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(encode_recipe(RECIPE))
    assert read_recipe(path) == RECIPE
    assert "embedding:" not in path.read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "mobilenetv1_100"}, "teacher is not for task: detect; omit it"),
        ({"freeze": "backbone"}, "freeze is backbone, which is for task: classify; with task: detect freeze stages"),
        ({"task": "classify"}, "detection is for task: detect, and this is task: classify; omit it, or set task: dete"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(RECIPE, **changes)


def test_what_cannot_be_trained_is_refused_beforehand(data, trained, tmp_path):
    with pytest.raises(TrainingError, match=r"passes are of 1 image, .*: raise batch_size, or lower accumulate"):
        effnets.finetune(replace(RECIPE, batch_size=1), data, tmp_path / "one")
    other = replace(RECIPE, weights=str(trained.folder), detection=DetectionSettings(detector="retinanet"))
    with pytest.raises(TrainingError, match=r"has a ssdlite for cat, dog, and this is to be a retinanet for cat, dog;"):
        effnets.finetune(other, data, tmp_path / "other")
    larger = replace(RECIPE, weights=str(trained.folder), image_size=96)
    with pytest.raises(TrainingError, match=r"has a detector with image_size 64, and this one's image_size is 96; set"):
        effnets.finetune(larger, data, tmp_path / "larger")
    with pytest.raises(TrainingError, match=r"with model mobilenetv1_025, and this one's model is mixnet_s; set model"):
        effnets.finetune(replace(larger, image_size=None, model="mixnet_s"), data, tmp_path / "larger")
    with pytest.raises(ArgumentError, match="label_column is not for task: detect"):
        effnets.finetune(RECIPE, data, tmp_path / "column", label_column="label")
    assert not any((tmp_path / name).exists() for name in ("one", "other", "larger", "column"))


def test_settings_without_effect_are_named(data, tmp_path):
    changes = {"balance": "weights", "in_chans": 1, "mean": (0.5,), "augmentation": Augmentation(rotation=5)}
    run = effnets.finetune(replace(RECIPE, epochs=1, **changes), data, tmp_path / "run")
    assert "without effect with task: detect: balance, augmentation, in_chans, mean" in run.metrics["notes"]


def test_validation_images_without_a_box_are_refused(tmp_path):
    """Their average precision is undefined, and would choose no epoch."""
    empty = [Scene(f"val{number}", []) for number in range(2)]
    data = write(tmp_path / "data", voc_files({"train": splits()["train"], "val": empty}))
    with pytest.raises(DataError, match=r"has no box in val, so that no epoch could be found to be the best; label"):
        effnets.finetune(RECIPE, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_strict_leaves_no_image_out(trained, tmp_path):
    """An image that is found to be broken when it is measured at the end."""
    damaged = write(tmp_path / "data", voc_files(splits()))
    file = damaged / "JPEGImages" / "test000.png"
    content = bytearray(file.read_bytes())
    content[60:80] = bytes(20)
    file.write_bytes(content)
    recipe = replace(RECIPE, weights=str(trained.folder), epochs=1)
    with pytest.raises(DataError, match="1 of 4 images cannot be read, and 0 may be left out"):
        effnets.finetune(recipe, damaged, tmp_path / "run", strict=True)
    found = effnets.finetune(recipe, damaged, tmp_path / "run", resume=True)
    assert found.metrics["detection"]["images"] == 3
