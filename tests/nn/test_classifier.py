"""The classifier: its parts, its arguments, training, and what torch does to it (compile, export, copy)."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
import shutil

import pytest
import torch
from support import error_between, images, shake
from torch import nn

import effnets
from effnets.errors import ArgumentError
from effnets.nn.layers import DropPath

ONE_A_FAMILY = (
    *("mobilenetv1_025", "mobilenetv2_035", "mixnet_s", "tf_mixnet_s", "rexnet_100", "rexnet_lite_100"),
    *("mnasnet_a1", "fbnet_c", "proxylessnas_mobile", "efficientnet_lite0"),
)
SMALL = ("mobilenetv1_025", "rexnet_lite_100")  # without head convolution; with a hidden layer


def create(name: str = "mobilenetv1_025", **arguments):
    torch.manual_seed(0)
    return effnets.create_model(name, **arguments)


def shaken(name: str = "mobilenetv1_025", **arguments):
    return shake(create(name, **arguments), size=96)


@pytest.mark.parametrize("name", effnets.list_models())
def test_every_model_runs(name):
    model = effnets.create_model(name, device="meta").eval()
    x = torch.empty(2, 3, 65, 97, device="meta")
    features = model.forward_features(x)
    reduction = model.feature_info.reduction()[-1]
    assert features.shape == (2, model.num_features, math.ceil(65 / reduction), math.ceil(97 / reduction))
    assert model(x).shape == (2, model.num_classes) == (2, 1000)
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
    "drop_rate": ({"drop_rate": 1.0}, "drop_rate is 1; it must be at least 0 and below 1"),
    "drop_rate-nan": ({"drop_rate": math.nan}, "drop_rate is nan; it must be at least 0 and below 1"),
    "drop_path_rate": ({"drop_path_rate": -0.1}, "drop_path_rate is -0.1; it must be at least 0 and below 1"),
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


def test_dropout_acts_in_training_only():
    x = images(2, 3, 64, 64)
    for rate, differ in ((0.5, True), (0.0, False)):
        model = create(drop_rate=rate)
        first, second = model.train()(x), model(x)
        assert torch.equal(first, second) != differ
        model.eval()
        assert torch.equal(model(x), model(x))


def test_dropout_is_the_models_own_unless_given():
    assert create("rexnet_100", device="meta").dropout.p == effnets.load_spec("rexnet_100").drop_rate == 0.2
    assert create("rexnet_100", device="meta", drop_rate=0.0).dropout.p == 0
    assert create("mixnet_s", device="meta").dropout.p == 0


@pytest.mark.parametrize("name", ["mobilenetv2_035", "rexnet_100"])
def test_stochastic_depth_acts_in_training_only(name):
    x = images(4, 3, 64, 64)
    model = create(name, drop_path_rate=0.5, drop_rate=0.0)
    assert not torch.equal(model.train()(x), model(x))
    plain = create(name, drop_rate=0.0)
    assert torch.equal(plain.train()(x), plain(x))
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("name", ["mobilenetv2_100", "mixnet_s", "rexnet_100"])
def test_stochastic_depth_rises_to_the_last_block(name):
    model = create(name, device="meta", drop_path_rate=0.3)
    blocks = [block for stage in model.stages for block in stage]
    assert len(blocks) > 10
    for index, block in enumerate(blocks):
        expected = 0.3 * index / (len(blocks) - 1)
        assert isinstance(block.drop_path, DropPath) == (block.shortcut and index > 0)
        if isinstance(block.drop_path, DropPath):
            assert block.drop_path.rate == pytest.approx(expected)


@pytest.mark.parametrize("name", ONE_A_FAMILY)
def test_every_parameter_learns(name):
    """One backward pass: all gradients finite, and nothing that an in-place activation has overwritten is needed."""
    model = create(name, num_classes=5, drop_path_rate=0.1).train()
    x = images(8, 3, 64, 64).requires_grad_()
    features = model.forward_features(x)
    features.retain_grad()
    before = features.detach().clone()
    nn.functional.cross_entropy(model.forward_head(features), torch.arange(8) % 5).backward()
    assert torch.equal(features.detach(), before)
    for tensor in (x, features):
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{key} has no gradient"
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), f"{key} has a gradient of zero"


def test_batch_statistics_move_by_the_specs_momentum():
    spec = dataclasses.replace(effnets.load_spec("mobilenetv1_025"), bn_momentum=0.3, bn_eps=0.01)
    torch.manual_seed(0)
    model = effnets.create_model(spec).train()
    assert {(bn.momentum, bn.eps) for bn in model.modules() if isinstance(bn, nn.BatchNorm2d)} == {(0.3, 0.01)}
    x = images(4, 3, 64, 64)
    with torch.no_grad():
        batch = model.stem.conv(x)
        model(x)
    assert torch.allclose(model.stem.bn.running_mean, 0.3 * batch.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(model.stem.bn.running_var, 0.7 + 0.3 * batch.var((0, 2, 3)), atol=1e-5)
    before = model.stem.bn.running_mean.clone()
    model.eval()(x)
    assert torch.equal(model.stem.bn.running_mean, before)


@pytest.mark.parametrize("name", ONE_A_FAMILY)
def test_bfloat16_is_close_to_float32(name):
    """Block by block, each on float32's input; over the whole network the roundings add up."""
    model = create(name)
    for bn in model.modules():
        if isinstance(bn, nn.BatchNorm2d):
            bn.momentum = 1.0  # the statistics are those of the next batch
    half = create(name, dtype=torch.bfloat16).eval()
    x = images(4, 3, 96, 96)
    with torch.no_grad():
        model.train()(images(16, 3, 96, 96, seed=2))
        half.load_state_dict(model.eval().state_dict())
        expected, actual = model(x), half(x.bfloat16())
        assert {tensor.dtype for tensor in half.parameters()} == {actual.dtype} == {torch.bfloat16}
        assert torch.corrcoef(torch.stack([expected.flatten(), actual.float().flatten()]))[0, 1] > 0.95
        steps = zip(model.stages.modules(), half.stages.modules(), strict=True)
        blocks = [(model.stem, half.stem), *(pair for pair in steps if hasattr(pair[0], "shortcut"))]
        for index, (block, half_block) in enumerate(blocks):
            y = block(x)
            assert (half_block(x.bfloat16()).float() - y).norm() <= 0.05 * y.norm(), f"block {index}"
            x = y


