"""``effnets convert``, run as a user runs it."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import effnets
from effnets.cli import main
from tests.support import shake


def convert(*arguments: object, status: int = 0):
    result = CliRunner().invoke(main, ["convert", *map(str, arguments)])
    assert result.exit_code == status, result.output + repr(result.exception)
    return result


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "w.safetensors"
    effnets.save_weights(shake(effnets.create_model("tf_mobilenetv2_035", num_classes=3), size=64), path)
    return path


@pytest.mark.parametrize(
    ("to", "name"), [("timm", "out.pth"), ("transformers", "out.safetensors"), ("keras", "out.h5")]
)
def test_there_and_back(weights, tmp_path, to, name):
    output = convert(weights, tmp_path / name, "--model", "tf_mobilenetv2_035", "--to", to).stdout
    assert "w.safetensors (effnets names): 314 tensors loaded" in output
    assert f"{name} ({to} names): written" in output
    back = tmp_path / "back.safetensors"
    report = convert(tmp_path / name, back, "--model", "tf_mobilenetv2_035", "--from", to, "--to", "effnets").stdout
    assert f"({to} names)" in report
    before, after = load_file(weights), load_file(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before if not key.endswith("num_batches_tracked"))


def test_files_without_classifier(weights, tmp_path):
    headless = effnets.create_model("tf_mobilenetv2_035", weights=weights, num_classes=0)
    effnets.save_weights(headless, weights)
    convert(weights, tmp_path / "out.h5", "--model", "tf_mobilenetv2_035", "--to", "keras")
    effnets.load_weights(headless, tmp_path / "out.h5", head="strict")


@pytest.fixture
def google(tmp_path):
    """Weights of 1001 outputs as Google's lie in transformers' names: no header says what the first is."""
    path = tmp_path / "google.bin"
    network = shake(effnets.create_model("tf_mobilenetv2_035", num_classes=1001), size=64)
    effnets.save_weights(network, path, dialect="transformers")
    return path


@pytest.mark.parametrize(("to", "name"), [("effnets", "out.safetensors"), ("keras", "out.h5")])
def test_background_stays_where_it_is_counted_in(google, tmp_path, to, name):
    options = ("--model", "tf_mobilenetv2_035", "--num-classes", 1001)
    assert "dropped" not in convert(google, tmp_path / name, *options, "--to", to).stdout
    convert(tmp_path / name, tmp_path / "back.bin", *options, "--to", "transformers")
    before, after = (torch.load(path, weights_only=True) for path in (google, tmp_path / "back.bin"))
    assert before["classifier.weight"].shape[0] == 1001
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before if not key.endswith("num_batches_tracked"))


def test_kept_background_is_stated(google, tmp_path):
    options = ("--model", "tf_mobilenetv2_035", "--to", "effnets")
    convert(google, tmp_path / "kept.safetensors", *options, "--num-classes", 1001)
    assert effnets.create_model("tf_mobilenetv2_035", weights=tmp_path / "kept.safetensors").num_classes == 1000


@pytest.mark.parametrize(
    ("options", "outputs"), [((), 1000), (("--num-classes", 1000), 1000), (("--num-classes", 0), 0)]
)
def test_background_goes_unless_it_is_counted_in(google, tmp_path, options, outputs):
    out = tmp_path / "out.safetensors"
    report = convert(google, out, "--model", "tf_mobilenetv2_035", "--to", "timm", *options).stdout
    assert "of 1001 outputs the first, background, was dropped" in report
    if outputs:
        assert torch.equal(
            load_file(out)["classifier.bias"], torch.load(google, weights_only=True)["classifier.bias"][1:]
        )
    else:
        assert "classifier.bias" not in load_file(out)


@pytest.mark.parametrize(("name", "had"), [("google.bin", 1000), ("w.safetensors", 3)])
def test_another_number_of_outputs(google, weights, tmp_path, name, had):  # noqa: ARG001
    options = ("--model", "tf_mobilenetv2_035", "--to", "timm", "--num-classes", 500)
    message = convert(tmp_path / name, tmp_path / "out.pth", *options, status=1).stderr
    assert f"{name}: num_classes is 500, and the file has {had} outputs, a background not counted" in message
    assert not (tmp_path / "out.pth").exists()


def test_the_same_file(weights, tmp_path):
    (tmp_path / "link.safetensors").hardlink_to(weights)
    before = weights.read_bytes()
    for target in (weights, tmp_path / "link.safetensors", tmp_path / "." / "w.safetensors"):
        result = convert(weights, target, "--model", "tf_mobilenetv2_035", "--to", "timm", status=1)
        assert "is the file to read as well; name another to write" in result.stderr
    assert weights.read_bytes() == before


@pytest.mark.parametrize(
    ("model", "to", "message"),
    [
        ("tf_mobilenetv2_035", "jax", "dialect is 'jax'; choose one of effnets, timm, torchvision"),
        ("tf_mobilenetv2_035", "clovaai", "clovaai's own network has padding symmetric, this one same"),
        ("tf_mobilenetv2_035", "keras", "out.pth: weights of dialect keras are written as .h5 or .hdf5"),
        ("mixnet_s", "timm", "does not fit mixnet_s"),
        ("mixnet_z", "timm", "no model named 'mixnet_z'"),
    ],
)
def test_mistakes_end_in_a_line(weights, tmp_path, model, to, message):
    assert message in convert(weights, tmp_path / "out.pth", "--model", model, "--to", to, status=1).stderr
    assert not (tmp_path / "out.pth").exists()


def test_usage(weights):
    assert "Usage:" in convert(weights, status=2).stderr
