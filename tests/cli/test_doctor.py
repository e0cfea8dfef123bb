"""``effnets doctor`` says what data and checkpoints are, with the functions that read them."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import effnets
from effnets.cli import main
from tests.support.data_sets import by_class, picture, truncated, write


def doctor(*arguments, status=0):
    result = CliRunner().invoke(main, ["doctor", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.output


def as_json(*arguments):
    result = CliRunner().invoke(main, ["doctor", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def photos(tmp_path):
    """Splits by other names, litter, a broken image, and one in both splits."""
    folder = tmp_path / "photos"
    write(folder / "Training", by_class(4, ("bird", "cat")))
    write(folder / "Testing", by_class(2, ("bird", "cat")))
    (folder / "Training" / "cat" / "broken.jpg").write_bytes(truncated(picture(1)))
    (folder / "Testing" / "bird" / "again.png").write_bytes(next((folder / "Training" / "bird").glob("*")).read_bytes())
    (folder / "Training" / "@eaDir").mkdir()
    Image.new("RGB", (60, 20)).save(folder / "Training" / "@eaDir" / "thumbnail.png")
    Image.new("RGB", (60, 20)).save(folder / "Training" / "cat" / "wide.png")
    return folder


def test_a_folder(photos):
    found = as_json(photos)
    assert (found["subject"], found["kind"], found["class_names"]) == ("data", "image files", ["bird", "cat"])
    assert found["splits"]["train"]["by_class"] == {"bird": 4, "cat": 6}
    assert found["splits"]["test"]["by_class"] == {"bird": 3, "cat": 2}
    assert found["splits"]["train"]["width"][2] == 60
    assert [name.rpartition("/")[2] for name in found["splits"]["train"]["corrupt"]] == ["broken.jpg"]
    assert any("Training" in note and "train" in note for note in found["notes"])
    assert len(found["duplicates"]) == 1
    assert "as well, which inflates the accuracy" in found["duplicates"][0]
    assert found["next"] == f"effnets finetune {photos} --model mobilenetv2_100 --output RUN"
    text = doctor(photos)
    assert "image files, 2 classes" in text
    assert "corrupt: " in text
    assert "broken.jpg" in text


def test_what_it_says_is_what_training_reads(photos):
    found = as_json(photos, "--check", "none")
    splits = effnets.data.open_data(effnets.data.DataConfig(photos, check="none", val_share=0))
    assert found["class_names"] == list(splits.class_names)
    assert {name: split["images"] for name, split in found["splits"].items()} == {
        "train": len(splits.train),
        "test": len(splits.test),
    }
    assert not found["splits"]["train"]["corrupt"]


def test_a_table_and_an_empty_class(tmp_path):
    write(tmp_path / "data", by_class(3, ("bird", "cat")))
    lines = [
        f"data/{name}/{file.name};{name}" for name in ("bird", "cat") for file in (tmp_path / "data" / name).iterdir()
    ]
    (tmp_path / "list.csv").write_text("\n".join(["path;label", *lines]))
    assert as_json(tmp_path / "list.csv")["splits"]["all"]["images"] == 6
    (tmp_path / "data" / "dog").mkdir()
    found = as_json(tmp_path / "data")
    assert found["empty"] == ["dog"]
    assert "remove the empty folders (dog)" in found["next"]
    assert "without an image: dog" in doctor(tmp_path / "data")


def test_what_is_no_data(tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"PK")
    assert "unpack it" in doctor(tmp_path / "photos.zip", status=1)
    assert "does not exist" in doctor(tmp_path / "nowhere", status=1)
    assert "is an exported model: effnets predict PHOTO --weights" in doctor("model.onnx", status=2)


@pytest.fixture
def network():
    return effnets.create_model("mobilenetv1_025", num_classes=3)


def test_a_checkpoint_of_a_training_program(network, tmp_path):
    average = effnets.create_model("mobilenetv1_025", num_classes=3)
    content = {
        "model": {f"module.{name}": value for name, value in network.state_dict().items()},
        "model_ema": average.state_dict(),
        "args": Namespace(lr=0.1),
        "epoch": 3,
    }
    torch.save(content, tmp_path / "last.pth.tar")
    found = as_json(tmp_path / "last.pth.tar")
    assert (found["subject"], found["dialect"], found["num_classes"]) == ("checkpoint", "effnets", 3)
    assert "mobilenetv1_025" in found["models"]
    assert found["class_names"] is None
    assert found["parameters"] == sum(value.numel() for value in network.state_dict().values())
    notes = " ".join(found["notes"])
    assert "the file also holds averaged weights ('model_ema'); choose them with ema=True (--ema)" in notes
    assert "prefix 'module.' taken off their names" in notes
    assert found["next"].startswith("effnets predict PHOTO --model ")
    assert "averaged weights" in doctor(tmp_path / "last.pth.tar")


def test_a_saved_network_knows_its_classes(network, tmp_path):
    network.class_names = ("bird", "cat", "007")
    effnets.save_pretrained(network, tmp_path / "saved")
    for subject in (tmp_path / "saved", tmp_path / "saved" / "model.safetensors"):
        assert as_json(subject)["class_names"] == ["bird", "cat", "007"]
    assert "bird, cat, 007" in doctor(tmp_path / "saved")


def test_a_backbone_and_a_network_of_ones_own(tmp_path):
    backbone = effnets.create_model("mobilenetv1_025", num_classes=0)
    effnets.save_weights(backbone, tmp_path / "backbone.safetensors")
    found = as_json(tmp_path / "backbone.safetensors")
    assert found["num_classes"] is None
    assert found["next"].startswith("effnets finetune DATA --model ")
    narrow = {name: value[:-1] if value.ndim else value for name, value in backbone.state_dict().items()}
    torch.save(narrow, tmp_path / "own.pth")
    found = as_json(tmp_path / "own.pth")
    assert found["models"] == []
    assert "with a table of your network" in found["next"]
    assert "no network of the zoo" in doctor(tmp_path / "own.pth")


def test_data_need_no_torch(photos):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from effnets.cli import main\n"
        "main(['doctor', sys.argv[1]], standalone_mode=False)"
    )
    result = subprocess.run([sys.executable, "-c", program, photos], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "image files, 2 classes" in result.stdout
