"""The weights that lie in the package: what they are, that nothing is fetched for them, and that damage is seen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

import effnets
from effnets.bench.choose import list_candidates
from effnets.errors import MissingFileError, WeightsError
from effnets.spec.weights import find_weights
from effnets.utils.paths import packaged_weights_dir
from effnets.weights.hashing import hash_file
from tests.support import SHARED, needs_shared

NAME = "mixnet_xs_32px.cifar10"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FILE = packaged_weights_dir() / f"{NAME}.safetensors"
RECORD = json.loads(FILE.with_suffix(".json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["mixnet_xs_32px", NAME])
def test_they_load_by_name_and_by_tag(name):
    model = effnets.create_model(name, pretrained=True)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32, torch.int64}
    assert model.class_names == CLASSES == tuple(RECORD["classes"])
    assert effnets.count(model).params == 708_252
    assert (model.load_report.source, model.load_report.sha256) == (f"package:{FILE.name}", RECORD["sha256"])
    assert (model.load_report.reinitialised, model.load_report.dropped) == ((), ())
    assert not [note for note in model.load_report.notes if "header sets" in note]


def test_the_file_is_the_pinned_one_and_small():
    assert FILE.stat().st_size == RECORD["bytes"] <= 1_500_000
    assert hash_file(FILE) == find_weights(NAME).sha256 == RECORD["sha256"]
    with safe_open(FILE, framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16", "I64"}  # noqa: SIM118


def test_the_record_is_of_a_training_of_this_network():
    assert RECORD["weights"] == NAME
    for run in RECORD["runs"]:
        assert run["recipe"]["model"] == "mixnet_xs_32px"
        assert run["recipe"]["seed"] == run["seed"]
        assert len(run["epochs"]) >= run["recipe"]["epochs"]
    assert RECORD["test_images"] == 10_000
    low, high = RECORD["top1_interval"]
    assert low < RECORD["top1"] < high
    assert RECORD["top1"] > 91


def test_they_need_no_network_no_hub_and_no_folder_of_the_users():
    program = (
        "import socket, sys\n"
        "socket.socket.connect = None\n"
        "import effnets\n"
        "effnets.create_model('mixnet_xs_32px', pretrained=True)\n"
        "sys.exit('huggingface_hub' in sys.modules)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    environment["EFFNETS_WEIGHTS_DIR"] = "/no/such/folder"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package's weights, to spoil."""
    folder = tmp_path / "weights"
    shutil.copytree(packaged_weights_dir(), folder)
    monkeypatch.setattr("effnets.weights.fetch.packaged_weights_dir", lambda: folder)
    return folder / FILE.name


def test_a_damaged_file_is_refused(package):
    content = bytearray(package.read_bytes())
    content[len(content) // 2] ^= 1
    package.write_bytes(content)
    message = (
        f"{package}: is not the file that effnets came with .its sha256 is .*{RECORD['sha256']}.; reinstall effnets"
    )
    with pytest.raises(WeightsError, match=message):
        effnets.create_model(NAME, pretrained=True)


def test_a_missing_file_is_named(package):
    package.unlink()
    message = f"{package}: no such file: effnets is installed without its weights {NAME}; reinstall it"
    with pytest.raises(MissingFileError, match=message):
        effnets.create_model(NAME, pretrained=True)


def test_class_names_travel_on(tmp_path):
    model = effnets.create_model("mixnet_xs_32px", pretrained=True)
    effnets.save_pretrained(model, tmp_path / "saved")
    again = effnets.create_model(tmp_path / "saved", pretrained=True)
    assert again.class_names == CLASSES
    with pytest.warns(UserWarning, match="the classifier of 4 classes is newly initialized"):
        other = effnets.create_model("mixnet_xs_32px", pretrained=True, num_classes=4)
    assert other.class_names is None


def test_they_do_not_stand_among_imagenets_figures():
    weights = find_weights(NAME)
    assert (weights.top1, weights.top5, weights.accuracy_source) == (None, None, None)
    candidates, without = list_candidates("mixnet_*")
    assert NAME not in {candidate.name for candidate in candidates}
    assert without == [NAME]


@needs_shared
@pytest.mark.full
def test_they_answer_as_recorded():
    model = effnets.create_model(NAME, pretrained=True).eval()
    evaluation = effnets.evaluate(model, SHARED / "data" / "cifar10", batch_size=100, strict=True)
    assert (evaluation.split, evaluation.count) == ("test", 10_000)
    assert abs(evaluation.top1 - RECORD["top1"]) <= 0.05
