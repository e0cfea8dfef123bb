"""Every dialect's keys are claimed by that dialect alone; what nobody claims, or two do, is refused."""

from __future__ import annotations

import pytest
import torch

import effnets
from effnets.errors import WeightsError
from effnets.weights.dialects import DIALECTS, detect_dialect, get_dialect

HOLDS = {
    "effnets": ("mobilenetv1_025", "mobilenetv2_035", "mixnet_s", "rexnet_100", "rexnet_lite_100"),
    "timm": ("mobilenetv1_025", "mobilenetv1_100h", "mobilenetv2_035", "mixnet_s", "rexnet_100", "mnasnet_a1"),
    "torchvision": ("mobilenetv2_035", "mobilenetv2_110d"),
    "transformers": ("mobilenetv1_025", "tf_mobilenetv1_025", "mobilenetv2_035"),
    "keras": ("tf_mobilenetv1_025", "tf_mobilenetv2_035"),
    "clovaai": ("rexnet_100", "rexnet_lite_100"),
}
CASES = [(dialect, name, classes) for dialect, names in HOLDS.items() for name in names for classes in (0, 5)]


def keys(dialect: str, name: str, num_classes: int) -> dict[str, torch.Tensor]:
    model = effnets.create_model(name, num_classes=num_classes)
    return get_dialect(dialect).from_native(model.state_dict(), model.plan)


def test_every_dialect_is_here():
    assert set(HOLDS) == set(DIALECTS)


@pytest.mark.parametrize(("dialect", "name", "num_classes"), CASES)
def test_keys_are_claimed_by_their_dialect_alone(dialect, name, num_classes):
    found = keys(dialect, name, num_classes)
    assert [claimant.name for claimant in DIALECTS.values() if claimant.claims(found)] == [dialect]


@pytest.mark.parametrize(("dialect", "name", "num_classes"), CASES)
def test_there_and_back_is_the_same(dialect, name, num_classes):
    model = effnets.create_model(name, num_classes=num_classes)
    there = get_dialect(dialect).from_native(model.state_dict(), model.plan)
    back = get_dialect(dialect).to_native(there, model.plan)
    counters = {key for key in model.state_dict() if key.endswith("num_batches_tracked")}
    assert back.keys() >= model.state_dict().keys() - (counters if dialect == "keras" else set())
    for key, tensor in back.items():
        assert torch.equal(tensor, model.state_dict()[key]), key


@pytest.mark.parametrize(
    "strangers",
    [
        ["conv1.weight", "layer1.0.conv1.weight", "fc.weight"],
        ["features.0.0.weight", "features.1.block.0.0.weight"],
        ["features.0.weight", "features.2.weight", "classifier.0.weight"],
        ["conv1_conv/kernel", "conv2_block1_1_conv/kernel"],
        [],
    ],
    ids=["resnet", "mobilenetv3", "vgg", "keras resnet", "nothing"],
)
def test_other_networks_are_claimed_by_none(strangers):
    with pytest.raises(WeightsError, match=r"w\.pth: its keys .* are of no known dialect \(.*save the state_dict\(\)"):
        detect_dialect(strangers, "w.pth")


def test_mixtures_are_refused():
    mixture = keys("torchvision", "mobilenetv2_035", 5) | keys("timm", "mobilenetv2_035", 5)
    with pytest.raises(
        WeightsError, match=r"could be timm or torchvision; say which with load_weights\(model, path, dialect=…\) or"
    ):
        detect_dialect(mixture, "w.pth")


def test_a_native_name_among_others_is_refused(tmp_path):
    torch.save(keys("torchvision", "mobilenetv2_035", 5) | {"head.bn.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"does not fit mobilenetv2_035(?s:.*)\+ head\.bn\.weight \(unknown name\)"):
        effnets.create_model("mobilenetv2_035", weights=tmp_path / "w.pth")
