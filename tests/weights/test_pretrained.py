"""create_model with published weights, files written by timm, from a Hub on this machine."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save

import effnets
from effnets.spec.weights import find_weights
from tests.support import error_between, images, shake
from tests.support.clients import Machine
from tests.support.faulty_hub import COMMIT, serve

timm = pytest.importorskip("timm", reason="timm, the reference, is not installed")

FAMILIES = ("mixnet_*", "tf_mixnet_*", "rexnet_*", "rexnetr_*", "mobilenetv1_*", "mobilenetv2_*")
TAGS = [
    name
    for pattern in FAMILIES
    for name in effnets.list_models(pattern, pretrained=True)
    if find_weights(name).source.startswith("hf-hub:timm/")
]
CHEAP = (
    "mixnet_s.ft_in1k",
    "tf_mixnet_s.in1k",
    "mobilenetv1_100.ra4_e3600_r224_in1k",
    "mobilenetv2_050.lamb_in1k",
    "rexnet_100.nav_in1k",
    "rexnetr_200.sw_in12k",
)

PROGRAM = """
import sys, torch, effnets
from safetensors.torch import save_file
name, inputs, output = sys.argv[1:]
from safetensors.torch import load_file
model = effnets.create_model(name, pretrained=True).eval()
with torch.no_grad():
    save_file({"logits": model(load_file(inputs)["images"])}, output)
report = model.load_report
print(report.source, model.num_classes, model.spec.preprocess == effnets.load_spec(name).preprocess, report.notes[0])
"""


def test_all_of_timm_s_tags_are_here():
    assert len(TAGS) == 24


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in CHEAP else pytest.mark.full) for name in TAGS])
def test_pretrained_is_timm_s_network(name, tmp_path):
    weights = find_weights(name)
    torch.manual_seed(0)
    theirs = shake(timm.create_model(weights.repo.removeprefix("timm/"), num_classes=weights.num_classes), size=64)
    inputs = tmp_path / "inputs.safetensors"
    inputs.write_bytes(save({"images": images(2, 3, 64, 64)}))
    with torch.no_grad():
        expected = theirs(images(2, 3, 64, 64))
    with serve() as hub:
        hub.files[f"{weights.repo}/{weights.file}"] = save(theirs.state_dict())
        machine = Machine(tmp_path, hub.url)
        asked = []
        for environment in ({}, {}, {"HF_HUB_OFFLINE": "1"}):
            process = machine.start(PROGRAM, name, str(inputs), str(tmp_path / "logits"), **environment)
            output, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
            assert output.split(maxsplit=3) == [
                f"{weights.source}@{COMMIT}/{weights.file}",
                str(weights.num_classes),
                "True",
                f"published weights {name}\n",
            ]
            assert error_between(expected, load_file(tmp_path / "logits")["logits"]) <= 1e-4
            asked.append(len(hub.requests))
        assert asked[0] == asked[1] == asked[2]


def test_predict_fetches_the_default_weights_once(tmp_path):
    name = f"mobilenetv2_050.{effnets.list_weights('mobilenetv2_050')[0]}"
    weights = find_weights(name)
    ours, picture = shake(effnets.create_model(name), size=64), tmp_path / "picture.png"
    Image.effect_mandelbrot((90, 70), (-2, -1, 1, 1), 100).save(picture)
    effnets.save_weights(ours, tmp_path / "w.safetensors", dialect="timm")
    expected = effnets.predict(ours, picture, topk=3, input_size=64)[0]
    command = ("predict", str(picture), "--model", "mobilenetv2_050", "--image-size", "64", "--topk", "3", "--json")
    asked = []
    with serve() as hub:
        hub.files[f"{weights.repo}/{weights.file}"] = (tmp_path / "w.safetensors").read_bytes()
        machine = Machine(tmp_path, hub.url)
        for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
            process = machine.start("from effnets.cli import main; main()", *command, **environment)
            output, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
            assert f"published weights {name}" in errors
            (row,) = json.loads(output)
            assert [found["label"] for found in row["predictions"]] == [found.label for found in expected]
            assert row["predictions"][0]["probability"] == pytest.approx(expected[0].probability, abs=1e-6)
            asked.append(len(hub.requests))
    assert 0 < asked[0] == asked[1]


def test_predict_without_weights_or_network_is_one_line(tmp_path):
    Image.new("RGB", (90, 70)).save(tmp_path / "picture.png")
    command = ("predict", str(tmp_path / "picture.png"), "--model", "mobilenetv2_050")
    with serve() as hub:
        machine = Machine(tmp_path, hub.url)
        process = machine.start("from effnets.cli import main; main()", *command, HF_HUB_OFFLINE="1")
        output, errors = process.communicate(timeout=60)
        assert hub.requests == []
    assert (process.returncode, output) == (1, "")
    assert errors.startswith("Error: mobilenetv2_050.")
    assert "effnets prefetch mobilenetv2_050." in errors
    assert errors.count("\n") == 1


def test_prefetch_goes_on_after_a_failure(tmp_path):
    with serve() as hub:
        hub.files["timm/mixnet_s.ft_in1k/model.safetensors"] = b"weights"
        machine = Machine(tmp_path, hub.url)
        program = "from effnets.cli import main; main()"
        process = machine.start(program, "prefetch", "mixnet_l", "mixnet_s", "--json")
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    failed, fetched = json.loads(output)
    assert "no such repository (404)" in failed["error"]
    assert fetched["source"] == f"hf-hub:timm/mixnet_s.ft_in1k@{COMMIT}/model.safetensors"
    assert "1 of 2 could not be fetched" in errors
