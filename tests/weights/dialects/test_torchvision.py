"""torchvision's MobileNetV2 at two widths, both ways."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import effnets
from effnets.errors import WeightsError
from tests.support import error_between, images, shake

torchvision = pytest.importorskip("torchvision", reason="torchvision, the reference, is not installed")

TOLERANCE = 1e-4
WIDTHS = {"mobilenetv2_100": 1.0, "mobilenetv2_075": 0.75}
INPUTS = [(2, 3, 224, 224), (1, 3, 193, 225)]


def reference(name: str, num_classes: int = 1000) -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.mobilenet_v2(width_mult=WIDTHS[name], num_classes=num_classes)


@pytest.fixture(scope="module", params=WIDTHS)
def written(request, tmp_path_factory):
    """A model's name, torchvision's network, and the file it wrote."""
    network = shake(reference(request.param))
    path = tmp_path_factory.mktemp("torchvision") / "model.pth"
    torch.save(network.state_dict(), path)
    return request.param, network, path


def test_logits_are_torchvision_s(written):
    name, network, path = written
    model = effnets.create_model(name, weights=path).eval()
    assert model.load_report.dialect == "torchvision"
    assert model.load_report.notes == ()
    assert set(model.load_report.loaded) == set(model.state_dict())
    with torch.no_grad():
        for shape in INPUTS:
            assert error_between(network(images(*shape)), model(images(*shape))) <= TOLERANCE


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvision_loads_what_is_saved(written, tmp_path, suffix):
    name, network, path = written
    saved = tmp_path / f"saved{suffix}"
    effnets.save_weights(effnets.create_model(name, weights=path), saved, dialect="torchvision")
    if suffix == ".pth":
        tensors = torch.load(saved, weights_only=True)
    else:
        from safetensors.torch import load_file

        tensors = load_file(saved)
    assert list(tensors) == list(network.state_dict()) or suffix == ".safetensors"
    again = reference(name)
    again.load_state_dict(tensors, strict=True)
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key


def test_another_number_of_classes(tmp_path):
    network = shake(reference("mobilenetv2_075", num_classes=1001), size=64)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    assert effnets.create_model("mobilenetv2_075", weights=tmp_path / "w.pth").num_classes == 1001


@pytest.mark.parametrize("name", ["mobilenetv1_100", "mixnet_s", "rexnet_100", "mnasnet_a1", "mobilenetv2_100_32px"])
def test_networks_torchvision_has_not(name, tmp_path):
    model = effnets.create_model(name, num_classes=2)
    with pytest.raises(WeightsError, match=r"torchvision|other logits"):
        effnets.save_weights(model, tmp_path / "w.pth", dialect="torchvision")
    assert list(tmp_path.iterdir()) == []


def test_networks_that_give_other_logits_there(tmp_path):
    model = effnets.create_model("tf_mobilenetv2_035", num_classes=2)
    message = "torchvision's own network has padding symmetric, this one same; .*bn_eps 1e-05, this one 0.001"
    with pytest.raises(WeightsError, match=message):
        effnets.save_weights(model, tmp_path / "w.pth", dialect="torchvision")


def test_a_file_for_another_model(written):
    _, _, path = written
    with pytest.raises(
        WeightsError, match=r"model\.pth \(torchvision names\), for mixnet_s: torchvision has no network"
    ):
        effnets.create_model("mixnet_s", weights=path)


def test_a_file_for_another_setting_is_noted(written):
    name, _, path = written
    report = effnets.create_model(f"tf_{name}", weights=path).load_report
    assert report.notes[0] == "torchvision's own network has padding symmetric, this one same"
