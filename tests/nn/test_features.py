"""Feature pyramids: channels and strides of every model, values, dilation, and the choice of levels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import effnets
from effnets.errors import ArgumentError, WeightsError
from tests.support import error_between, images, shake
from tests.support.networks import ONE_A_FAMILY, create_features


def saved_classifier(name: str, folder, **arguments):
    """A classifier that sees, and its weights' file."""
    torch.manual_seed(0)
    model = shake(effnets.create_model(name, **arguments), size=96)
    path = folder / "weights.safetensors"
    effnets.save_weights(model, path)
    return model, path


def record(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """What the modules of these names put out, copied at once, when `model` next runs."""
    seen: dict[str, Tensor] = {}
    for name in names:
        hook = lambda _, __, output, name=name: seen.update({name: output.detach().clone()})  # noqa: E731
        model.get_submodule(name).register_forward_hook(hook)
    return seen


@pytest.mark.parametrize("name", effnets.list_models())
def test_feature_info_is_what_comes_out(name):
    reductions = [1, 2, 4, 8] if name.endswith("_32px") else [2, 4, 8, 16, 32]
    channels = effnets.create_model(name, device="meta").feature_info.channels()
    assert len(channels) == len(reductions)
    for output_stride in (8, 16, 32):
        model = create_features(name, device="meta", output_stride=output_stride).eval()
        info = model.feature_info
        assert info.reduction() == [min(reduction, output_stride) for reduction in reductions]
        assert info.channels() == channels
        names = info.module_name()
        assert names == [*dict.fromkeys(names)], "a level each"
        seen = record(model, names)
        for height, width in ((64, 64), (97, 161)):
            with torch.no_grad():
                maps = model(torch.empty(1, 3, height, width, device="meta"))
            expected = [
                (1, channel, math.ceil(height / reduction), math.ceil(width / reduction))
                for channel, reduction in zip(channels, info.reduction(), strict=True)
            ]
            assert [tuple(level.shape) for level in maps] == expected
            assert [tuple(seen[module].shape) for module in names] == expected


@pytest.mark.parametrize("name", ONE_A_FAMILY)
def test_maps_are_those_of_the_classifiers_stages(name, tmp_path):
    classifier, path = saved_classifier(name, tmp_path)
    model = create_features(name, weights=path).eval()
    assert model.feature_info == classifier.feature_info
    seen = record(classifier, model.feature_info.module_name())
    for shape in ((2, 3, 64, 64), (1, 3, 97, 161)):
        with torch.no_grad():
            classifier(images(*shape))
            maps = model(images(*shape))
        for level, module in zip(maps, model.feature_info.module_name(), strict=True):
            assert torch.equal(level, seen[module]), f"{module}: overwritten later, or computed differently"


@pytest.mark.parametrize(
    "name", ["mobilenetv1_025", "mobilenetv2_035", "mobilenetv1_100_k3_5_7_exp", "mobilenetv2_100_k7_dil"]
)
def test_dilated_maps_sampled_are_the_strided_ones(name, tmp_path):
    """With symmetric padding a dilated network computes what the strided one does, at more places.

    The strided map is the dense one at every second (stride 16) or fourth (32) place. Not so with squeeze-and-excite,
    whose mean is over all places, nor with TensorFlow's padding, which moves the strided grid by a pixel.
    """
    _, path = saved_classifier(name, tmp_path)
    strided = create_features(name, weights=path).eval()
    for output_stride in (8, 16):
        dense = create_features(name, weights=path, output_stride=output_stride).eval()
        for shape in ((2, 3, 64, 96), (1, 3, 97, 161)):
            with torch.no_grad():
                expected, actual = strided(images(*shape)), dense(images(*shape))
            for reduction, coarse, fine in zip(strided.feature_info.reduction(), expected, actual, strict=True):
                step = max(1, reduction // output_stride)
                assert coarse.shape == fine[..., ::step, ::step].shape
                assert error_between(coarse, fine[..., ::step, ::step]) <= 1e-5, (output_stride, shape, reduction)


def test_dilation_is_what_makes_the_sampled_maps_equal(tmp_path):
    """The test above is not blind: with the strides taken away and nothing dilated, the values differ."""
    _, path = saved_classifier("mobilenetv2_035", tmp_path)
    strided = create_features("mobilenetv2_035", weights=path).eval()
    dense = create_features("mobilenetv2_035", weights=path, output_stride=8).eval()
    for conv in dense.modules():
        if isinstance(conv, nn.Conv2d) and conv.dilation != (1, 1):
            conv.dilation = (1, 1)
            conv.padding = (conv.kernel_size[0] // 2,) * 2
    x = images(1, 3, 64, 64)
    with torch.no_grad():
        assert error_between(strided(x)[-1], dense(x)[-1][..., ::4, ::4]) > 0.01


@pytest.mark.parametrize("name", ONE_A_FAMILY)
@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_classifier_with_dilation_has_the_same_parameters(name, output_stride, tmp_path):
    classifier, path = saved_classifier(name, tmp_path, num_classes=3)
    model = effnets.create_model(name, weights=path, output_stride=output_stride).eval()
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in classifier.state_dict().items()
    }
    with torch.no_grad():
        features = model.forward_features(images(1, 3, 97, 64))
        logits = model(images(1, 3, 97, 64))
    assert features.shape[2:] == (math.ceil(97 / output_stride), math.ceil(64 / output_stride))
    assert logits.shape == (1, 3)
    assert logits.isfinite().all()


SUBSETS = {"all": None, "one": (1,), "finest": (0,), "two": (0, 3), "negative": (-2, -1), "mixed": (2, -1)}


@pytest.mark.parametrize("indices", SUBSETS.values(), ids=SUBSETS.keys())
@pytest.mark.parametrize("name", ["mobilenetv2_035", "rexnet_100", "mobilenetv2_100_32px"])
def test_out_indices(name, indices, tmp_path):
    classifier, path = saved_classifier(name, tmp_path)
    whole = create_features(name, weights=path).eval()
    model = create_features(name, weights=path, out_indices=indices).eval()
    levels = range(len(whole.feature_info.levels)) if indices is None else indices
    x = images(1, 3, 64, 64)
    with torch.no_grad():
        expected, maps = whole(x), model(x)
    assert len(maps) == len(levels)
    for level, actual in zip(levels, maps, strict=True):
        assert torch.equal(actual, expected[level])
    assert model.feature_info.channels() == [whole.feature_info.channels()[level] for level in levels]
    assert model.feature_info.reduction() == [whole.feature_info.reduction()[level] for level in levels]

    # What is not needed is not there, and the report says what of the file was left out.
    last = whole.feature_info.levels[levels[-1]].stage
    assert len(model.stages) == last + 1
    unneeded = {
        key
        for key in classifier.state_dict()
        if key.startswith(("head.", "classifier.")) or (key.startswith("stages.") and int(key.split(".")[1]) > last)
    }
    assert set(model.load_report.dropped) == unneeded
    assert set(model.load_report.loaded) == set(model.state_dict()) == set(classifier.state_dict()) - unneeded
    assert model.load_report.reinitialised == ()


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ((0, 5), "out_indices has 5; this network's levels are 0 to 4"),
        ((-6,), "out_indices has -6; this network's levels are 0 to 4"),
        ((2, 1), r"out_indices is \(2, 1\); give each level once, from the finest to the coarsest"),
        ((1, 1), r"out_indices is \(1, 1\); give each level once"),
        ((4, -1), r"out_indices is \(4, -1\); give each level once"),
        ((), r"out_indices is \(\); give each level once"),
    ],
    ids=str,
)
def test_bad_levels_are_refused(indices, message):
    with pytest.raises(ArgumentError, match=message):
        create_features("mobilenetv1_025", out_indices=indices)


