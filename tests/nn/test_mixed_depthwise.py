"""The operator of mixed depthwise convolution: gradients, what compilers see, and when Triton kernels are taken."""

from __future__ import annotations

import copy
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import effnets
from effnets.errors import ArgumentError
from effnets.nn import mixed_depthwise, mixed_depthwise_plain
from effnets.nn.layers import Conv2d, MixedConv
from effnets.nn.mixed_depthwise import MODE_VARIABLE, MixedDepthwiseConv, use_mixed_kernel
from effnets.nn.mixed_depthwise_plain import Geometry, pack, unpack
from tests.support import error_between, images, shake
from tests.support.mixed_layers import FUNCTIONS, Case, geometries, label, make_convs

UNEVEN = Geometry((5, 3, 4), (3, 5, 1), (1, 2, 1))
STRIDED = Geometry((5, 4), (3, 5), (1, 1), 2, True)
OPERATOR = torch.ops.effnets.mixed_depthwise


class Kernels(SimpleNamespace):
    """Plain convolutions under the kernels' name, which note what was called."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[str] = []
        for name in FUNCTIONS:
            setattr(self, name, self._noting(name, error))

    def _noting(self, name, error):
        def call(*arguments):
            self.calls.append(name)
            if error:
                raise error
            return getattr(mixed_depthwise_plain, name)(*arguments)

        return call


@pytest.fixture
def gpu(monkeypatch):
    """A GPU is pretended, of Triton's capability, whose kernels are plain convolutions."""
    kernels = Kernels()
    monkeypatch.setattr(mixed_depthwise, "on_gpu", lambda _: True)
    monkeypatch.setattr(mixed_depthwise, "has_capability", lambda _: True)
    monkeypatch.setattr(mixed_depthwise, "_load_kernels", lambda: kernels)
    monkeypatch.setattr(mixed_depthwise, "_FASTER", {})
    return kernels


@pytest.fixture
def times(monkeypatch):
    """The milliseconds that the next measurements find."""
    found: list[float] = []

    def measure(call):
        call()
        return found.pop(0)

    monkeypatch.setattr(mixed_depthwise, "_measure", measure)
    return found


def arguments(case: Case) -> tuple:
    return case.x, case.weight, case.bias, *case.geometry.arguments, case.act


@pytest.mark.parametrize("geometry", [UNEVEN, STRIDED, *geometries(("tf_mixnet_s",))], ids=label)
def test_plain_convolutions_are_those_of_the_layer(geometry):
    case = Case(geometry, act="silu")
    expected, actual = case.expected(), case.compute(mixed_depthwise_plain)
    for name in FUNCTIONS:
        assert actual[name].shape == expected[name].shape, name
        assert error_between(expected[name], actual[name].double()) <= 1e-5, name


@pytest.mark.parametrize("geometry", [UNEVEN, STRIDED], ids=label)
@pytest.mark.parametrize("size", [(4, 5), (7, 8), (1, 1)], ids=str)
def test_gradients_are_those_of_finite_differences(geometry, size):
    case = Case(geometry, size=size)
    inputs = [tensor.double().requires_grad_() for tensor in (case.x, case.weight, case.bias)]
    assert torch.autograd.gradcheck(
        lambda *tensors: OPERATOR(*tensors, *geometry.arguments, "none"), inputs, fast_mode=True
    )


def test_compilers_see_the_operator():
    case = Case(STRIDED)
    inputs = [tensor.requires_grad_() for tensor in (case.x, case.weight, case.bias)]
    torch.library.opcheck(OPERATOR, (*inputs, *STRIDED.arguments, "none"))
    torch.library.opcheck(OPERATOR, arguments(Case(UNEVEN, act="relu6")))


def test_an_activation_has_no_gradient():
    case = Case(UNEVEN, act="relu")
    case.x.requires_grad_()
    with pytest.raises(ArgumentError, match="activation is 'relu', which has no gradient here; apply it to the output"):
        OPERATOR(*arguments(case))


def test_export_keeps_the_operator():
    class Layer(nn.Module):
        def forward(self, x, weight):
            return OPERATOR(x, weight, None, *STRIDED.arguments, "silu")

    case = Case(STRIDED)
    height = torch.export.Dim("height", min=4, max=64)
    exported = torch.export.export(Layer(), (case.x, case.weight), dynamic_shapes=[{2: height}, None])
    assert "torch.ops.effnets.mixed_depthwise.default" in exported.graph_module.code
    x = images(2, 9, 11, 7)
    assert torch.equal(exported.module()(x, case.weight), Layer()(x, case.weight))


@pytest.mark.parametrize("geometry", geometries(("mixnet_s",)), ids=label)
def test_packing_is_undone(geometry):
    weights = [conv.weight for conv in make_convs(geometry)]
    packed = pack(weights)
    assert packed.shape == (geometry.weights,)
    assert all(torch.equal(a, b) for a, b in zip(unpack(packed, geometry), weights, strict=True))


