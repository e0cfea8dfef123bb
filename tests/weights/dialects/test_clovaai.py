"""The official ReXNet's names. The code is no package, so its networks are restated here, module by module."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import effnets
from effnets.errors import WeightsError
from effnets.spec.plan import make_plan
from tests.support import error_between, images, shake

TOLERANCE = 1e-4
INPUTS = [(2, 3, 224, 224), (1, 3, 193, 225)]

# Of the 16 blocks at α = 1: 16 + i·180/16, rounded.
REXNET_100 = [16, 27, 38, 50, 61, 72, 84, 95, 106, 117, 128, 140, 151, 162, 174, 185]
STRIDES = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]


class SE(nn.Module):
    """Squeeze-and-excite as clovaai/rexnet names its parts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Conv2d(channels, channels // 12, 1),
            nn.BatchNorm2d(channels // 12),
            nn.ReLU(),
            nn.Conv2d(channels // 12, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(nn.functional.adaptive_avg_pool2d(x, 1))


def conv_bn(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, se: bool, lite: bool) -> None:
        super().__init__()
        wide = inputs * expansion
        parts: list[nn.Module] = []
        if expansion != 1:
            parts += [*conv_bn(inputs, wide), nn.ReLU6() if lite else nn.SiLU()]
        parts += conv_bn(wide, wide, 3, stride, groups=wide)
        parts += [SE(wide)] if se else []
        self.out = nn.Sequential(*parts, nn.ReLU6(), *conv_bn(wide, outputs))
        self.shortcut = stride == 1 and inputs <= outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.out(x)
        if not self.shortcut:
            return y
        return y + nn.functional.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))


class Reference(nn.Module):
    """ReXNet and ReXNet-lite under the official names, with given channels."""

    def __init__(self, stem: int, channels: list[int], head: int, lite: bool, classes: int = 1000) -> None:
        super().__init__()

        def activation() -> nn.Module:
            return nn.ReLU6() if lite else nn.SiLU()

        parts = [*conv_bn(3, stem, 3, 2), activation()]
        inputs = stem
        for index, (outputs, stride) in enumerate(zip(channels, STRIDES, strict=True)):
            parts.append(Bottleneck(inputs, outputs, 6 if index else 1, stride, index > 2 and not lite, lite))
            inputs = outputs
        parts += [*conv_bn(inputs, head), activation()]
        if lite:
            self.features = nn.Sequential(*parts)
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            hidden = [nn.Conv2d(head, 1024, 1), nn.BatchNorm2d(1024), nn.ReLU6()]
            self.output = nn.Sequential(*hidden, nn.Dropout(0.2), nn.Conv2d(1024, classes, 1))
        else:
            self.features = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1))
            self.avgpool = nn.Identity()
            self.output = nn.Sequential(nn.Dropout(0.2), nn.Conv2d(head, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.avgpool(self.features(x))).flatten(1)


def reference(name: str) -> Reference:
    if name == "rexnet_100":
        return Reference(32, REXNET_100, 1280, lite=False)
    plan = make_plan(effnets.load_spec(name))
    channels = [block.out_channels for block in plan.blocks]
    return Reference(plan.stem.out_channels, channels, plan.head.out_channels, lite=plan.hidden_channels > 0)


@pytest.fixture(scope="module", params=["rexnet_100", "rexnet_130", "rexnet_lite_100", "rexnet_lite_150"])
def written(request, tmp_path_factory):
    torch.manual_seed(0)
    network = shake(reference(request.param))
    path = tmp_path_factory.mktemp("clovaai") / "rexnet.pth"
    torch.save(network.state_dict(), path)
    return request.param, network, path


@torch.no_grad()
def test_logits_are_the_writer_s(written):
    name, network, path = written
    model = effnets.create_model(name, weights=path).eval()
    assert model.load_report.dialect == "clovaai"
    assert model.load_report.notes == ()
    assert set(model.load_report.loaded) == set(model.state_dict())
    for shape in INPUTS:
        assert error_between(network(images(*shape)), model(images(*shape))) <= TOLERANCE


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_writer_loads_what_is_saved(written, tmp_path, suffix):
    name, network, path = written
    saved = tmp_path / f"saved{suffix}"
    effnets.save_weights(effnets.create_model(name, weights=path), saved, dialect="clovaai")
    tensors = load_file(saved) if suffix == ".safetensors" else torch.load(saved, weights_only=True)
    again = reference(name)
    again.load_state_dict(tensors, strict=True)
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key


def test_timm_s_rexnet_in_the_official_names(tmp_path):
    """A second writer, not ours: timm's network in, and the restated one out."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    network = shake(timm.create_model("rexnet_150"))
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    effnets.save_weights(
        effnets.create_model("rexnet_150", weights=tmp_path / "timm.pth"), tmp_path / "w.pth", dialect="clovaai"
    )
    official = reference("rexnet_150")
    official.load_state_dict(torch.load(tmp_path / "w.pth", weights_only=True), strict=True)
    with torch.no_grad():
        x = images(2, 3, 224, 224)
        assert error_between(network(x), official.eval()(x)) <= TOLERANCE


@pytest.mark.parametrize("name", ["rexnetr_100", "rexnetr_200", "mobilenetv2_100", "mixnet_s"])
def test_networks_clovaai_has_not(name, tmp_path):
    model = effnets.create_model(name, num_classes=2)
    with pytest.raises(WeightsError, match="clovaai/rexnet has no network like this one, only ReXNet and ReXNet-lite"):
        effnets.save_weights(model, tmp_path / "w.pth", dialect="clovaai")


@pytest.mark.parametrize("name", [name for name in effnets.list_models("rexnet_*") if "32px" not in name])
def test_every_rexnet_has_names(name, tmp_path):
    model = effnets.create_model(name, num_classes=2)
    effnets.save_weights(model, tmp_path / "w.pth", dialect="clovaai")
    loaded = effnets.create_model(name, weights=tmp_path / "w.pth")
    assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in model.state_dict().items())
