"""The front door: what create_model takes, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import effnets
from effnets.errors import ArgumentError, ConfigError, MissingFileError, UnknownModelError


def test_a_name():
    model = effnets.create_model("mobilenetv1_025")
    assert (model.spec.name, model.num_classes, model.in_chans, model.training) == ("mobilenetv1_025", 1000, 3, True)
    assert model.load_report is None


def test_a_yaml_file(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("tiny:\n  stem: 8\n  blocks:\n    - ir_r1_k3.5_s2_e4_c16_se0.25\n  head: 32\n  num_classes: 5\n")
    for name in (path, str(path), f"{path}:tiny"):
        assert effnets.create_model(name)(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


def test_a_yaml_file_of_its_models_name_has_no_tag(tmp_path, monkeypatch):
    """Where it is named without a folder, ``tiny.yaml`` looks like weights of ``tiny`` tagged ``yaml``."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(
        "tiny:\n  stem: 8\n  blocks:\n    - ir_r1_k3_s2_e4_c16\n  head: 32\n  num_classes: 5\n"
    )
    model = effnets.create_model("tiny.yaml")
    torch.save(model.state_dict(), "w.pt")
    for name in ("tiny.yaml", "tiny.yaml:tiny"):
        again = effnets.create_model(name, weights="w.pt")
        assert torch.equal(again.classifier.weight, model.classifier.weight)


def test_a_spec():
    spec = replace(effnets.load_spec("mobilenetv2_035"), num_classes=3)
    assert effnets.create_model(spec).num_classes == 3


def test_device_and_dtype():
    model = effnets.create_model("mobilenetv1_025", device="cpu", dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {p.device.type for p in effnets.create_model("mixnet_s", device="meta").parameters()} == {"meta"}


def test_seeds_decide_the_weights():
    torch.manual_seed(3)
    first = effnets.create_model("mobilenetv1_025")
    torch.manual_seed(3)
    second = effnets.create_model("mobilenetv1_025")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "mixnet_z"}, UnknownModelError, "no model named 'mixnet_z' in effnets; did you mean mixnet_"),
        ({"name": "gone.yaml"}, MissingFileError, "gone.yaml: no such file"),
        ({"name": "mixnet_s.in1k"}, UnknownModelError, "mixnet_s has no weights tagged 'in1k'"),
        ({"name": "_mobilenetv2_deep"}, UnknownModelError, "is a template for other models"),
        ({"weights": "in1k"}, UnknownModelError, "mixnet_s has no weights tagged 'in1k'; registered tags: ft_in1k"),
        ({"weights": "mixnet_m.ft_in1k"}, ArgumentError, "are of another model than mixnet_s"),
        ({"name": "mixnet_s.ft_in1k", "weights": "w.pth"}, ArgumentError, "take the tag off the name"),
        ({"pretrained": True, "weights": "w.pth"}, ArgumentError, "give one of them"),
        ({"weights": "gone.safetensors"}, MissingFileError, "gone.safetensors: no such weights file"),
        ({"num_classes": -1}, ArgumentError, "num_classes is -1"),
        ({"in_chans": 0}, ArgumentError, "in_chans is 0"),
        ({"output_stride": 4}, ArgumentError, "output_stride is 4; it must be 8, 16 or 32"),
        ({"name": None}, ArgumentError, "name is None; give a model's name"),
        ({"name": 5}, ArgumentError, "name is 5; give a model's name"),
        ({"num_classes": "10"}, ArgumentError, "num_classes is '10'; it must be 0"),
        ({"num_classes": True}, ArgumentError, "num_classes is True; it must be 0"),
        ({"in_chans": 3.0}, ArgumentError, "in_chans is 3.0; an image has"),
        ({"device": "gpu"}, ArgumentError, "device is 'gpu'; give one of torch's"),
        ({"dtype": "bfloat16"}, ArgumentError, "dtype is 'bfloat16'; give a floating-point one"),
        ({"dtype": torch.int8}, ArgumentError, "dtype is torch.int8; give a floating-point one"),
        ({"global_pool": None}, ArgumentError, "global_pool is None; choose one of"),
        ({"drop_rate": "0.5"}, ArgumentError, "drop_rate is '0.5'"),
        ({"features_only": True, "num_classes": 5}, ArgumentError, "are a classifier's; features_only=True has none"),
        ({"features_only": True, "global_pool": "max"}, ArgumentError, "are a classifier's"),
        ({"features_only": True, "out_indices": 9}, ArgumentError, "out_indices is 9; as a number it says how many"),
        ({"features_only": True, "out_indices": "01"}, ArgumentError, "out_indices has '0'"),
        ({"drop_rate": 1.5}, ArgumentError, "drop_rate is 1.5"),
        ({"drop_path_rate": -0.1}, ArgumentError, "drop_path_rate is -0.1"),
        ({"global_pool": "sum"}, ArgumentError, "global_pool is 'sum'; choose one of avg, max, avgmax, none"),
        ({"out_indices": (1,)}, ArgumentError, "give it with features_only=True"),
        ({"features_only": True, "out_indices": (7,)}, ArgumentError, "out_indices has 7; this network's levels are 0"),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_refusals(arguments, error, message):
    with pytest.raises(error, match=message.replace("(", r"\(")):
        effnets.create_model(**{"name": "mixnet_s", **arguments})


