"""Rewritten networks compute what they computed: every rewrite alone, all together, on every family."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import effnets
from effnets.deploy.export.verify import normalized, probe_images
from effnets.deploy.optimize.optimize import default_rewrites
from effnets.deploy.optimize.rewrites import PRESETS, Rewrites
from effnets.deploy.optimize.sequential_block import SequentialBlock, blocks_of
from effnets.deploy.optimize.split import SplitConv
from effnets.nn.layers import Conv2d, MixedConv
from effnets.nn.mixed_depthwise import MixedDepthwiseConv
from tests.support import error_between, images, shake, shake_gently
from tests.support.rewriting import EXACT, FAMILIES, SHAPES, outputs, shaken, worst_error

NOTHING = PRESETS["none"].to_dict()
# Each rewrite with its choices; the first leaves things as they are.
CHOICES = {
    "fold_bn": (False, True),
    "depthwise": ("keep", "all", "cost"),
    "depthwise_taps": ((), (9, 25), (9,), (25,)),
    "equal_pointwise": ("keep", "group", "dense"),
    "unequal_pointwise": ("keep", "dense"),
    "align": (1, 8),
    "shortcut": ("concat", "pad", "inplace"),
    "squeeze_excite": ("conv", "vector"),
    "channels_last": (False, True),
    "fuse": (False, True),
    "mixed_kernel": (False, True),
}
ALONE = [{name: choice} for name, choices in CHOICES.items() for choice in choices[1:]]
ALONE += [{"align": 16}, {"depthwise": "1+2"}, {"depthwise": "2+2"}]


def combinations(name: str) -> list[dict]:
    """All of them, of the choices that make a difference to this network."""
    choices = dict(CHOICES)
    if "mix" not in name and "_k" not in name:
        choices["depthwise"] = choices["equal_pointwise"] = ("keep",)
    if "mixnet" not in name:
        choices["equal_pointwise"] = ("keep",)
    if "rexnet" not in name:
        choices["shortcut"] = ("concat", "inplace")
    # Those that meet in no layer go together.
    del choices["unequal_pointwise"], choices["squeeze_excite"], choices["fuse"], choices["depthwise_taps"]
    del choices["mixed_kernel"]
    found = []
    for values in itertools.product(*choices.values()):
        one = dict(zip(choices, values, strict=True))
        one["unequal_pointwise"] = "keep" if one["equal_pointwise"] == "keep" else "dense"
        one["squeeze_excite"] = "vector" if one["shortcut"] == "inplace" else "conv"
        one["fuse"] = one["mixed_kernel"] = one["channels_last"]
        one["depthwise_taps"] = (9, 25) if one["align"] > 1 else ()
        found.append(one)
    return found


def rewrites(choices: dict) -> Rewrites:
    return Rewrites.from_dict({**NOTHING, "copy_taps": 30, **choices})


def label(choices: dict) -> str:
    return "-".join(f"{name}={choice}" for name, choice in choices.items())


@pytest.mark.parametrize("choices", ALONE, ids=label)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_rewrite_alone_is_exact(name, choices):
    assert worst_error(effnets.optimize(shaken(name), rewrites(choices)), name) <= EXACT


@pytest.mark.parametrize("name", FAMILIES)
def test_every_combination_is_exact(name):
    x = images(2, 3, 33, 40).double()
    (reference,) = outputs(shaken(name), x)
    for choices in combinations(name):
        (actual,) = outputs(effnets.optimize(shaken(name), rewrites(choices)), x)
        assert error_between(reference, actual) <= EXACT, choices


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", FAMILIES)
def test_presets_are_close_in_float32(name, preset):
    torch.manual_seed(0)
    model = shake(effnets.create_model(name), size=128)
    x = images(3, 3, 129, 128)
    assert error_between(*outputs(model, x), *outputs(effnets.optimize(model, PRESETS[preset]), x)) <= 1e-4


@pytest.mark.full
@pytest.mark.parametrize("name", effnets.list_models())
def test_every_model_is_exact(name):
    torch.manual_seed(0)
    model = shake(effnets.create_model(name), bn_high=1.5, size=64).double()
    for preset in PRESETS.values():
        optimized = effnets.optimize(model, preset)
        for shape in SHAPES:
            x = images(*shape).double()
            assert error_between(*outputs(model, x), *outputs(optimized, x)) <= EXACT, (preset, shape)


@pytest.mark.full
@pytest.mark.parametrize("name", effnets.list_models())
def test_every_model_is_close_in_float32(name):
    torch.manual_seed(0)
    model = shake_gently(effnets.create_model(name))
    size = model.spec.input_size
    x = torch.from_numpy(normalized(probe_images(2, size, size, 3, seed=3), model.spec.preprocess))
    assert error_between(*outputs(model, x), *outputs(effnets.optimize(model), x)) <= 1e-4


@pytest.mark.parametrize("arguments", [{"output_stride": 8}, {"global_pool": "none"}, {"num_classes": 0}])
@pytest.mark.parametrize("name", ["tf_mixnet_s", "rexnet_100", "rexnet_lite_100"])
def test_variants_are_exact(name, arguments):
    for preset in PRESETS.values():
        assert worst_error(effnets.optimize(shaken(name, **arguments), preset), name, **arguments) <= EXACT


@pytest.mark.parametrize("align", [1, 16])
@pytest.mark.parametrize("name", ["mixnet_s", "rexnet_100"])
def test_feature_pyramids_keep_their_maps(name, align):
    model = shaken(name, features_only=True)
    choices = Rewrites(align=align, channels_last=True, fuse=True)
    optimized = effnets.optimize(model, choices)
    assert worst_error(optimized, name, features_only=True) <= EXACT
    assert [x.shape[1] for x in optimized(images(1, 3, 64, 64).double())] == model.feature_info.channels()


@pytest.mark.parametrize("align", [1, 16])
@pytest.mark.parametrize("name", ["rexnet_100", "rexnet_lite_100"])
def test_features_and_head_keep_their_channels(name, align):
    model = shaken(name)
    optimized = effnets.optimize(model, Rewrites(align=align))
    x = images(1, 3, 64, 64).double()
    features = model.forward_features(x)
    assert error_between(features, optimized.forward_features(x)) <= EXACT
    for pre_logits in (False, True):
        expected = model.forward_head(features, pre_logits=pre_logits)
        assert error_between(expected, optimized.forward_head(features, pre_logits=pre_logits)) <= EXACT


def kinds(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


def test_what_was_asked_for_is_done():
    """Exact is also what does nothing."""
    model = shaken("mixnet_s")
    merged = effnets.optimize(model, Rewrites(align=8))
    assert (kinds(merged, MixedConv), kinds(merged, nn.BatchNorm2d), kinds(merged, nn.Dropout)) == (0, 0, 0)
    assert kinds(model, MixedConv) == kinds(effnets.optimize(model, PRESETS["none"]), MixedConv) > 20
    assert any(conv.groups == 2 for conv in merged.modules() if isinstance(conv, nn.Conv2d))
    rexnet = effnets.optimize(shaken("rexnet_100"), PRESETS["onnxruntime"])
    convs = [conv for conv in rexnet.modules() if isinstance(conv, nn.Conv2d)]
    assert all(conv.out_channels % 8 == 0 for conv in convs)
    assert all(conv.in_channels % 8 == 0 for conv in convs[1:])
    assert {chain.shortcut for _, chain in blocks_of(rexnet)} == {None, "pad"}
    last = effnets.optimize(model, PRESETS["torch"]).stages(images(1, 16, 32, 32).double())
    assert last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("rule", "kernels"), [("2+2", [5, 9]), ("1+3", [3, 9]), ("4", [9]), ("2+1", [3, 5, 7, 9])])
def test_neighbors_are_merged_as_requested(rule, kernels):
    """The rule for one layer goes before the general one."""
    name = next(
        f"{chain}.depthwise"
        for chain, layers in blocks_of(effnets.optimize(shaken("mixnet_s"), PRESETS["none"]))
        if isinstance(getattr(layers, "depthwise", None), MixedConv) and len(layers.depthwise) == 4
    )
    choice = Rewrites(depthwise="all", layers=((name, rule),))
    optimized = effnets.optimize(shaken("mixnet_s"), choice)
    layer = optimized.get_submodule(name)
    convs = list(layer) if isinstance(layer, MixedConv) else [layer]
    assert [conv.kernel_size[0] for conv in convs] == kernels
    assert kinds(optimized, MixedConv) == (len(kernels) > 1)
    assert worst_error(optimized, "mixnet_s") <= EXACT


@pytest.mark.parametrize("name", ["mixnet_m", "tf_mixnet_m"])
def test_large_depthwise_kernels_become_the_cheapest_bands(name):
    network = effnets.create_model(name).eval()
    fast = effnets.optimize(network, Rewrites(depthwise="keep", depthwise_taps=(9, 25)))
    found = {
        kernel: [tuple(band.kernel_size) for band in layer]
        for layer in fast.modules()
        if isinstance(layer, SplitConv)
        for kernel in [layer.size]
    }
    assert found == {7: [(3, 7), (3, 7), (1, 7)], 9: [(1, 9)] * 9}
    kernels = {conv.kernel_size[0] for conv in fast.modules() if isinstance(conv, Conv2d) and conv.groups > 1}
    assert max(kernels) == 5


def test_kernels_that_no_fast_one_has_a_row_of_stay_whole():
    network = effnets.create_model("mixnet_m").eval()
    fast = effnets.optimize(network, Rewrites(depthwise="keep", depthwise_taps=(8,)))
    assert {layer.size for layer in fast.modules() if isinstance(layer, SplitConv)} == {3, 5, 7}  # not 9


def test_the_cost_model_merges_more_the_dearer_copies_are():
    counts = []
    for copy_taps in (0, 30, 1000):
        choice = Rewrites(depthwise="cost", copy_taps=copy_taps)
        optimized = effnets.optimize(shaken("mixnet_s"), choice)
        counts.append(sum(len(mixed) for mixed in optimized.modules() if isinstance(mixed, MixedConv)))
        assert worst_error(optimized, "mixnet_s") <= EXACT
    assert counts[0] > counts[1] > counts[2] == 0


def test_a_gpu_has_rewrites_of_its_own():
    assert default_rewrites(torch.device("cuda", 1)) is PRESETS["torch-cuda"]
    assert default_rewrites(torch.device("cpu")) is default_rewrites(torch.device("mps")) is PRESETS["torch"]
    optimized = effnets.optimize(shaken("mixnet_s"), PRESETS["torch-cuda"])
    mixed = [module for module in optimized.modules() if isinstance(module, MixedConv)]
    assert {type(module) for module in mixed} == {MixedDepthwiseConv}
    assert {module.activation for module in mixed} == {"silu"}
    assert all(conv.bias is not None for module in mixed for conv in module)


def test_all_blocks_are_chains():
    optimized = effnets.optimize(shaken("mixnet_s"))
    assert all(isinstance(block, SequentialBlock) for stage in optimized.stages for block in stage)
