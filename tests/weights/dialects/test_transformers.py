"""transformers' MobileNetV1 and V2 at two widths, with background, both ways."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import effnets
from effnets.errors import WeightsError
from tests.support import Logits, error_between, images, shake

transformers = pytest.importorskip("transformers", reason="transformers, the reference, is not installed")

TOLERANCE = 1e-4
WIDTHS = {
    "tf_mobilenetv1_075": ("MobileNetV1", 0.75),
    "tf_mobilenetv1_100": ("MobileNetV1", 1.0),
    "tf_mobilenetv2_035": ("MobileNetV2", 0.35),
    "tf_mobilenetv2_140": ("MobileNetV2", 1.4),
}
INPUTS = [(2, 3, 224, 224), (1, 3, 193, 225)]


def config(name: str, num_labels: int):
    family, width = WIDTHS[name]
    return getattr(transformers, f"{family}Config")(depth_multiplier=width, num_labels=num_labels)


def reference(name: str, num_labels: int = 1001) -> nn.Module:
    torch.manual_seed(0)
    family = WIDTHS[name][0]
    return getattr(transformers, f"{family}ForImageClassification")(config(name, num_labels))


@pytest.fixture(scope="module", params=WIDTHS)
def written(request, tmp_path_factory):
    """A model's name, transformers' network as a function to logits, and the file it wrote."""
    network = shake(Logits(reference(request.param)))
    folder = tmp_path_factory.mktemp("transformers")
    network.network.save_pretrained(folder)
    return request.param, network, folder / "model.safetensors"


@torch.no_grad()
def test_logits_are_transformers_without_background(written):
    name, network, path = written
    model = effnets.create_model(name, weights=path).eval()
    assert model.num_classes == 1000
    assert model.load_report.dialect == "transformers"
    assert model.load_report.notes == ("of 1001 outputs the first, background, was dropped",)
    assert not model.background
    for shape in INPUTS:
        assert error_between(network(images(*shape))[:, 1:], model(images(*shape))) <= TOLERANCE


@torch.no_grad()
def test_background_stays_where_it_is_asked_for(written):
    name, network, path = written
    model = effnets.create_model(name, weights=path, num_classes=1001).eval()
    assert model.background
    assert model.load_report.notes == ()
    for shape in INPUTS:
        assert error_between(network(images(*shape)), model(images(*shape))) <= TOLERANCE


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_transformers_loads_all_1001_back(written, tmp_path, suffix):
    name, network, path = written
    saved = tmp_path / f"saved{suffix}"
    effnets.save_weights(effnets.create_model(name, weights=path, num_classes=1001), saved, dialect="transformers")
    tensors = load_file(saved) if suffix == ".safetensors" else torch.load(saved, weights_only=True)
    again = reference(name)
    again.load_state_dict(tensors, strict=True)
    for key, tensor in network.network.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key


@torch.no_grad()
def test_transformers_loads_1000_labels_from_a_folder(written, tmp_path):
    name, network, path = written
    effnets.save_weights(
        effnets.create_model(name, weights=path), tmp_path / "model.safetensors", dialect="transformers"
    )
    config(name, 1000).save_pretrained(tmp_path)
    again, info = type(network.network).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    x = images(2, 3, 224, 224)
    assert error_between(network(x)[:, 1:], again.eval()(x).logits) <= TOLERANCE


@torch.no_grad()
def test_base_models_both_ways(written, tmp_path):
    name, network, _ = written
    base = network.network.base_model
    base.save_pretrained(tmp_path)
    model = effnets.create_model(name, weights=tmp_path / "model.safetensors", num_classes=0).eval()
    x = images(2, 3, 224, 224)
    assert error_between(base(x).pooler_output, model(x)) <= TOLERANCE
    effnets.save_weights(model, tmp_path / "saved.safetensors", dialect="transformers")
    type(base)(base.config).load_state_dict(load_file(tmp_path / "saved.safetensors"), strict=True)


def test_other_classes_keep_their_first(tmp_path):
    network = reference("tf_mobilenetv1_075", num_labels=20)
    network.save_pretrained(tmp_path)
    assert effnets.create_model("tf_mobilenetv1_075", weights=tmp_path / "model.safetensors").num_classes == 20


@pytest.mark.parametrize("name", ["mobilenetv1_100h", "mobilenetv2_110d", "mobilenetv1_100_shallow", "mixnet_s"])
def test_networks_transformers_has_not(name, tmp_path):
    model = effnets.create_model(name, num_classes=2)
    with pytest.raises(WeightsError, match="transformers has no network like this one, only MobileNetV1 and"):
        effnets.save_weights(model, tmp_path / "w.safetensors", dialect="transformers")