def test_explicit_arguments_override_those_of_a_saved_network(tmp_path):
    saved = effnets.create_model("mobilenetv1_025", in_chans=1, global_pool="max", output_stride=16, drop_rate=0.5)
    effnets.save_pretrained(saved, tmp_path)

    def built(**arguments):
        model = effnets.create_model(tmp_path, **arguments)
        features = model.eval().forward_features(torch.zeros(1, model.in_chans, 64, 64))
        return model.in_chans, model.pool.kind, 64 // features.shape[-1], model.dropout.p

    assert built() == (1, "max", 16, 0.5)
    assert built(in_chans=3, global_pool="avg", output_stride=32, drop_rate=0.0) == (3, "avg", 32, 0.0)


def test_channels_that_do_not_divide(tmp_path):
    path = tmp_path / "thin.yaml"
    path.write_text("thin:\n  divisor: 1\n  stem: 4\n  blocks:\n    - dsa_r1_k3.5.7.9.11_s1_c8\n")
    with pytest.raises(ConfigError, match=r"thin\.yaml:1: thin: block row 1: 4 channels do not divide into 5"):
        effnets.create_model(path)


def test_errors_and_classes_are_names_of_the_package():
    assert issubclass(effnets.ImageError, effnets.EffnetsError)
    assert isinstance(effnets.create_model("mobilenetv1_025"), effnets.Classifier)
    assert effnets.__all__ == sorted(effnets.__all__)
    pyramid = effnets.create_model("mobilenetv1_025", features_only=True, out_indices=2)
    assert isinstance(pyramid, effnets.FeaturePyramid)
    assert pyramid.feature_info.reduction() == [16, 32]


def test_the_spec_of_a_model_builds_it_again():
    model = effnets.create_model("rexnet_lite_100", num_classes=7)
    assert effnets.create_model(model.spec).num_classes == 7
    model.reset_classifier(3)
    assert (model.spec.num_classes, model.get_classifier().out_features) == (3, 3)
    assert (model.num_features, model.head_hidden_size) == (1280, 1024)


def test_unknown_names_of_the_package():
    with pytest.raises(AttributeError, match="module 'effnets' has no attribute 'create_modle'"):
        effnets.create_modle  # noqa: B018
    assert set(effnets.__all__) <= set(dir(effnets))
    assert all(getattr(effnets, name) is not None for name in effnets.__all__)


def run_python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_what_an_import_costs():
    """Heavy packages come with the first name that needs them, torchvision and timm never."""
    heavy = "[m for m in ('torch', 'torchvision', 'timm', 'numpy', 'PIL', 'yaml', 'sympy') if m in sys.modules]"
    assert run_python(f"import sys, effnets; print({heavy})") == "[]"
    listing = f"import sys, effnets; effnets.list_models(); effnets.count('mixnet_m'); print({heavy})"
    assert run_python(listing) == "['yaml']"
    building = f"import sys, effnets; effnets.create_model('mixnet_m'); print({heavy})"
    assert "torchvision" not in run_python(building)
    assert "timm" not in run_python(building)
    assert "sympy" not in run_python(building)
