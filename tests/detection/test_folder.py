"""Saved detectors come back as they were; damaged folders say what is wrong."""

from __future__ import annotations

import json

import pytest
import torch

import effnets
from effnets.errors import ArgumentError, ConfigError, MissingFileError, WeightsError
from tests.support.detectors import CLASSES, KINDS, pictures, shaken_detector, small_detector
from tests.support.networks import create, create_features


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "detector"
    effnets.save_detector(shaken_detector(), folder)
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    folder = tmp_path / "detector"
    folder.mkdir()
    for path in saved.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def assert_same(ours, theirs):
    with torch.inference_mode():
        for mine, other in zip(ours.eval()(pictures()), theirs.eval()(pictures()), strict=True):
            for name in ("boxes", "labels", "scores"):
                torch.testing.assert_close(mine[name], other[name], rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind, tmp_path):
    detector = shaken_detector(kind, "mobilenetv2_035", score_threshold=0.2, max_detections=9)
    effnets.save_detector(detector, tmp_path / "folder")
    loaded = effnets.load_detector(tmp_path / "folder")
    assert not loaded.training
    assert loaded.settings == detector.settings
    assert loaded.spec == detector.spec
    assert loaded.class_names == CLASSES
    assert_same(detector, loaded)


def test_the_files(saved):
    assert {path.name for path in saved.iterdir()} == {"config.json", "model.yaml", "model.safetensors", "README.md"}
    config = json.loads((saved / "config.json").read_text())
    assert config["detector"]["kind"] == "ssdlite"
    assert config["label_names"] == list(CLASSES)
    assert "object detector of 3 classes" in (saved / "README.md").read_text()


@pytest.mark.parametrize(
    "backbone",
    [
        lambda: create_features("mobilenetv2_035"),
        lambda: create("rexnet_lite_100"),
        lambda: create("mobilenetv1_025", mean=0.25, std=0.5),
    ],
)
def test_ssdlite_of_given_networks(backbone, tmp_path):
    detector = small_detector("ssdlite", backbone())
    effnets.save_detector(detector, tmp_path)
    assert_same(detector, effnets.load_detector(tmp_path))


def test_levels_of_a_given_pyramid(tmp_path):
    detector = small_detector("retinanet", create_features("mobilenetv1_025", out_indices=(1, 2, 3)))
    effnets.save_detector(detector, tmp_path)
    loaded = effnets.load_detector(tmp_path)
    assert loaded.settings.reductions == (4, 8, 16)
    assert_same(detector, loaded)


def test_a_detector_is_no_classifier(saved):
    with pytest.raises(ConfigError, match=r"holds a detector, not a classifier; load it with effnets.load_detector"):
        effnets.create_model(saved, pretrained=True)


def test_a_classifier_is_no_detector(tmp_path):
    effnets.save_pretrained(create("mobilenetv1_025"), tmp_path)
    with pytest.raises(MissingFileError, match=r"holds no detector; give a folder with the config.json of one"):
        effnets.load_detector(tmp_path)
    with pytest.raises(ArgumentError, match="model is a Classifier; give a detector"):
        effnets.save_detector(create("mobilenetv1_025"), tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "model.yaml"])
def test_a_missing_file(copied, name):
    (copied / name).unlink()
    with pytest.raises(MissingFileError, match=f"lacks {name}"):
        effnets.load_detector(copied)


def test_damaged_weights(copied):
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"model.safetensors: not a whole safetensors file"):
        effnets.load_detector(copied)


def test_weights_of_another_detector(copied, tmp_path):
    effnets.save_detector(small_detector(num_classes=3), tmp_path / "other")
    (copied / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError, match=r"does not fit ssdlite on mobilenetv1_025; the network's own \(-\) beside"):
        effnets.load_detector(copied)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"detector": 3}, "detector is 3, not a mapping"),
        ({"detector": {}}, "describes no detector"),
        ({"detector": {"kind": "yolo", "reductions": [16, 32]}}, "describes no detector"),
        ({"label_names": ["one"]}, "class_names has 1 names for 3 classes"),
    ],
)
def test_a_damaged_config(copied, values, message):
    change(copied, **values)
    with pytest.raises(ConfigError, match=message):
        effnets.load_detector(copied)


def test_names_are_checked_before_saving(tmp_path):
    detector = small_detector()
    detector.class_names = ("one",)
    with pytest.raises(ArgumentError, match="class_names has 1 names for 3 classes"):
        effnets.save_detector(detector, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_an_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="cannot be written"):
        effnets.save_detector(small_detector(), tmp_path / "file" / "folder")
