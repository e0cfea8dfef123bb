"""Networks in folders: what save_pretrained writes makes the same network again, here and in timm."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import yaml

import effnets
from effnets.errors import ArgumentError, ConfigError, MissingFileError, WeightsError
from effnets.spec.entries import encode_entry
from effnets.weights import save as pretrained
from effnets.weights.folder import read_folder
from effnets.weights.save import save_pretrained
from tests.support import images, shake


@pytest.mark.parametrize("name", effnets.list_models())
def test_every_spec_comes_back_from_its_table(name, tmp_path):
    spec = effnets.load_spec(name)
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump({name: encode_entry(spec)}, sort_keys=False))
    assert effnets.load_spec(path) == spec


def test_a_folder_holds_the_whole_network(tmp_path):
    spec = effnets.load_spec("tf_mixnet_s")
    spec = replace(spec, preprocess=replace(spec.preprocess, input_size=96, test_input_size=128, test_crop_pct=1.0))
    model = shake(effnets.create_model(spec, num_classes=3), size=64)
    model.class_names = ("Kätzchen", "dog: brown", "owl")
    save_pretrained(torch.compile(model), tmp_path / "new" / "folder")
    saved = read_folder(tmp_path / "new" / "folder")
    assert saved.spec == model.spec
    again = effnets.create_model(tmp_path / "new" / "folder", pretrained=True).eval()
    assert again.class_names == model.class_names
    other = effnets.create_model("tf_mixnet_s", weights=str(tmp_path / "new" / "folder")).eval()
    assert torch.equal(other(images(1, 3, 64, 64)), model(images(1, 3, 64, 64)))
    assert effnets.create_model(tmp_path / "new" / "folder").load_report is None
    assert again.spec == model.spec
    assert torch.equal(again(images(2, 3, 64, 64)), model(images(2, 3, 64, 64)))
    card = (tmp_path / "new" / "folder" / "README.md").read_text()
    assert "Kätzchen, dog: brown, owl" in card
    assert "96×96" in card


def test_timm_loads_what_is_saved_in_its_dialect(tmp_path):
    model = shake(effnets.create_model("mixnet_s", num_classes=7), size=64)
    save_pretrained(model, tmp_path, dialect="timm")
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert theirs.num_classes == 7
    assert torch.equal(theirs(images(2, 3, 64, 64)), model(images(2, 3, 64, 64)))
    assert timm.data.resolve_model_data_config(theirs)["mean"] == [0.485, 0.456, 0.406]


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_what_timm_saved_is_read(tmp_path, safe):
    theirs = shake(timm.create_model("rexnet_100", num_classes=4), size=64)
    timm.models.save_for_hf(
        theirs, tmp_path, model_config={"label_names": ["a", "b", "c", "d"]}, safe_serialization=safe
    )
    saved = read_folder(tmp_path)
    assert (saved.spec.name, saved.spec.num_classes, saved.class_names) == ("rexnet_100", 4, ("a", "b", "c", "d"))
    ours = effnets.create_model(str(tmp_path), pretrained=True).eval()
    assert ours.class_names == ("a", "b", "c", "d")
    assert torch.equal(ours(images(2, 3, 64, 64)), theirs(images(2, 3, 64, 64)))


def test_folders_that_hold_no_network(tmp_path):
    with pytest.raises(MissingFileError, match=r"holds neither model\.yaml nor config\.json"):
        read_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "mixnet_s"}')
    with pytest.raises(MissingFileError, match=r"holds no weights; looked for model\.safetensors"):
        read_folder(tmp_path)
    assert read_folder(tmp_path, with_weights=False).spec.name == "mixnet_s"
    assert not effnets.create_model(tmp_path).load_report


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is no JSON file"),
        ("[]", "holds a list, not a config"),
        ('{"format": 1}', "names no architecture as timm's configs do; its keys are format"),
        ("[" * 100_000, "is no JSON file"),
        (json.dumps({"architecture": "mixnet_s", "num_classes": "many"}), "is no config of timm that is understood"),
        (json.dumps({"architecture": "resnet50", "num_classes": 5}), "no model named 'resnet50'"),
        (json.dumps({"architecture": "mixnet_s", "pretrained_cfg": {"crop_pct": 7}}), "crop_pct is 7"),
        (json.dumps({"architecture": "mixnet_s", "model_args": {"act_layer": "mish"}}), "model_args act_layer have no"),
        (json.dumps({"architecture": "mixnet_s", "model_args": [1]}), "is no config of timm that is understood"),
        ('{"architecture": "mixnet_s", "num_classes": 1e999}', "is no config of timm that is understood"),
        (json.dumps({"architecture": "mixnet_s", "num_classes": -1}), "json: .*num_classes"),
        (json.dumps({"architecture": "../secret.yaml"}), r"json: no model named '\.\./secret\.yaml'"),
        ('{"architecture": "mixnet_s"}' + " " * (3 << 20), "is larger than 2 MiB"),
    ],
    ids=lambda value: value[:40],
)
def test_configs_that_are_none(tmp_path, config, message):
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text(config)
    with pytest.raises((ConfigError, effnets.UnknownModelError), match=message):
        read_folder(tmp_path)


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(ArgumentError, match="model is a FeaturePyramid; give a classifier"):
        save_pretrained(effnets.create_model("mobilenetv1_025", features_only=True), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="cannot be written"):
        save_pretrained(effnets.create_model("mobilenetv1_025"), tmp_path / "file")


ARGUMENTS = [
    {"global_pool": "max"},
    {"global_pool": "none"},
    {"in_chans": 1},
    {"output_stride": 16},
    {"drop_rate": 0.5},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_arguments_of_the_network_come_back(tmp_path, arguments):
    model = shake(effnets.create_model("mixnet_s", num_classes=3, **arguments), size=64)
    save_pretrained(model, tmp_path)
    again = effnets.create_model(tmp_path, pretrained=True).eval()
    x = images(2, model.in_chans, 64, 64)
    assert torch.equal(again(x), model(x))
    assert (again.in_chans, again.pool.kind, again.dropout.p) == (model.in_chans, model.pool.kind, model.dropout.p)
    features = effnets.create_model(tmp_path, pretrained=True, features_only=True)
    assert features.feature_info.reduction()[-1] == arguments.get("output_stride", 32)


@pytest.mark.parametrize("arguments", [{"global_pool": "max"}, {"global_pool": "avgmax"}, {"in_chans": 1}], ids=str)
def test_timm_s_arguments_are_kept_both_ways(tmp_path, arguments):
    theirs = shake(timm.create_model("mixnet_s", num_classes=3, **arguments), size=64)
    timm.models.save_for_hf(theirs, tmp_path / "theirs", model_args={"num_classes": 3, **arguments})
    x = images(2, arguments.get("in_chans", 3), 64, 64)
    ours = effnets.create_model(tmp_path / "theirs", pretrained=True).eval()
    assert torch.equal(ours(x), theirs(x))
    save_pretrained(ours, tmp_path / "ours", dialect="timm")
    assert torch.equal(timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()(x), theirs(x))


def test_a_kept_background_comes_back(tmp_path):
    model = effnets.create_model("tf_mobilenetv1_025", num_classes=1001)
    model.background = True
    model.class_names = ("background", *(f"class {index}" for index in range(1000)))
    save_pretrained(model, tmp_path)
    again = effnets.create_model(tmp_path, pretrained=True)
    assert (again.num_classes, again.background, again.class_names) == (1001, True, model.class_names)
    fewer = effnets.create_model(tmp_path, pretrained=True, num_classes=1000)
    assert (fewer.background, fewer.class_names) == (False, model.class_names[1:])


def test_another_program_s_network_saved_over_ours(tmp_path):
    save_pretrained(effnets.create_model("mobilenetv1_025", num_classes=2), tmp_path)
    theirs = shake(timm.create_model("mixnet_s", num_classes=4), size=64)
    timm.models.save_for_hf(theirs, tmp_path, safe_serialization=True)
    ours = effnets.create_model(tmp_path, pretrained=True).eval()
    assert torch.equal(ours(images(1, 3, 64, 64)), theirs(images(1, 3, 64, 64)))


@pytest.mark.parametrize("failing", ["write_whole", "save_weights"])
def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch, failing):
    old = shake(effnets.create_model("mobilenetv1_025", num_classes=2), size=64)
    save_pretrained(old, tmp_path / "folder")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pretrained, failing, fail)
        for folder in ("folder", "new"):
            with pytest.raises(WeightsError, match=r"cannot be written \(No space left on device\)"):
                save_pretrained(effnets.create_model("mixnet_s"), tmp_path / folder)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [
        *("README.md", "config.json", "model.safetensors", "model.yaml")
    ]
    again = effnets.create_model(tmp_path / "folder", pretrained=True).eval()
    assert torch.equal(again(images(1, 3, 64, 64)), old(images(1, 3, 64, 64)))


def test_a_readme_of_somebody_else_stays(tmp_path):
    (tmp_path / "README.md").write_text("my owls")
    save_pretrained(effnets.create_model("mobilenetv1_025", num_classes=2), tmp_path)
    assert (tmp_path / "README.md").read_text() == "my owls"


def test_what_could_not_be_read_again_is_not_saved(tmp_path):
    model = effnets.create_model("mobilenetv1_025", num_classes=2)
    model.class_names = ("owl",)
    with pytest.raises(ArgumentError, match="class_names has 1 names for 2 outputs"):
        save_pretrained(model, tmp_path / "folder")
    model = effnets.create_model(replace(model.spec, name="../x"))
    with pytest.raises(ArgumentError, match=r"spec\.name is '\.\./x'; a name that is to be saved"):
        save_pretrained(model, tmp_path / "folder")
    assert not list(tmp_path.iterdir())


def test_a_path_is_a_path_and_a_tag_a_tag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = effnets.create_model("mobilenetv1_025", num_classes=2)
    save_pretrained(model, "mixnet_s")
    assert effnets.create_model(Path("mixnet_s"), pretrained=True).num_classes == 2
    assert effnets.create_model("mixnet_s").num_classes == 1000
    assert effnets.create_model("mobilenetv1_025", weights=Path("mixnet_s")).num_classes == 2
    Path("mixnet_s.ft_in1k").mkdir()  # where somebody cloned the repository of that name
    assert effnets.create_model("mixnet_s.ft_in1k").spec.name == "mixnet_s"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_mode": "border"}, "crop_mode is 'border', and images are only cut from the center"),
        ({"input_size": [3, 224, 320]}, "input_size is 224×320, and only squares are read"),
    ],
)
def test_preprocessing_of_timm_s_that_is_not_here(tmp_path, change, message):
    config = {"architecture": "mixnet_s", "pretrained_cfg": {"crop_pct": 0.9, **change}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=message):
        read_folder(tmp_path, with_weights=False)


@pytest.mark.parametrize(
    "labels",
    [{"1": "owl", "0": "wren"}, {"n02": "wren", "n01": "owl"}, ["wren", "owl"]],
    ids=["ids", "synsets", "list"],
)
def test_forms_of_labels(tmp_path, labels):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "mixnet_s", "label_names": labels}))
    assert read_folder(tmp_path, with_weights=False).class_names == ("wren", "owl")
