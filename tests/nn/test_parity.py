"""Every network that timm has too gives timm's logits, and the comparison sees the mistakes one makes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import effnets
import effnets.spec.plan
from effnets.errors import WeightsError
from effnets.nn.blocks import InvertedResidual, LinearBottleneck
from effnets.nn.layers import Conv2d, MixedConv, SqueezeExcite
from effnets.spec import plan as block_plan
from effnets.spec.block_string import encode_block
from tests.support import error_between, images, shake

timm = pytest.importorskip("timm", reason="timm, the reference, is not installed")

FAMILIES = ("mobilenetv1*", "mobilenetv2*", "mixnet*", "tf_mixnet*", "rexnet*")
TIMM_NAMES = (
    *("mixnet_s", "mixnet_m", "mixnet_l", "mixnet_xl", "mixnet_xxl", "tf_mixnet_s", "tf_mixnet_m", "tf_mixnet_l"),
    *("mobilenetv1_100", "mobilenetv1_100h", "mobilenetv1_125"),
    *("mobilenetv2_035", "mobilenetv2_050", "mobilenetv2_075", "mobilenetv2_100", "mobilenetv2_110d"),
    *("mobilenetv2_120d", "mobilenetv2_140"),
    *("rexnet_100", "rexnet_130", "rexnet_150", "rexnet_200", "rexnet_300"),
    *("rexnetr_100", "rexnetr_130", "rexnetr_150", "rexnetr_200", "rexnetr_300"),
)
RENAMED = {"semnasnet_100": "mnasnet_a1", "fbnetc_100": "fbnet_c", "efficientnet_lite0": "efficientnet_lite0"}
PAIRS = {**{name: name for name in TIMM_NAMES}, **RENAMED}
ONE_A_FAMILY = ("mobilenetv1_100h", "mobilenetv2_035", "mixnet_s", "tf_mixnet_s", "rexnet_100", *RENAMED)

TOLERANCE = 1e-4
# An error this large stands clear of the tolerance: such a mistake cannot pass.
SEEN = 10 * TOLERANCE
INPUTS = {"even": (2, 3, 224, 224), "odd": (1, 3, 193, 257)}


def tolerance(name: str) -> float:
    return 3 * TOLERANCE if name == "mixnet_xxl" else TOLERANCE


def shaken_timm(name: str) -> nn.Module:
    torch.manual_seed(0)
    return shake(timm.create_model(name), bn_high=1.5 if name == "mixnet_xxl" else 2.0)


def save(model: nn.Module, folder) -> str:
    path = folder / "timm.safetensors"
    save_file(model.state_dict(), path)
    return str(path)


@torch.no_grad()
def errors(expected: nn.Module, actual: nn.Module) -> dict[str, float]:
    """The largest error of `actual`'s logits at each input."""
    found = {}
    for name, shape in INPUTS.items():
        logits, ours = expected(images(*shape)), actual(images(*shape))
        assert logits.shape == ours.shape
        assert logits.dtype == ours.dtype == torch.float32
        found[name] = error_between(logits, ours)
    return found


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_timm_has_no_model_that_is_not_compared():
    listed = {name for pattern in FAMILIES for name in timm.list_models(pattern)}
    assert listed == set(TIMM_NAMES)
    assert set(PAIRS.values()) <= set(effnets.list_models())


