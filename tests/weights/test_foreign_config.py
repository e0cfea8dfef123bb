"""Networks that transformers' users saved: fine-tuned, renamed, and refused where they are not the zoo's."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import effnets
from effnets.errors import ConfigError
from effnets.weights.folder import read_folder
from tests.support import Logits, error_between, images, shake
from tests.support.clients import Machine
from tests.support.faulty_hub import serve

transformers = pytest.importorskip("transformers", reason="transformers, the reference, is not installed")

BIRDS = ("owl", "swift", "wren")


def write(folder, version: int, labels=BIRDS, processor=None, **settings) -> nn.Module:
    """A shaken network of transformers', saved into `folder` as its users do."""
    torch.manual_seed(0)
    config = getattr(transformers, f"MobileNetV{version}Config")(id2label=dict(enumerate(labels)), **settings)
    network = shake(Logits(getattr(transformers, f"MobileNetV{version}ForImageClassification")(config)), size=64)
    network.network.save_pretrained(folder)
    if processor is not None:
        getattr(transformers, f"MobileNetV{version}ImageProcessor")(**processor).save_pretrained(folder)
    return network


@pytest.mark.parametrize(
    ("version", "settings", "name"),
    [
        (1, {"depth_multiplier": 0.5}, "tf_mobilenetv1_050"),
        (2, {"depth_multiplier": 0.35}, "tf_mobilenetv2_035"),
        (2, {"tf_padding": False, "hidden_act": "relu", "layer_norm_eps": 2e-3}, "mobilenetv2_100"),
    ],
    ids=["v1", "v2", "changed"],
)
def test_a_fine_tuned_network_is_transformers(tmp_path, version, settings, name):
    processor = {"size": {"shortest_edge": 219}, "crop_size": {"height": 192, "width": 192}, "resample": 3}
    theirs = write(tmp_path, version, processor=processor, **settings)
    ours = effnets.create_model(tmp_path, pretrained=True).eval()
    assert (ours.spec.name, ours.class_names) == (name, BIRDS)
    preprocess = ours.spec.preprocess
    assert (preprocess.input_size, preprocess.interpolation, preprocess.mean) == (192, "bicubic", (0.5, 0.5, 0.5))
    assert int(192 / preprocess.crop_pct) == 219
    with torch.no_grad():
        for shape in ((2, 3, 64, 64), (1, 3, 65, 97)):
            assert error_between(theirs(images(*shape)), ours(images(*shape))) <= 1e-4
    other = effnets.create_model(name, weights=tmp_path).eval()
    assert (other.spec, other.class_names) == (ours.spec, BIRDS)


def test_the_background_is_dropped_with_its_name(tmp_path):
    labels = ["background", *(f"class {index}" for index in range(1000))]
    theirs = write(tmp_path, 2, labels, depth_multiplier=0.35)
    ours = effnets.create_model(tmp_path, pretrained=True).eval()
    assert ours.class_names == tuple(labels[1:])
    with torch.no_grad():
        assert error_between(theirs(images(1, 3, 64, 64))[:, 1:], ours(images(1, 3, 64, 64))) <= 1e-4
    assert effnets.create_model(tmp_path, pretrained=True, num_classes=1001).num_classes == 1001


def test_a_thousand_and_one_classes_of_one_s_own(tmp_path):
    labels = [f"species {index}" for index in range(1001)]
    write(tmp_path, 2, labels, depth_multiplier=0.35)
    ours = effnets.create_model(tmp_path, pretrained=True)
    assert (ours.num_classes, ours.class_names) == (1001, tuple(labels))
    write(tmp_path, 2, ["background", "owl", "wren"], depth_multiplier=0.35)
    ours = effnets.create_model(tmp_path, pretrained=True)
    assert (ours.num_classes, ours.class_names) == (2, ("owl", "wren"))


def test_names_that_say_nothing_are_none(tmp_path):
    write(tmp_path, 1, ["LABEL_0", "LABEL_1"], depth_multiplier=0.25)
    assert read_folder(tmp_path).class_names is None


def test_they_load_from_the_hub(tmp_path):
    write(tmp_path / "with", 2, processor={"resample": 3}, depth_multiplier=0.35)
    write(tmp_path / "without", 2, depth_multiplier=0.35)
    program = "import sys, effnets; m = effnets.create_model(sys.argv[1], pretrained=True); print(m.spec.preprocess)"
    with serve() as hub:
        for name, interpolation in (("with", "bicubic"), ("without", "bilinear")):
            for file in (tmp_path / name).iterdir():
                hub.files[f"user/{name}/{file.name}"] = file.read_bytes()
            machine = Machine(tmp_path / "machine", hub.url)
            asked = []
            for _ in range(2):
                process = machine.start(program, f"hf-hub:user/{name}")
                output, errors = process.communicate(timeout=60)
                assert process.returncode == 0, errors
                assert f"interpolation='{interpolation}'" in output
                asked.append(len(hub.requests))
            assert asked[0] == asked[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "resnet"}, r"model_type is 'resnet'; of transformers' networks mobilenet_v1 and"),
        ({"output_stride": 16}, "output_stride is 16, and this library's networks have 32"),
        ({"finegrained_output": False, "depth_multiplier": 0.5}, "finegrained_output is false"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'; known are relu6"),
        ({"depth_multiplier": 0.4}, "depth_multiplier is 0.4, a width that is not here"),
        ({"id2label": ["owl"]}, "is no config of transformers that is understood here"),
        ({"depth_multiplier": "wide"}, "is no config of transformers that is understood here"),
    ],
)
def test_configs_that_are_refused(tmp_path, change, message):
    config = {**transformers.MobileNetV2Config().to_dict(), **change}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=message):
        read_folder(tmp_path, with_weights=False)


@pytest.mark.parametrize(
    "change",
    [
        {"do_center_crop": False},
        {"size": {"height": 224, "width": 224}},
        {"crop_size": {"height": 224, "width": 192}},
        {"rescale_factor": 1 / 127.5},
        {"resample": 1},
        {"image_mean": 0.5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_preprocessing_that_is_not_this_library_s_is_refused(tmp_path, change):
    (tmp_path / "config.json").write_text(json.dumps(transformers.MobileNetV2Config().to_dict()))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(change))
    with pytest.raises(ConfigError, match="is no config of transformers that is understood here"):
        read_folder(tmp_path, with_weights=False)


def test_images_that_are_not_normalised(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(transformers.MobileNetV2Config().to_dict()))
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    preprocess = read_folder(tmp_path, with_weights=False).spec.preprocess
    assert (preprocess.mean, preprocess.std) == ((0.0,) * 3, (1.0,) * 3)