def test_what_the_operator_cannot_compute_stays():
    def convs(**changes):
        return [Conv2d(in_channels=4, out_channels=4, groups=4, **{"kernel_size": k, **changes}) for k in (3, 5)]

    assert Geometry.of(convs()) == Geometry((4, 4), (3, 5), (1, 1))
    assert Geometry.of(convs(stride=3)) is None
    assert Geometry.of(convs(kernel_size=17)) is None
    assert Geometry.of([convs()[0], convs(stride=2)[1]]) is None
    assert Geometry.of([convs()[0], convs(bias=True)[1]]) is None
    # SAME pads nothing before a strided kernel of one tap.
    strided = {"stride": 2, "padding": "same"}
    assert Geometry.of([convs(kernel_size=1, **strided)[0], convs(**strided)[1]]) is None
    assert Geometry.of([Conv2d(in_channels=2, out_channels=3, kernel_size=1)]) is None
    pointwise = MixedConv([Conv2d(in_channels=2, out_channels=3, kernel_size=1) for _ in range(2)])
    holder = nn.Sequential(pointwise)
    use_mixed_kernel(holder)
    assert holder[0] is pointwise


@pytest.mark.parametrize("name", ["mixnet_s", "tf_mixnet_s"])
def test_a_network_keeps_its_names_and_logits(name):
    torch.manual_seed(0)
    model = shake(effnets.create_model(name), size=64)
    changed = copy.deepcopy(model)
    use_mixed_kernel(changed)
    mixed = [module for module in model.modules() if isinstance(module, MixedConv) and Geometry.of(list(module))]
    assert sum(type(module) is MixedDepthwiseConv for module in changed.modules()) == len(mixed) > 10
    assert list(changed.state_dict()) == list(model.state_dict())
    x = images(2, 3, 64, 65)
    with torch.inference_mode():
        assert torch.equal(changed(x), model(x)), "without a GPU the layers are the plain ones"


def test_a_step_of_training_is_the_same_on_a_gpu(gpu, times):
    torch.manual_seed(0)
    model = shake(effnets.create_model("mixnet_s", num_classes=5), size=64).double().train()
    changed = copy.deepcopy(model)
    use_mixed_kernel(changed)
    x = images(4, 3, 48, 48).double()
    for network in (model, changed):
        network(x).square().sum().backward()
    for (name, expected), actual in zip(model.named_parameters(), changed.parameters(), strict=True):
        assert error_between(expected.grad, actual.grad) <= 1e-9, name
    assert not gpu.calls, "the kernels have no float64"
    changed.float().zero_grad()
    times += [1.0, 2.0] * 200
    changed(x.float()).square().sum().backward()
    assert set(gpu.calls) == set(FUNCTIONS)


@pytest.mark.usefixtures("gpu")
def test_the_layer_packs_anew_when_weights_change(monkeypatch):
    monkeypatch.setenv(MODE_VARIABLE, "on")
    layer = MixedDepthwiseConv(make_convs(UNEVEN, bias=True), "relu6").eval().requires_grad_(False)
    plain = MixedConv(make_convs(UNEVEN, bias=True)).eval()
    x = images(2, 12, 6, 7)
    with torch.inference_mode():
        for change in (1.0, 2.0):
            for module in (layer, plain):
                module[0].weight.mul_(change)
            assert error_between(plain(x).clamp(0, 6), layer(x)) <= 1e-5
        packed = layer._packed
        layer(x)
        assert layer._packed is packed
    restored = copy.deepcopy(layer)
    assert restored._packed is None
    assert torch.equal(restored(x), layer(x))


@pytest.mark.usefixtures("gpu")
def test_an_activation_is_fused_where_no_gradient_is_asked_for(monkeypatch):
    monkeypatch.setenv(MODE_VARIABLE, "on")
    layer = MixedDepthwiseConv(make_convs(UNEVEN), "silu").requires_grad_(False)
    x = images(2, 12, 6, 7)
    fused = layer(x)
    x.requires_grad_()
    assert torch.allclose(layer(x), fused, atol=1e-6)
    assert layer(x).requires_grad


def test_shapes_and_memory_format_on_a_gpu():
    """Without one, by tensors without values."""
    with FakeTensorMode():
        sizes = {"groups": 9, "in_channels": 9, "out_channels": 9, "stride": 2, "device": torch.device("cuda")}
        layer = MixedDepthwiseConv([Conv2d(kernel_size=kernel_size, **sizes) for kernel_size in (3, 7)])
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.empty(3, 18, 13, 8, device="cuda", dtype=dtype, requires_grad=True)
            y = layer(x)
            assert (y.shape, y.dtype, y.device.type) == ((3, 18, 7, 4), dtype, "cuda")
            assert y.is_contiguous(memory_format=torch.channels_last)
            assert y.requires_grad