@pytest.mark.parametrize("name", ONE_A_FAMILY)
def test_copies_and_saved_states_are_the_same_network(name, tmp_path):
    model = shaken(name)
    x = images(1, 3, 64, 96)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    with torch.no_grad():
        expected = model(x)
        twin = copy.deepcopy(model)
        restored = effnets.create_model(name).eval()
        assert error_between(expected, restored(x)) > 0.1
        restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), strict=True)
        assert torch.equal(restored(x), expected)
        model.classifier.weight.zero_()
        assert torch.equal(twin(x), expected), "the copy shares nothing with its model"
    assert (twin.spec, twin.plan, twin.feature_info) == (model.spec, model.plan, model.feature_info)


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", ["mobilenetv1_025", "mobilenetv2_035", "tf_mixnet_s", "rexnet_100", "rexnet_lite_100"])
def test_compiles_as_one_graph(name):
    model = shaken(name)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    x = images(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(compiled(x), model(x))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
def test_compiles_to_machine_code():
    """Two rows of tf_mixnet_s: TensorFlow's padding, mixed kernels, squeeze-and-excite."""
    spec = effnets.load_spec("tf_mixnet_s")
    model = shaken(dataclasses.replace(spec, blocks=(spec.blocks[0], spec.blocks[3]), head=0, num_classes=10))
    compiled = torch.compile(model, fullgraph=True, backend="inductor")
    x = images(2, 3, 64, 96)
    with torch.no_grad():
        assert error_between(model(x), compiled(x)) <= 1e-4


@pytest.mark.parametrize("name", ["tf_mixnet_s", "rexnet_100"])
def test_exports_with_dynamic_batch_and_size(name):
    model = shaken(name)
    batch = torch.export.Dim("batch", min=1, max=64)
    height, width = torch.export.Dim("height", min=33, max=512), torch.export.Dim("width", min=33, max=512)
    shapes = [{0: batch, 2: height, 3: width}]
    exported = torch.export.export(model, (images(2, 3, 64, 96),), dynamic_shapes=shapes).module()
    for shape in ((1, 3, 224, 224), (3, 3, 225, 225), (1, 3, 256, 320), (2, 3, 97, 161)):
        with torch.no_grad():
            assert error_between(model(images(*shape)), exported(images(*shape))) <= 1e-5, shape
