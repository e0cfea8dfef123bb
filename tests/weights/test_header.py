"""What a file's header says of its network."""

from __future__ import annotations

from dataclasses import replace

import pytest

from effnets import load_spec
from effnets.errors import WeightsError
from effnets.weights.remap import apply_header, make_header, read_class_names, read_outputs


def test_statements_override_the_model_and_are_noted():
    spec = load_spec("mobilenetv1_050")
    header = {"padding": "same", "bn_eps": "0.001", "input_size": "160", "mean": "0.5", "std": "[0.5, 0.5, 0.5]"}
    changed, notes = apply_header(spec, header, "w.safetensors")
    assert (changed.padding, changed.bn_eps, changed.input_size) == ("same", 1e-3, 160)
    assert changed.preprocess.mean == changed.preprocess.std == (0.5, 0.5, 0.5)
    assert len(notes) == 5
    assert "its header sets input_size to 160 (the model has 224)" in notes


def test_what_the_model_has_already_is_not_noted():
    spec = load_spec("tf_mobilenetv1_100")
    assert apply_header(spec, {"padding": "same", "bn_eps": "1e-3", "mean": "0.5"}, "w") == (spec, ())


def test_other_keys_are_nobody_s_business():
    spec = load_spec("mixnet_s")
    assert apply_header(spec, {"format": "pt", "source": "somewhere"}, "w") == (spec, ())


@pytest.mark.parametrize(
    "header",
    [
        {"bn_eps": "small"},
        {"input_size": "big"},
        {"input_size": "2.5"},
        {"mean": "grey"},
        {"std": '{"r": 1}'},
        {"mean": "true"},
        {"mean": '"0.5"'},
        {"mean": "[" * 100_000},
        {"std": "1" + "0" * 400},
        {"input_size": "9" * 5000},
    ],
    ids=lambda header: " ".join(f"{key}={value[:12]}" for key, value in header.items()),
)
def test_values_that_are_none(header):
    with pytest.raises(WeightsError, match=r"w\.safetensors: its header says .* not a valid value"):
        apply_header(load_spec("mixnet_s"), header, "w.safetensors")


@pytest.mark.parametrize("header", [{"padding": "mirror"}, {"bn_eps": "-1"}, {"input_size": "0"}, {"std": "0"}])
def test_values_out_of_range(header):
    with pytest.raises(WeightsError, match=r"w\.safetensors: its header cannot be followed"):
        apply_header(load_spec("mixnet_s"), header, "w.safetensors")


@pytest.mark.parametrize("name", ["mixnet_s", "tf_mobilenetv2_035", "rexnet_100", "mobilenetv2_100_32px"])
def test_a_header_restores_what_belongs_to_the_weights(name):
    spec = load_spec(name)
    plain = replace(load_spec("mixnet_m"), activation="hard_swish")
    restored, _ = apply_header(plain, make_header(spec), "w")
    assert restored.preprocess == spec.preprocess
    assert (restored.padding, restored.bn_eps, restored.activation) == (spec.padding, spec.bn_eps, spec.activation)


@pytest.mark.parametrize("text", ["cat", "3", '{"a": 1}', "[1, 2]", "[" * 100_000])
def test_names_that_are_none(text):
    with pytest.raises(WeightsError, match=r"w: class_names in its header are no JSON list of names"):
        read_class_names({"class_names": text}, "w")


def test_what_outputs_are_for():
    assert read_outputs({}, "w") == ("softmax", None)
    header = {"classifier_activation": '"sigmoid"', "thresholds": "[0.25, 1]"}
    assert read_outputs(header, "w") == ("sigmoid", (0.25, 1.0))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            {"classifier_activation": '"tanh"'},
            r"w: its header says classifier_activation = '\"tanh\"'; it must be softmax",
        ),
        ({"classifier_activation": "sigmoid"}, r"classifier_activation = 'sigmoid'; it must be softmax, sigmoid or l2"),
        ({"thresholds": "[2]"}, r"w: thresholds in its header are no JSON list of numbers from 0 to 1"),
        ({"thresholds": "[true]"}, r"thresholds in its header are no JSON list"),
        ({"thresholds": "{"}, r"thresholds in its header are no JSON list"),
    ],
)
def test_outputs_for_something_else(header, message):
    with pytest.raises(WeightsError, match=message):
        read_outputs(header, "w")