@pytest.mark.usefixtures("gpu")
def test_autocast_rounds_the_input_and_leaves_the_weights(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda _: torch.bfloat16)
    monkeypatch.setattr(mixed_depthwise, "_fastest", lambda *inputs: seen.extend(inputs) or inputs[1].clone())
    layer = MixedDepthwiseConv(make_convs(UNEVEN))
    layer(images(2, 12, 6, 7))
    assert [tensor.dtype for tensor in seen if isinstance(tensor, torch.Tensor)] == [torch.bfloat16, torch.float32]


def test_the_faster_is_chosen_once_for_each_shape(gpu, times):
    case = Case(UNEVEN)
    times += [1.0, 2.0]
    expected = mixed_depthwise_plain.convolve(case.x, case.weight, case.bias, UNEVEN, "none")
    for _ in range(3):
        assert torch.equal(OPERATOR(*arguments(case)), expected)
    assert len(gpu.calls) == 1 + 3
    assert not times
    times += [2.0, 1.0]  # at another shape it is slower
    case.x = case.x[:1]
    for _ in range(3):
        OPERATOR(*arguments(case))
    assert len(gpu.calls) == 4 + 1
    assert sorted(mixed_depthwise._FASTER.values()) == [False, True]


@pytest.mark.parametrize(("mode", "calls"), [("on", 1), ("off", 0)])
def test_a_variable_decides(gpu, monkeypatch, mode, calls):
    monkeypatch.setenv(MODE_VARIABLE, mode)
    OPERATOR(*arguments(Case(UNEVEN)))
    assert len(gpu.calls) == calls
    assert not mixed_depthwise._FASTER
    monkeypatch.setenv(MODE_VARIABLE, "yes")
    with pytest.raises(ArgumentError, match="EFFNETS_MIXED_KERNEL is 'yes'; set it to auto, on or off"):
        OPERATOR(*arguments(Case(UNEVEN)))


def test_nothing_is_measured_where_torch_is_to_be_deterministic(gpu):
    torch.use_deterministic_algorithms(True)
    try:
        OPERATOR(*arguments(Case(UNEVEN)))
    finally:
        torch.use_deterministic_algorithms(False)
    assert gpu.calls == ["convolve"]


@pytest.mark.usefixtures("gpu", "times")
def test_a_kernel_that_fails_leaves_plain_convolutions(monkeypatch):
    broken = Kernels(RuntimeError("Failed to find C compiler.\nPlease specify one"))
    monkeypatch.setattr(mixed_depthwise, "_load_kernels", lambda: broken)
    case = Case(UNEVEN)
    expected = mixed_depthwise_plain.convolve(case.x, case.weight, case.bias, UNEVEN, "none")
    with pytest.warns(RuntimeWarning, match=r"does not run here, .*: Failed to find C compiler\.; set EFFNETS_MIXED"):
        assert torch.equal(OPERATOR(*arguments(case)), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(OPERATOR(*arguments(case)), expected)  # once for a shape
    monkeypatch.setenv(MODE_VARIABLE, "on")
    with pytest.raises(RuntimeError, match="C compiler"):
        OPERATOR(*arguments(case))
    monkeypatch.setenv(MODE_VARIABLE, "auto")
    broken.convolve = Kernels(torch.OutOfMemoryError("CUDA out of memory")).convolve
    case.x = case.x[:1]
    with pytest.raises(torch.OutOfMemoryError):
        OPERATOR(*arguments(case))


@pytest.mark.parametrize("lack", ["triton", "capability", "dtype", "GPU"])
def test_without_what_the_kernels_need_convolutions_are_plain(gpu, monkeypatch, lack):
    case = Case(UNEVEN)
    if lack == "triton":
        monkeypatch.setattr(mixed_depthwise, "_load_kernels", lambda: None)
    elif lack == "capability":
        monkeypatch.setattr(mixed_depthwise, "has_capability", lambda _: False)
    elif lack == "GPU":
        monkeypatch.setattr(mixed_depthwise, "on_gpu", lambda _: False)
    else:
        case.x = case.x.double()
    monkeypatch.setenv(MODE_VARIABLE, "on")
    y = OPERATOR(*arguments(case))
    assert not gpu.calls
    assert error_between(case.expected()["convolve"], y.double()) <= 1e-5


def test_kernels_are_absent_without_triton(monkeypatch):
    monkeypatch.setattr(mixed_depthwise, "find_spec", lambda _: None)
    assert mixed_depthwise._load_kernels.__wrapped__() is None


def test_capability_is_asked_of_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: {0: (6, 1), 1: (8, 6)}[device.index])
    found = [mixed_depthwise.has_capability.__wrapped__(torch.device("cuda", index)) for index in (0, 1)]
    assert found == [False, True]
