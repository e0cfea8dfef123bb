"""1001 outputs: which files' first one is background, and what becomes of it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

import effnets
from effnets.errors import WeightsError

MODEL = "tf_mobilenetv1_025"


@pytest.fixture(scope="module")
def network():
    return effnets.create_model(MODEL, num_classes=1001)


def stated(network, path, background: str | None):
    header = {} if background is None else {"background": background}
    save_file(network.state_dict(), path, metadata=header)
    return path


@pytest.mark.parametrize("background", [None, "false"])
def test_1001_classes_of_one_s_own_stay(network, tmp_path, background):
    loaded = effnets.create_model(MODEL, weights=stated(network, tmp_path / "w.safetensors", background))
    assert loaded.num_classes == 1001
    assert not loaded.background
    assert loaded.load_report.notes == ()


@pytest.mark.parametrize("dialect", ["effnets", "timm"])
def test_what_the_header_calls_background_goes(network, tmp_path, dialect):
    path = stated(network, tmp_path / "w.safetensors", "true")
    whole = effnets.create_model(MODEL, weights=path, num_classes=1001)
    assert whole.background
    effnets.save_weights(whole, tmp_path / "again.safetensors", dialect=dialect)
    loaded = effnets.create_model(MODEL, weights=tmp_path / "again.safetensors")
    assert loaded.num_classes == 1000
    assert torch.equal(loaded.classifier.weight, network.classifier.weight[1:])
    assert torch.equal(loaded.classifier.bias, network.classifier.bias[1:])
    assert loaded.load_report.notes == ("of 1001 outputs the first, background, was dropped",)


def test_any_number_of_classes_can_have_a_background(tmp_path):
    path = stated(effnets.create_model(MODEL, num_classes=5), tmp_path / "w.safetensors", "true")
    assert effnets.create_model(MODEL, weights=path).num_classes == 4
    assert effnets.create_model(MODEL, weights=path, num_classes=5).background


@pytest.mark.parametrize("num_classes", [1000, 1001])
def test_a_built_network_gets_what_it_has_room_for(network, tmp_path, num_classes):
    path = stated(network, tmp_path / "w.safetensors", "true")
    model = effnets.create_model(MODEL, num_classes=num_classes)
    report = effnets.load_weights(model, path, head="strict")
    assert report.reinitialised == ()
    assert model.background == (num_classes == 1001)


def test_a_new_classifier_has_no_background(network, tmp_path):
    model = effnets.create_model(MODEL, weights=stated(network, tmp_path / "w.safetensors", "true"), num_classes=1001)
    model.reset_classifier(1001)
    assert not model.background


def test_a_transformers_file_that_says_it_has_none(network, tmp_path):
    effnets.save_weights(network, tmp_path / "w.safetensors", dialect="transformers")
    assert effnets.create_model(MODEL, weights=tmp_path / "w.safetensors").num_classes == 1001
    save_file(load_file(tmp_path / "w.safetensors"), tmp_path / "bare.safetensors")
    assert effnets.create_model(MODEL, weights=tmp_path / "bare.safetensors").num_classes == 1000


def test_neither_true_nor_false(network, tmp_path):
    path = stated(network, tmp_path / "w.safetensors", "perhaps")
    with pytest.raises(WeightsError, match=r"its header says background = 'perhaps'; it must be true or false"):
        effnets.create_model(MODEL, weights=path)
