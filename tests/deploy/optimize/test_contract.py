"""What `optimize` promises besides exactness: the argument untouched, what goes in, what is kept, what is refused."""

from __future__ import annotations

import copy
import io
import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import effnets
from effnets.deploy.optimize.rewrites import PRESETS, Rewrites
from effnets.deploy.optimize.torch_layers import OneDNNConv, can_fuse
from effnets.errors import ArgumentError
from tests.support import error_between, images
from tests.support.rewriting import EXACT, outputs, shaken

SMALL = ("mobilenetv2_035", "tf_mixnet_s", "rexnet_100")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("training", [False, True])
def test_the_argument_is_untouched(name, training):
    model = copy.deepcopy(shaken(name)).train(training)
    model.stages[0].eval()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    optimized = effnets.optimize(model)
    optimized(images(1, 3, 64, 64).double())
    for parameter in optimized.parameters():
        parameter.data.zero_()
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(module.training for module in optimized.modules())
    assert (optimized.spec, optimized.plan, optimized.in_chans) == (model.spec, model.plan, model.in_chans)


@pytest.mark.parametrize("name", SMALL)
def test_photographs_are_classified_alike(name):
    model = copy.deepcopy(shaken(name)).float()
    model.class_names = tuple(f"class {index}" for index in range(1000))
    photo = np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)
    expected = effnets.predict(model, photo, input_size=64)
    actual = effnets.predict(effnets.optimize(model), photo, input_size=64)
    assert [(p.index, p.label) for p in actual[0]] == [(p.index, p.label) for p in expected[0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dtype_and_any_memory_format(dtype):
    model = copy.deepcopy(shaken("tf_mixnet_s")).to(dtype)
    optimized = effnets.optimize(model)
    x = images(2, 3, 65, 64).to(dtype)
    views = (x, x.contiguous(memory_format=torch.channels_last), x.flip(3).flip(3).transpose(2, 3).transpose(2, 3))
    results = [outputs(optimized, view)[0] for view in views]
    assert all(torch.equal(result, results[0]) for result in results)
    assert results[0].dtype == dtype
    assert results[0].is_contiguous()
    assert not results[0].requires_grad
    closeness = torch.corrcoef(torch.stack([outputs(model, x)[0].flatten().double(), results[0].flatten().double()]))
    assert closeness[0, 1] > (0.9 if dtype == torch.bfloat16 else 0.9999)


def test_wrappers_are_looked_through():
    model = copy.deepcopy(shaken("mobilenetv2_035")).float()
    x = images(1, 3, 64, 64)
    for wrapped in (torch.compile(model), nn.DataParallel(model)):
        assert error_between(*outputs(model, x), *outputs(effnets.optimize(wrapped), x)) <= 1e-4


def test_inference_mode_leaves_usable_weights():
    with torch.inference_mode():
        optimized = effnets.optimize(effnets.create_model("tf_mixnet_s").eval())
    x = images(1, 3, 64, 64)
    assert error_between(*outputs(optimized, x), optimized(x)) <= 1e-5
    assert torch.autograd.grad(optimized(x.requires_grad_()).sum(), x)[0].abs().sum() > 0


def test_copies_and_saved_networks_compute_the_same():
    optimized = effnets.optimize(copy.deepcopy(shaken("rexnet_100")).float())
    x = images(1, 3, 64, 64)
    expected = outputs(optimized, x)[0]
    buffer = io.BytesIO()
    torch.save(optimized, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(optimized), torch.load(buffer, weights_only=False)):
        assert torch.equal(outputs(twin, x)[0], expected)


@pytest.mark.skipif(not can_fuse(), reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize("name", SMALL)
def test_fused_convolutions_are_used_and_follow_their_weights(name, monkeypatch):
    model = copy.deepcopy(shaken(name)).float()
    optimized = effnets.optimize(model)
    fused = [module for module in optimized.modules() if isinstance(module, OneDNNConv)]
    x = images(2, 3, 65, 97)
    assert error_between(*outputs(model, x), *outputs(optimized, x)) <= 1e-4
    assert len(fused) > 30
    assert all(len(conv._packed[2]) == 1 for conv in fused)
    before = outputs(optimized, x)[0]
    with torch.no_grad():
        fused[3].conv.weight.mul_(2)
    changed = outputs(optimized, x)[0]
    assert error_between(before, changed) > 1e-3
    monkeypatch.setattr(OneDNNConv, "_fused", lambda conv, x: conv.act(conv.conv(x)))
    assert error_between(changed, *outputs(optimized, x)) <= 1e-4
    assert outputs(optimized.double(), x.double())[0].dtype == torch.float64


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", SMALL)
def test_compiles_traces_and_exports(name):
    model = shaken(name)
    optimized = effnets.optimize(model)
    x = images(2, 3, 64, 96).double()
    (expected,) = outputs(model, x)
    with torch.no_grad():
        compiled = torch.compile(optimized, fullgraph=True, backend="eager")
        assert error_between(expected, compiled(x)) <= EXACT
        dims = {0: torch.export.Dim("n", min=1, max=64)}
        exported = torch.export.export(optimized, (x,), dynamic_shapes=[dims])
        assert error_between(expected, exported.module()(x)) <= EXACT
        assert not any("mkldnn" in str(node.target) for node in exported.graph.nodes)
        if name != "tf_mixnet_s":  # its padding depends on the size, as in the network itself
            assert error_between(expected, torch.fx.symbolic_trace(optimized)(x)) <= EXACT


@pytest.mark.parametrize("name", SMALL)
def test_exports_to_onnx(name):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = copy.deepcopy(shaken(name)).float()
    optimized = effnets.optimize(model)
    x = images(2, 3, 64, 64)
    dims = ({0: torch.export.Dim("n", min=1, max=64)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(optimized, (x,), dynamo=True, dynamic_shapes=dims, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    shape = images(3, 3, 64, 64)
    (actual,) = session.run(None, {session.get_inputs()[0].name: shape.numpy()})
    assert error_between(*outputs(model, shape), torch.from_numpy(actual)) <= 1e-4


def test_choices_survive_json():
    choice = Rewrites(depthwise="cost", copy_taps=20, layers=(("stages.1.0.depthwise", "2+2"),), align=16)
    assert Rewrites.from_dict(json.loads(json.dumps(choice.to_dict()))) == choice
    assert hash(choice) != hash(Rewrites())
    for preset in PRESETS.values():
        assert Rewrites.from_dict(json.loads(json.dumps(preset.to_dict()))) == preset


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depthwise": "some"}, "depthwise is 'some'; give all, keep, cost, or how many groups"),
        ({"equal_pointwise": "split"}, "equal_pointwise is 'split'; choose one of keep, group, dense"),
        ({"unequal_pointwise": "group"}, "unequal groups make no grouped convolution"),
        ({"align": 0}, "align is 0; it must be at least 1"),
        ({"micro_batch_mb": -1}, "micro_batch_mb is -1; it must be at least 0"),
        ({"align": True}, "align is True; it must be int"),
        ({"fold_bn": 1}, "fold_bn is 1; it must be bool"),
        ({"depthwise_taps": 25}, r"depthwise_taps is 25; give a tuple of positive numbers, such as \(9, 25\)"),
        ({"depthwise_taps": [9, 0]}, r"depthwise_taps is \(9, 0\)"),
        ({"fold": True}, "rewrites have no 'fold'; they have fold_bn"),
        ({"layers": {"stages.0.0.depthwise": "group"}}, "the rule of stages.0.0.depthwise is 'group'"),
        ({"layers": {"stages.0.0.project": "all"}}, "the rule of stages.0.0.project is 'all'; choose one of keep"),
        ({"layers": ["stages.0.0.project"]}, "give a mapping of layer names"),
    ],
)
def test_senseless_choices_are_refused(values, message):
    with pytest.raises(ArgumentError, match=message):
        Rewrites.from_dict(values)


def test_senseless_arguments_are_refused():
    model = shaken("mixnet_s")
    with pytest.raises(ArgumentError, match="model is a Linear; give one that create_model built"):
        effnets.optimize(nn.Linear(2, 2))
    with pytest.raises(ArgumentError, match="meta device has no values"):
        effnets.optimize(effnets.create_model("mobilenetv1_025", device="meta"))
    with pytest.raises(ArgumentError, match="rewrites is a dict; give a Rewrites"):
        effnets.optimize(model, {"align": 8})
    with pytest.raises(ArgumentError, match="was rewritten before"):
        effnets.optimize(effnets.optimize(model))
    with pytest.raises(ArgumentError, match=r"rules for stages\.9\.9\.depthwise, but mixnet_s has no such layer"):
        effnets.optimize(model, Rewrites(layers=(("stages.9.9.depthwise", "keep"),)))
    unequal = Rewrites(layers=(("stages.1.0.expand", "group"),), align=64)
    with pytest.raises(ArgumentError, match=r"stages\.1\.0\.expand has unequal groups"):
        effnets.optimize(shaken("mixnet_s"), unequal)


def test_foreign_parts_are_refused():
    model = copy.deepcopy(shaken("mixnet_s"))
    model.stages[0][0] = nn.Sequential()
    with pytest.raises(ArgumentError, match="Sequential is not a block that create_model builds"):
        effnets.optimize(model)
    model = copy.deepcopy(shaken("mixnet_s"))
    model.stem.act = nn.Sigmoid()
    assert (
        error_between(*outputs(model, x := images(1, 3, 64, 64).double()), *outputs(effnets.optimize(model), x)) < 1e-9
    )
    with pytest.raises(ArgumentError, match="conv_act is a Sigmoid, through which zeros may not stay zeros"):
        effnets.optimize(model, Rewrites(align=8))
    model = copy.deepcopy(shaken("mixnet_s"))
    model.stem.bn = nn.BatchNorm2d(16, track_running_stats=False)
    with pytest.raises(ArgumentError, match="no running statistics"):
        effnets.optimize(model)
