"""The classifier: its parts make up the whole, and its arguments do what they say or are refused."""

from __future__ import annotations

import math
import re

import pytest
import torch

import effnets
from effnets.errors import ArgumentError
from tests.support import images
from tests.support.networks import ONE_A_FAMILY, create, shaken

SMALL = ("mobilenetv1_025", "rexnet_lite_100")  # without head convolution; with a hidden layer


@pytest.mark.parametrize("name", effnets.list_models())
def test_every_model_runs(name):
    model = effnets.create_model(name, device="meta").eval()
    x = torch.empty(2, 3, 65, 97, device="meta")
    features = model.forward_features(x)
    reduction = model.feature_info.reduction()[-1]
    assert features.shape == (2, model.num_features, math.ceil(65 / reduction), math.ceil(97 / reduction))
    classes = 10 if name == "mixnet_xs_32px" else 1000
    assert model(x).shape == (2, model.num_classes) == (2, classes)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    assert model.load_report is None
    assert model.training is False


@pytest.mark.parametrize("name", ONE_A_FAMILY)
def test_parts_make_up_the_whole(name):
    model = shaken(name, num_classes=11)
    with torch.no_grad():
        x = images(2, 3, 64, 96)
        features = model.forward_features(x)
        pre_logits = model.forward_head(features, pre_logits=True)
        logits = model(x)
        assert features.shape == (2, model.num_features, 2, 3)
        assert pre_logits.shape == (2, 1024 if name == "rexnet_lite_100" else model.num_features)
        assert torch.equal(model.forward_head(features), logits)
        assert torch.allclose(pre_logits @ model.classifier.weight.T + model.classifier.bias, logits, atol=1e-4)
        if name != "rexnet_lite_100":
            assert torch.allclose(features.mean((2, 3)), pre_logits, atol=1e-5)
    assert logits.shape == (2, 11)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("name", SMALL)
def test_without_classes_the_output_is_what_would_enter_the_classifier(name):
    whole, headless = shaken(name), create(name, num_classes=0).eval()
    headless.load_state_dict({key: value for key, value in whole.state_dict().items() if "classifier" not in key})
    x = images(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(headless(x), whole.forward_head(whole.forward_features(x), pre_logits=True))
    assert headless.num_classes == 0
    assert not list(headless.classifier.parameters())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("kind", ["avg", "max", "avgmax"])
def test_global_pool(name, kind):
    model = shaken(name, global_pool=kind)
    pools = {"avg": lambda x: x.mean((2, 3)), "max": lambda x: x.amax((2, 3))}
    pools["avgmax"] = lambda x: (pools["avg"](x) + pools["max"](x)) / 2
    with torch.no_grad():
        features = model.forward_features(images(2, 3, 96, 64))
        hidden = model.hidden(pools[kind](features)[:, :, None, None]).flatten(1)
        assert torch.allclose(model.forward_head(features), model.classifier(hidden), atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_without_pooling_every_place_is_judged(name):
    model, pooled = shaken(name, global_pool="none", num_classes=5), create(name, num_classes=5).eval()
    pooled.load_state_dict(model.state_dict())
    x = images(2, 3, 96, 64)
    with torch.no_grad():
        features, logits = model.forward_features(x), model(x)
        assert logits.shape == (2, 5, 3, 2)
        for row in range(3):
            for column in range(2):
                place = features[:, :, row : row + 1, column : column + 1]
                assert torch.allclose(logits[:, :, row, column], pooled.forward_head(place), atol=1e-4)
        alias = create(name, global_pool="", num_classes=5).eval()
        alias.load_state_dict(model.state_dict())
        assert torch.equal(alias(x), logits)
        assert model.forward_head(features, pre_logits=True).shape == (2, model.classifier.in_features, 3, 2)
        model.reset_classifier(0)
        assert model(x).shape == (2, model.plan.pre_logits_channels, 3, 2)


@pytest.mark.parametrize("name", SMALL)
def test_reset_classifier(name):
    model = create(name, num_classes=7).eval()
    model.class_names = tuple("abcdefg")
    body = {key: value.clone() for key, value in model.state_dict().items() if "classifier" not in key}
    x = images(2, 3, 64, 64)
    model.reset_classifier(300)
    assert model(x).shape == (2, 300)
    assert (model.num_classes, model.plan.num_classes, model.class_names) == (300, 300, None)
    assert model.classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not model.classifier.bias.any()
    assert not model.classifier.training
    model.reset_classifier(0, global_pool="max")
    pre_logits = model(x)
    assert pre_logits.shape == (2, model.plan.pre_logits_channels)
    assert model.pool.kind == "max"
    model.reset_classifier(4)
    assert model(x).shape == (2, 4)
    assert model.pool.kind == "max", "pooling stays unless another is asked for"
    for key, value in body.items():
        assert torch.equal(model.state_dict()[key], value), key


def test_reset_classifier_keeps_dtype_and_device():
    model = create(device="meta", dtype=torch.bfloat16)
    model.reset_classifier(3)
    assert (model.classifier.weight.dtype, model.classifier.weight.device.type) == (torch.bfloat16, "meta")


POOLS = "choose one of avg, max, avgmax, none"


BAD = {
    "global_pool": ({"global_pool": "mean"}, f"global_pool is 'mean'; {POOLS}"),
    "num_classes": ({"num_classes": -1}, "num_classes is -1; it must be 0 (no classifier) or more"),
    "in_chans": ({"in_chans": 0}, "in_chans is 0; an image has at least 1 channel"),
    "output_stride": ({"output_stride": 4}, "output_stride is 4; it must be 8, 16 or 32"),
    "drop_rate": ({"drop_rate": 1.0}, "drop_rate is 1.0; it must be a number from 0 to below 1"),
    "drop_rate-nan": ({"drop_rate": math.nan}, "drop_rate is nan; it must be a number from 0 to below 1"),
    "drop_path_rate": ({"drop_path_rate": -0.1}, "drop_path_rate is -0.1; it must be a number from 0 to below 1"),
    "out_indices": ({"out_indices": (1,)}, "out_indices picks levels of the feature pyramid"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        create(**arguments)


def test_bad_resets_are_refused_and_change_nothing():
    model = create(num_classes=7)
    with pytest.raises(ArgumentError, match=re.escape(f"global_pool is 'mean'; {POOLS}")):
        model.reset_classifier(3, global_pool="mean")
    with pytest.raises(ArgumentError, match="num_classes is -3; it must be 0"):
        model.reset_classifier(-3, global_pool="max")
    assert (model.num_classes, model.pool.kind, model.classifier.out_features) == (7, "avg", 7)


@pytest.mark.parametrize("in_chans", [1, 4])
@pytest.mark.parametrize("name", ONE_A_FAMILY)
def test_input_channels(name, in_chans):
    model = create(name, in_chans=in_chans).eval()
    assert model.in_chans == model.stem.conv.in_channels == in_chans
    assert model(images(1, in_chans, 64, 64)).shape == (1, 1000)
    with pytest.raises(RuntimeError, match="channels"):
        model(images(1, 3, 64, 64))
