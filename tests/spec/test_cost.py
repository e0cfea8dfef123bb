"""Counting by arithmetic equals counting by hooks on the real network, and the published figures."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import effnets
from effnets.errors import ArgumentError, UnknownModelError
from effnets.spec.cost import Cost, peak_memory, stage_costs, sum_costs
from effnets.spec.models import load_spec
from effnets.spec.plan import make_plan

ONE_A_FAMILY = (
    *("mobilenetv1_025", "tf_mobilenetv1_050", "mobilenetv1_100_conv", "mobilenetv1_100_k3_5_7_exp"),
    *("mobilenetv2_035", "mobilenetv2_100_32px", "mobilenetv2_100_k7_dil", "mixnet_s", "tf_mixnet_l"),
    *("rexnet_100", "rexnetr_130", "rexnet_lite_100"),
    *("mnasnet_a1", "fbnet_c", "proxylessnas_mobile", "efficientnet_lite0"),
)


def measure(model: nn.Module, height: int, width: int) -> Cost:
    """Parameters by their sizes, multiply-adds by hooks, on the meta device: shapes without values."""
    madds = 0

    def hook(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal madds
        if isinstance(module, nn.Conv2d):
            madds += output.numel() * (module.in_channels // module.groups) * math.prod(module.kernel_size)
        else:
            madds += output.numel() * inputs[0].shape[-1]

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(hook)
    with torch.no_grad():
        model.eval()(torch.empty(1, model.in_chans, height, width, device="meta"))
    return Cost(sum(parameter.numel() for parameter in model.parameters()), madds)


def on_meta(name, **arguments) -> nn.Module:
    return effnets.create_model(name, device="meta", **arguments)


@pytest.mark.parametrize("name", effnets.list_models())
def test_count_equals_hooks_at_own_size(name):
    size = load_spec(name).input_size
    assert effnets.count(name) == effnets.count(name, size) == measure(on_meta(name), size, size)


@pytest.mark.parametrize("size", [(97, 161), (33, 32), (1, 2)], ids=str)
@pytest.mark.parametrize("name", ONE_A_FAMILY)
def test_count_equals_hooks_at_odd_sizes(name, size):
    assert effnets.count(name, size) == measure(on_meta(name), *size)


CHANGED = {
    "classes": {"num_classes": 7},
    "no-classifier": {"num_classes": 0},
    "grey": {"in_chans": 1},
    "dilated": {"output_stride": 8},
    "features": {"features_only": True},
    "two-features": {"features_only": True, "out_indices": (0, 2), "in_chans": 4},
}


@pytest.mark.parametrize("arguments", CHANGED.values(), ids=CHANGED.keys())
@pytest.mark.parametrize("name", ["mobilenetv2_035", "mixnet_s", "rexnet_lite_100"])
def test_count_of_a_built_network_is_that_of_what_was_built(name, arguments):
    model = on_meta(name, **arguments)
    cost = effnets.count(model, (97, 161))
    assert cost == measure(model, 97, 161)
    assert cost != effnets.count(name, (97, 161)), "the change should show"


def test_count_follows_a_reset_classifier():
    model = effnets.create_model("mobilenetv1_025", num_classes=10)
    model.reset_classifier(3)
    assert effnets.count(model).params == sum(parameter.numel() for parameter in model.parameters())
    assert effnets.count(model) == effnets.count("mobilenetv1_025") + Cost(-997 * 257, -997 * 256)


def test_count_takes_names_files_and_specs(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("own_net: {base: mobilenetv1_100, width: 0.25}\n")
    spec = load_spec("mobilenetv1_025")
    assert effnets.count(path) == effnets.count(str(path)) == effnets.count(spec) == effnets.count(spec.name)


EXACT = {
    "mobilenetv1_100": (4_231_976, 568_740_352),
    "rexnet_090": (4_091_257, None),
    "mobilenetv2_100": (3_504_872, 300_774_272),
}


@pytest.mark.parametrize(("name", "figures"), EXACT.items(), ids=EXACT.keys())
def test_known_figures(name, figures):
    cost = effnets.count(name)
    assert cost.params == figures[0]
    if figures[1] is not None:
        assert cost.madds == figures[1]


# Millions of parameters and of multiply-adds as published, and half a unit of the last digit that was printed.
PUBLISHED = {
    "mobilenetv1_100_conv": ((29.29, 0.005), (4867, 0.5)),  # arXiv:1704.04861, table 4: 29.3 M, 4866 M
    "mobilenetv1_100_shallow": ((2.9, 0.05), (307, 0.5)),  # table 5
    "rexnet_lite_100": ((4.74, 0.005), (407, 0.5)),  # github.com/clovaai/rexnet
    "rexnet_lite_130": ((6.75, 0.005), (646, 0.5)),
    "rexnet_lite_150": ((8.33, 0.005), (836, 0.5)),
    "rexnet_lite_200": ((12.97, 0.005), (1498, 0.5)),
    "rexnet_200": ((16.37, 0.005), (1530, 5)),
    "mixnet_s": ((4.1, 0.05), (239, 0.5)),
    "mixnet_m": ((5.0, 0.05), (339, 0.5)),
    "mixnet_l": ((7.3, 0.05), (555, 0.5)),
}


@pytest.mark.parametrize(("name", "figures"), PUBLISHED.items(), ids=PUBLISHED.keys())
def test_published_figures(name, figures):
    cost = effnets.count(name)
    (params, params_digit), (madds, madds_digit) = figures
    assert cost.params / 1e6 == pytest.approx(params, abs=params_digit)
    assert cost.madds / 1e6 == pytest.approx(madds, abs=madds_digit)


# MixConv, arXiv:1907.09595, table 1: millions of parameters over the baseline of 3×3 kernels.
KERNEL_STUDY = {
    "mobilenetv1_100_k5": 0.08,
    "mobilenetv1_100_k7": 0.20,
    "mobilenetv1_100_k3_5": 0.04,
    "mobilenetv1_100_k3_5_7": 0.10,
    "mobilenetv2_100_k5": 0.12,
    "mobilenetv2_100_k7": 0.29,
    "mobilenetv2_100_k3_5": 0.06,
    "mobilenetv2_100_k3_5_7": 0.14,
}


@pytest.mark.parametrize(("name", "increase"), KERNEL_STUDY.items(), ids=KERNEL_STUDY.keys())
def test_increases_of_the_kernel_study(name, increase):
    baseline = effnets.count(name.split("_k")[0])
    assert (effnets.count(name).params - baseline.params) / 1e6 == pytest.approx(increase, abs=0.02)


def test_larger_kernels_cost_more_and_dilation_makes_up_for_it():
    by_kernel = [effnets.count(f"mobilenetv1_100{suffix}") for suffix in ("", "_k5", "_k7", "_k9", "_k11", "_k13")]
    assert by_kernel == sorted(by_kernel, key=lambda cost: (cost.params, cost.madds))
    assert len({cost.madds for cost in by_kernel}) == len(by_kernel)
    dilated = effnets.count("mobilenetv1_100_k13_dil")
    assert by_kernel[0].params < dilated.params < by_kernel[-1].params


def test_resolution_multiplier():
    """MobileNetV1, arXiv:1704.04861, table 7: multiply-adds at 224, 192, 160 and 128 pixels; parameters do not move."""
    costs = [effnets.count("mobilenetv1_100", size) for size in (224, 192, 160, 128)]
    assert [round(cost.madds / 1e6) for cost in costs] == [569, 418, 291, 186]
    assert len({cost.params for cost in costs}) == 1


@pytest.mark.parametrize("name", ["mobilenetv1_025", "mixnet_s", "rexnet_lite_100"])
def test_stage_costs_are_those_of_the_modules(name):
    model = on_meta(name)
    stages = stage_costs(model.plan, (97, 161))
    sizes = {}
    for stage in stages:
        module = model.get_submodule(stage.name)
        module.register_forward_hook(lambda _, __, output, name=stage.name: sizes.update({name: tuple(output.shape)}))
        assert stage.cost.params == sum(parameter.numel() for parameter in module.parameters()), stage.name
    model.eval()(torch.empty(1, 3, 97, 161, device="meta"))
    for stage in stages:
        expected = (1, stage.channels, *stage.size)
        assert sizes[stage.name] == (expected[:2] if stage.name == "classifier" else expected), stage.name
    assert [stage.name for stage in stages] == [
        "stem",
        *(f"stages.{index}" for index in range(len(model.stages))),
        *(["head"] if model.plan.head else []),
        *(["hidden"] if name == "rexnet_lite_100" else []),
        "classifier",
    ]
    assert sum_costs(stages) == effnets.count(name, (97, 161))


def test_costs_add():
    assert Cost(1, 2) + Cost(30, 40) == Cost(31, 42)
    assert sum_costs([]) == Cost(0, 0)


@pytest.mark.parametrize("size", [0, -1, (0, 224), (224, 0), (3, 224, 224), 224.5, "224", True, 8193], ids=str)
def test_sizes_without_pixels_are_refused(size):
    with pytest.raises(ArgumentError, match=r"input_size is .*; give a side or \(height, width\), each from 1 to 8192"):
        effnets.count("mobilenetv1_100", size)
    with pytest.raises(ArgumentError, match=r"input_size is "):
        stage_costs(make_plan(load_spec("mobilenetv1_100")), size)


def test_unknown_models_are_refused():
    with pytest.raises(UnknownModelError, match="mobilenetv9_100"):
        effnets.count("mobilenetv9_100")


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        # 96 channels at 112×112 enter the second stage's depthwise convolution and leave it at 56×56.
        ("mobilenetv2_100", 224, 4 * (96 * 112**2 + 96 * 56**2)),
        # The first separable block's pointwise convolution: 32 and 64 channels at 112×112.
        ("mobilenetv1_100", 224, 4 * (32 + 64) * 112**2),
        ("mobilenetv1_100", 64, 4 * (32 + 64) * 32**2),
    ],
)
def test_peak_memory_by_hand(name, size, expected):
    assert peak_memory(make_plan(load_spec(name)), size) == expected