def test_another_networks_weights_are_refused(tmp_path):
    _, path = saved_classifier("mobilenetv1_025", tmp_path)
    with pytest.raises(WeightsError, match=r"does not fit mobilenetv1_050"):
        create_features("mobilenetv1_050", weights=path)


def test_the_hidden_layer_of_the_head_is_left_out(tmp_path):
    _, path = saved_classifier("rexnet_lite_100", tmp_path)
    dropped = create_features("rexnet_lite_100", weights=path).load_report.dropped
    assert {key.split(".")[0] for key in dropped} == {"head", "hidden", "classifier"}


def test_grey_images_and_half_precision():
    model = create_features("mobilenetv2_035", in_chans=1, dtype=torch.bfloat16).eval()
    maps = model(images(1, 1, 64, 64).bfloat16())
    assert model.in_chans == 1
    assert {level.dtype for level in maps} == {torch.bfloat16}


@pytest.mark.parametrize("name", ONE_A_FAMILY)
def test_gradients_flow_from_every_map(name):
    """Later stages leave earlier maps as they are, so that heads may use them all."""
    model = create_features(name, drop_path_rate=0.1).train()
    seen = record(model, model.feature_info.module_name())
    maps = model(images(4, 3, 64, 64))
    for level, module in zip(maps, model.feature_info.module_name(), strict=True):
        assert torch.equal(level, seen[module]), f"{module} was overwritten"
        level.retain_grad()
    sum(level.square().mean() for level in maps).backward()
    for level in maps:
        assert level.grad.isfinite().all()
        assert level.grad.any()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{key} has no gradient"
        assert parameter.grad.isfinite().all(), key
