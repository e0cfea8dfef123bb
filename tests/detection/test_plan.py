"""Counting SSDLite by arithmetic: the papers' figures, and what the modules hold."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

import effnets
from effnets.detection.plan import count_ssdlite, plan_ssdlite
from effnets.errors import ArgumentError
from effnets.spec.cost import Cost
from effnets.spec.models import load_spec
from effnets.spec.plan import make_plan
from scripts.cost_table import DETECTOR_STUDY
from tests.support.networks import ONE_A_FAMILY

KERNEL_STUDIES = effnets.list_models("mobilenetv?_100*_k*")


def measure(name: str, num_classes: int, size: int) -> Cost:
    """Parameters by their sizes, multiply-adds by hooks, on the meta device."""
    detector = effnets.create_detector(name, "ssdlite", num_classes=num_classes, device="meta").eval()
    madds = 0

    def hook(module: nn.Conv2d, _: object, output: torch.Tensor) -> None:
        nonlocal madds
        madds += output.numel() * (module.in_channels // module.groups) * math.prod(module.kernel_size)

    for module in detector.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(hook)
    with torch.no_grad():
        maps = detector.backbone(torch.empty(1, 3, size, size, device="meta"))
        detector.head(list(maps.values()))
    return Cost(sum(parameter.numel() for parameter in detector.parameters()), madds)


@pytest.mark.parametrize(("name", "stated"), DETECTOR_STUDY.items())
def test_the_mixconv_papers_table(name, stated):
    """With 82 outputs a box; docs/costs.md says why not 91."""
    cost = count_ssdlite(name, num_classes=82)
    assert cost.params / 1e6 == pytest.approx(stated[0], abs=0.02)
    assert cost.madds / 1e9 == pytest.approx(stated[1], abs=0.01)


def test_the_published_detector():
    """Open Model Zoo counts 4.475 M in ssdlite_mobilenet_v2_coco, whose batch normalizations are folded into biases."""
    detector = effnets.create_detector("mobilenetv2_100", "ssdlite", num_classes=91, device="meta")
    norms = sum(part.num_features for part in detector.modules() if isinstance(part, nn.BatchNorm2d))
    assert (count_ssdlite("mobilenetv2_100").params - norms) / 1e6 == pytest.approx(4.475, abs=0.0005)


@pytest.mark.parametrize("name", ["mobilenetv1_100_k3_5_7", "mobilenetv2_100_k7", *ONE_A_FAMILY])
@pytest.mark.parametrize("size", [320, 225])
def test_the_plan_is_what_the_modules_hold(name, size):
    assert count_ssdlite(name, num_classes=7, image_size=size) == measure(name, 7, size)


@pytest.mark.full
@pytest.mark.parametrize("name", KERNEL_STUDIES)
def test_the_plan_of_every_kernel_study(name):
    assert count_ssdlite(name) == measure(name, 91, 320)


def test_kernel_studies_are_found():
    assert len(KERNEL_STUDIES) >= 50


def test_where_the_finest_map_is():
    spec = load_spec("mobilenetv2_100")
    plan = plan_ssdlite(spec, make_plan(spec), 91)
    assert plan.expanded
    assert plan.channels == (576, 1280, 512, 256, 256, 128)
    assert plan.network.stages[plan.tap][0].stride == 2
    spec = load_spec("mobilenetv1_100")
    plan = plan_ssdlite(spec, make_plan(spec), 91)
    assert not plan.expanded
    assert plan.channels == (512, 1024, 512, 256, 256, 128)
    assert [predictor.pointwise.out_channels for predictor in plan.classes] == [3 * 91, *[6 * 91] * 5]


def test_extras_follow_the_width_multiplier():
    spec = load_spec("mobilenetv1_025")
    assert plan_ssdlite(spec, make_plan(spec), 91).channels == (128, 256, 128, 64, 64, 32)


def test_counting_needs_no_torch():
    code = (
        "import sys; from effnets.detection.plan import count_ssdlite; "
        "print(count_ssdlite('mobilenetv2_100').params); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_network_without_such_maps():
    with pytest.raises(ArgumentError, match=r"mobilenetv2_100_32px: has maps of reduction .* SSDLite needs 16 and 32"):
        count_ssdlite("mobilenetv2_100_32px")


@pytest.mark.parametrize("num_classes", [1, 0, -3, 2.0, True, "91", None])
def test_num_classes_counts_the_background(num_classes):
    with pytest.raises(ArgumentError, match=r"num_classes is .*; as in torchvision it includes the background"):
        count_ssdlite("mobilenetv2_100", num_classes=num_classes)
