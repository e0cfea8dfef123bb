"""The Triton kernels, in Triton's interpreter, against autograd in float64."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from effnets.nn import mixed_depthwise_plain as plain
from effnets.nn.mixed_depthwise_plain import Geometry
from tests.support import error_between
from tests.support.mixed_layers import FUNCTIONS, Case, geometries, label

kernels = pytest.importorskip("effnets.nn.mixed_depthwise_triton", reason="triton is on Linux alone")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET is not 1: these run in the interpreter", allow_module_level=True)

ODD = {
    "a kernel of one tap": Geometry((8, 4), (1, 3), (1, 1)),
    "one channel": Geometry((1, 1), (3, 5), (1, 1)),
    "one group": Geometry((20,), (5,), (1,), 2),
    "dilation": Geometry((12, 10), (3, 5), (4, 2)),
    "dilation and stride": Geometry((12, 10), (3, 5), (2, 2), 2, True),
    "the largest kernel": Geometry((6, 5, 5), (11, 13, 15), (1, 1, 1), 2, True),
    "exponential groups": Geometry((64, 32, 17), (3, 5, 7), (1, 1, 1), 2),
}


def check(case: Case, tolerance: float = 1e-4) -> None:
    expected, actual = case.expected(), case.compute(kernels)
    for name in FUNCTIONS:
        assert actual[name].shape == expected[name].shape, name
        assert error_between(expected[name], actual[name].double()) <= tolerance, name


@pytest.fixture
def blocks_of_a_gpu():
    """Not those of `large_blocks`."""


@pytest.fixture(autouse=True)
def large_blocks(request, monkeypatch):
    """Blocks for few programs: the interpreter's time goes by operations, not by values."""
    if "blocks_of_a_gpu" in request.fixturenames:
        return
    monkeypatch.setattr(kernels, "_block_channels", lambda geometry: 1 << (max(geometry.channels) - 1).bit_length())
    monkeypatch.setattr(kernels, "_PROGRAMS", 1)
    monkeypatch.setattr(kernels, "_VALUES", 64 * 512)
    monkeypatch.setattr(kernels, "_SUMMED", 16 * 16 * 512)


@pytest.mark.parametrize("geometry", geometries(), ids=label)
def test_every_layer_of_mixnet(geometry):
    check(Case(geometry, count=1, act="silu"))


@pytest.mark.usefixtures("blocks_of_a_gpu")
def test_many_blocks_of_positions_and_channels():
    geometry = Geometry((33, 17), (3, 5), (1, 1), 2)
    assert kernels._block_channels(geometry) == 16
    check(Case(geometry, size=(7, 8), act="relu"))


@pytest.mark.usefixtures("blocks_of_a_gpu")
@pytest.mark.full
@pytest.mark.parametrize("geometry", geometries(), ids=label)
def test_every_layer_of_mixnet_in_the_blocks_of_a_gpu(geometry):
    check(Case(geometry, act="silu"))


@pytest.mark.parametrize("name", ODD)
def test_other_layers(name):
    check(Case(ODD[name], size=(9, 6)))


@pytest.mark.parametrize("size", [(1, 1), (2, 5)], ids=str)
@pytest.mark.parametrize("same", [False, True], ids=["symmetric", "same"])
@pytest.mark.parametrize("stride", [1, 2])
def test_small_maps(stride, same, size):
    check(Case(Geometry((5, 4), (3, 5), (1, 1), stride, same and stride > 1), size=size, count=3))


@pytest.mark.parametrize("act", ["relu", "relu6", "hard_swish"])
def test_activations(act):
    case = Case(Geometry((10, 8), (1, 3), (1, 1)), act=act)
    case.bias *= 5  # beyond 6, and below -3
    (actual,) = case.compute(kernels, ["convolve"]).values()
    assert error_between(plain.convolve(case.x, case.weight, case.bias, case.geometry, act), actual) <= 1e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-2), (torch.bfloat16, 3e-2)], ids=str)
def test_half_precision_is_summed_in_float32(dtype, tolerance):
    case = Case(Geometry((10, 8), (3, 7), (1, 1), 2), act="silu").round_to(dtype)
    expected, actual = case.expected(), case.compute(kernels)
    assert [actual[name].dtype for name in FUNCTIONS] == [dtype, dtype, torch.float32]
    for name in FUNCTIONS:
        # Sums of rounded products, rounded once: nothing is lost but that.
        allowed = tolerance if name != "weight_gradient" else 1e-5
        assert error_between(expected[name], actual[name].double()) <= allowed, name