@pytest.mark.parametrize(("timm_name", "name"), PAIRS.items(), ids=PAIRS.keys())
def test_logits_equal_timm(timm_name, name, tmp_path):
    reference = shaken_timm(timm_name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a newly initialized classifier would warn
        model = effnets.create_model(name, weights=save(reference, tmp_path)).eval()
    assert count_parameters(model) == count_parameters(reference) == effnets.count(name).params
    assert model.load_report.dialect == "timm"
    assert set(model.load_report.loaded) == set(model.state_dict())
    assert (model.load_report.reinitialised, model.load_report.dropped) == ((), ())
    found = errors(reference, model)
    assert max(found.values()) <= tolerance(timm_name), found


def test_the_network_for_32_pixels_equals_timms_of_the_same_rows(tmp_path):
    """timm has no such model, but the builder of its MixNets makes one; its stem always has stride 2."""
    rows = [[encode_block(block)] for block in effnets.load_spec("mixnet_xs_32px").blocks]
    torch.manual_seed(0)
    reference = timm.models.efficientnet.EfficientNet(
        timm.models._efficientnet_builder.decode_arch_def(rows), num_classes=10, num_features=512, stem_size=32
    )
    reference.conv_stem.stride = (1, 1)
    path = save(shake(reference, size=32), tmp_path)
    model = effnets.create_model("mixnet_xs_32px", weights=path).eval()
    assert count_parameters(model) == count_parameters(reference) == effnets.count("mixnet_xs_32px").params == 708_252
    for shape in ((2, 3, 32, 32), (1, 3, 33, 45)):
        with torch.no_grad():
            assert error_between(reference(images(*shape)), model(images(*shape))) <= TOLERANCE


@pytest.mark.parametrize("timm_name", ONE_A_FAMILY)
def test_feature_maps_equal_timm(timm_name, tmp_path):
    path = save(shaken_timm(timm_name), tmp_path)
    # Asked for pretrained weights, timm silently builds fbnetc_100 with another epsilon.
    epsilon = {"bn_eps": 1e-5} if timm_name == "fbnetc_100" else {}
    overlay = {"file": path, "num_classes": 1000}
    reference = timm.create_model(
        timm_name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay, **epsilon
    ).eval()
    model = effnets.create_model(PAIRS[timm_name], weights=path, features_only=True).eval()
    assert model.feature_info.channels() == reference.feature_info.channels()
    assert model.feature_info.reduction() == reference.feature_info.reduction()
    for shape in INPUTS.values():
        with torch.no_grad():
            expected, actual = reference(images(*shape)), model(images(*shape))
        assert len(expected) == len(actual) == 5
        for level, (theirs, ours) in enumerate(zip(expected, actual, strict=True)):
            assert theirs.shape == ours.shape
            assert error_between(theirs, ours) <= TOLERANCE, f"level {level}"


@pytest.mark.parametrize("timm_name", ONE_A_FAMILY)
def test_weights_saved_for_timm_are_timms(timm_name, tmp_path):
    torch.manual_seed(0)
    model = shake(effnets.create_model(PAIRS[timm_name]), size=64)
    path = tmp_path / "saved.safetensors"
    effnets.save_weights(model, path, dialect="timm")
    reference = timm.create_model(timm_name)
    reference.load_state_dict(load_file(path), strict=True)
    found = errors(reference.eval(), model)
    assert max(found.values()) <= TOLERANCE, found

    again = effnets.create_model(PAIRS[timm_name], weights=path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_timm_has_no_rexnet_lite(tmp_path):
    model = effnets.create_model("rexnet_lite_100")
    with pytest.raises(WeightsError, match="timm has no network like this one, only those of EfficientNet"):
        effnets.save_weights(model, tmp_path / "saved.safetensors", dialect="timm")
    assert not list(tmp_path.iterdir())


# Kernel studies: no names of timm's, but its builder makes them, with the uneven splits that the named models lack.
KERNEL_STUDIES = {
    "mobilenetv1_100_k3_5_7": "dsa_r1_{k}_s1_c64 dsa_r2_{k}_s2_c128 dsa_r2_{k}_s2_c256 dsa_r6_{k}_s2_c512 "
    "dsa_r2_{k}_s2_c1024",
    "mobilenetv2_100_k3_5_7_9_11": "ds_r1_{k}_s1_c16 ir_r2_{k}_s2_e6_c24 ir_r3_{k}_s2_e6_c32 ir_r4_{k}_s2_e6_c64 "
    "ir_r3_{k}_s1_e6_c96 ir_r3_{k}_s2_e6_c160 ir_r1_{k}_s1_e6_c320",
}


def timm_kernel_study(name: str) -> nn.Module:
    from timm.models._efficientnet_builder import decode_arch_def, round_channels
    from timm.models.efficientnet import EfficientNet

    kernels = "k" + name.split("_k")[1].replace("_", ".")
    torch.manual_seed(0)
    model = EfficientNet(
        block_args=decode_arch_def([[row] for row in KERNEL_STUDIES[name].format(k=kernels).split()]),
        num_features=1280 if "v2" in name else 0,
        stem_size=32,
        round_chs_fn=partial(round_channels, multiplier=1.0),
        act_layer=nn.ReLU6,
    )
    return shake(model)


@pytest.mark.parametrize("name", KERNEL_STUDIES)
def test_kernel_studies_equal_timms_builder(name, tmp_path):
    reference = timm_kernel_study(name)
    model = effnets.create_model(name, weights=save(reference, tmp_path)).eval()
    uneven = [part for part in model.modules() if isinstance(part, MixedConv) and len(set(part.splits)) > 1]
    assert uneven, "an even split would not show which group has the remainder"
    found = errors(reference, model)
    assert max(found.values()) <= TOLERANCE, found


def test_the_remainder_in_the_last_group_is_refused(tmp_path, monkeypatch):
    """A split with other sizes has weights of other shapes: it is not judged by logits, it does not load."""
    path = save(timm_kernel_study("mobilenetv1_100_k3_5_7"), tmp_path)
    right = block_plan.split_channels
    monkeypatch.setattr(block_plan, "split_channels", lambda *arguments: right(*arguments)[::-1])
    with pytest.raises(WeightsError, match=r"does not fit mobilenetv1_100_k3_5_7(.|\n)*depthwise\.conv\.0\.weight"):
        effnets.create_model("mobilenetv1_100_k3_5_7", weights=path)


def parts(model: nn.Module, kind: type[nn.Module]) -> list:
    found = [part for part in model.modules() if isinstance(part, kind)]
    assert found, f"no {kind.__name__} to change"
    return found


def wrong_bn_eps(model: nn.Module) -> None:
    for bn in parts(model, nn.BatchNorm2d):
        assert bn.eps == 1e-5
        bn.eps = 1e-3


def relu_for_relu6(model: nn.Module) -> None:
    """In a ReXNet, these are the activations after the depthwise convolutions."""
    assert parts(model, nn.ReLU6)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(parent, name, nn.ReLU())


def linear_squeeze(model: nn.Module) -> None:
    for squeeze in parts(model, SqueezeExcite):
        squeeze.act = nn.Identity()


def no_squeeze(model: nn.Module) -> None:
    for block in parts(model, InvertedResidual):
        block.se = nn.Identity()


def last_slice_first(model: nn.Module) -> None:
    """The kernels in reverse over the slices. MixNet's slices are equal, so that this fits."""
    for mixed in parts(model, MixedConv):
        if mixed[0].groups > 1 and len(set(mixed.splits)) == 1:
            reversed_kernels = list(mixed)[::-1]
            for index, conv in enumerate(reversed_kernels):
                mixed[index] = conv


def symmetric_padding(model: nn.Module) -> None:
    strided = [conv for conv in parts(model, Conv2d) if conv.pads_by_size]
    assert strided
    for conv in strided:
        conv.pads_by_size = False
        conv.padding = (conv.reach // 2, conv.reach // 2)


def change_shortcuts(model: nn.Module, add: Callable[[Tensor, Tensor], Tensor]) -> None:
    def forward(block: LinearBottleneck, x: Tensor) -> Tensor:
        return add(x, block.project(block.act(block.se(block.depthwise(block.expand(x))))))

    for block in parts(model, LinearBottleneck):
        if block.shortcut:
            block.forward = partial(forward, block)


def full_shortcut(x: Tensor, y: Tensor) -> Tensor:
    """The new channels get a share of the input too."""
    return y + torch.cat([x, x[:, : y.shape[1] - x.shape[1]]], dim=1)


def no_shortcut(_: Tensor, y: Tensor) -> Tensor:
    return y


def last_channels_shortcut(x: Tensor, y: Tensor) -> Tensor:
    new = y.shape[1] - x.shape[1]
    return torch.cat([y[:, :new], y[:, new:] + x], dim=1)


MUTANTS = {
    "bn-eps-mobilenetv1": ("mobilenetv1_100", wrong_bn_eps),
    "bn-eps-mobilenetv2": ("mobilenetv2_100", wrong_bn_eps),
    "bn-eps-mixnet": ("mixnet_s", wrong_bn_eps),
    "bn-eps-rexnet": ("rexnet_100", wrong_bn_eps),
    "relu-mobilenetv1": ("mobilenetv1_100", relu_for_relu6),
    "relu-mobilenetv2": ("mobilenetv2_100", relu_for_relu6),
    "relu-rexnet-depthwise": ("rexnet_100", relu_for_relu6),
    "squeeze-without-activation-mixnet": ("mixnet_s", linear_squeeze),
    "squeeze-without-activation-rexnet": ("rexnet_100", linear_squeeze),
    "no-squeeze-mixnet": ("mixnet_s", no_squeeze),
    "kernels-on-other-slices": ("mixnet_s", last_slice_first),
    "symmetric-padding": ("tf_mixnet_s", symmetric_padding),
    "full-shortcut": ("rexnet_100", partial(change_shortcuts, add=full_shortcut)),
    "shortcut-on-last-channels": ("rexnet_100", partial(change_shortcuts, add=last_channels_shortcut)),
    "no-shortcut": ("rexnet_100", partial(change_shortcuts, add=no_shortcut)),
}


@pytest.mark.parametrize(("name", "change"), MUTANTS.values(), ids=MUTANTS.keys())
def test_comparison_sees(name, change, tmp_path):
    reference = shaken_timm(name)
    model = effnets.create_model(name, weights=save(reference, tmp_path)).eval()
    assert max(errors(reference, model).values()) <= TOLERANCE
    change(model)
    found = errors(reference, model)
    assert max(found.values()) > SEEN, f"a wrong network went unseen: {found}"