def test_inputs_in_any_memory_format():
    case = Case(Geometry((6, 5), (3, 5), (1, 1)))
    expected = case.compute(kernels)
    assert expected["convolve"].is_contiguous(memory_format=torch.channels_last)
    case.x = case.x.transpose(2, 3).contiguous().transpose(2, 3)
    case.slopes = case.slopes.contiguous(memory_format=torch.channels_last)
    case.weight = case.weight.double().repeat_interleave(2)[::2].float()
    for name, value in case.compute(kernels).items():
        assert torch.equal(value, expected[name]), name


def test_a_weight_gradient_of_many_parts_is_the_same_every_time(monkeypatch):
    monkeypatch.setattr(kernels, "_PROGRAMS", 100)
    case = Case(Geometry((6, 5), (3, 5), (1, 1)), size=(9, 25))  # 450 positions, in 7 parts
    first, second = (case.compute(kernels, ["weight_gradient"])["weight_gradient"] for _ in range(2))
    assert torch.equal(first, second)
    assert error_between(case.expected()["weight_gradient"], first.double()) <= 1e-4


def test_no_bias():
    case = Case(Geometry((6, 5), (3, 5), (1, 1)))
    without = kernels.convolve(case.x, case.weight, None, case.geometry, "none")
    assert error_between(case.expected()["convolve"], (without + case.bias[:, None, None]).double()) <= 1e-4


def test_every_output_is_written(monkeypatch):
    """What a kernel leaves out would be whatever the memory held."""

    def poisoned(like, shape):
        return torch.full(tuple(shape), torch.nan).to(like.dtype).contiguous(memory_format=torch.channels_last)

    monkeypatch.setattr(kernels, "empty_channels_last", poisoned)
    monkeypatch.setattr(kernels, "_VALUES", 16 * 64)
    case = Case(Geometry((50, 33), (3, 5), (1, 1), 2), size=(7, 8))
    for name, value in case.compute(kernels).items():
        assert value.isfinite().all(), name


@pytest.mark.usefixtures("blocks_of_a_gpu")
def test_blocks_waste_little_and_fit_groups():
    assert kernels._block_channels(Geometry((120, 120), (3, 5), (1, 1))) == 64  # 128 of 120
    assert kernels._block_channels(Geometry((90, 90, 90, 90), (3, 5, 7, 9), (1,) * 4)) == 32
    assert kernels._block_channels(Geometry((48, 48, 48), (3, 5, 7), (1,) * 3)) == 16
    assert [
        kernels._alignment(Geometry((a, b), (3, 5), (1, 1))) for a, b in ((80, 80), (90, 90), (84, 80), (9, 8))
    ] == [
        8,
        2,
        4,
        1,
    ]


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from effnets.nn import mixed_depthwise_triton as kernels

COMMON = {"STRIDE": 2, "LARGEST": 5, "ALIGN": 8, "CHANNELS": 32, "COLUMNS": 8}
CONVOLVE = COMMON | {"POSITIONS": 32, "ACTIVATION": "silu", "BIAS": True}
for kernel, constants in (
    (kernels._convolve_kernel, CONVOLVE | {"TRANSPOSED": False}),
    (kernels._convolve_kernel, CONVOLVE | {"TRANSPOSED": True}),
    (kernels._weight_gradient_kernel, COMMON | {"SUMMED": 4096}),
):
    types = {"table": "*i32", "parts": "*fp32", "weight": "*fp32", "bias": "*fp32"}
    types |= dict.fromkeys(("source", "target", "gradient"), "*bf16") | dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    compiled = triton.compile(ASTSource(kernel, signature, places), target=GPUTarget("cuda", 80, 32))
    print(len(compiled.asm["cubin"]))
"""


@pytest.mark.full
def test_the_kernels_compile_for_a_gpu_without_one():
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    run = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    assert all(int(size) > 1000 for size in run.stdout.split())


LIGHT = """
import sys
import effnets, torch
from effnets.train.model import to_device
model = effnets.create_model("mixnet_s").eval()
effnets.optimize(model)(torch.zeros(1, 3, 32, 32))
from effnets.deploy.optimize.rewrites import PRESETS
effnets.optimize(model, PRESETS["torch-cuda"])(torch.zeros(1, 3, 32, 32))
to_device(model, torch.device("cpu"))
print(sorted(name for name in sys.modules if name.partition(".")[0] == "triton"))
"""


def test_a_cpu_needs_no_triton():
    found = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
