"""Numbers that no network can compute with: refused by name, and the network stays as it was."""

from __future__ import annotations

import pytest
import torch

import effnets
from effnets.errors import WeightsError
from effnets.weights.files import write_checkpoint

CONV, BIAS, VARIANCE = "stem.conv.weight", "stem.bn.bias", "stem.bn.running_var"


@pytest.fixture
def model():
    return effnets.create_model("mobilenetv1_025", num_classes=3)


@pytest.fixture
def load(model, tmp_path):
    """Loads the network's own tensors with some replaced, and looks that a refusal left it alone."""

    def load(changes, **options):
        tensors = model.state_dict()
        changed = {name: change(tensors[name].clone()) for name, change in changes.items()}
        write_checkpoint(tmp_path / "w.safetensors", {**tensors, **changed}, {})
        target = effnets.create_model("mobilenetv1_025", num_classes=3, **options)
        before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
        try:
            effnets.load_weights(target, tmp_path / "w.safetensors")
        except WeightsError:
            assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())
            assert target.load_report is None
            raise
        return target

    return load


def put(value, dtype=torch.float32):
    """Writes a value into the middle of a tensor."""

    def change(tensor):
        tensor = tensor.to(dtype)
        tensor.view(-1)[tensor.numel() // 2] = value
        return tensor

    return change


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [CONV, BIAS, VARIANCE])
def test_nan_and_infinity(load, name, value, dtype):
    with pytest.raises(WeightsError, match=rf"w\.safetensors: NaN or infinity in {name}; fetch it again"):
        load({name: put(value, dtype)})


def test_infinities_that_cancel(load):
    with pytest.raises(WeightsError, match=f"NaN or infinity in {CONV}, {BIAS}; fetch"):
        load({CONV: put(float("inf")), BIAS: put(float("-inf"))})


def test_a_long_list_is_cut(load, model):
    spoilt = {name: lambda t: t * float("nan") for name in model.state_dict() if name.endswith(".weight")}
    with pytest.raises(WeightsError, match=rf"NaN or infinity in ([\w.]+, ){{4}}[\w.]+ and {len(spoilt) - 5} more; f"):
        load(spoilt)


@pytest.mark.parametrize(("dtype", "large"), [(torch.float16, 6e4), (torch.float32, 3e38)])
def test_large_numbers_are_not_infinite(load, dtype, large):
    """Their sum is: of half precision's in its own, and of two such numbers in single precision."""
    loaded = load({CONV: lambda t: torch.full_like(t, large, dtype=dtype), BIAS: put(large, dtype)})
    assert loaded.stem.conv.weight.max() == torch.tensor(large, dtype=dtype).float()


@pytest.mark.parametrize(
    ("file", "network", "value"),
    [(torch.float64, torch.float32, 1e300), (torch.float32, torch.float16, 1e5), (torch.float32, torch.float16, -1e5)],
)
def test_numbers_that_the_network_has_no_room_for(load, file, network, value):
    kind = str(network).removeprefix("torch.")
    with pytest.raises(WeightsError, match=rf"w\.safetensors: numbers too large for {kind} in {CONV}; build the model"):
        load({CONV: put(value, file)}, dtype=network)


@pytest.mark.parametrize("value", [-1e-6, -1.0])
def test_variances_below_zero(load, value):
    with pytest.raises(WeightsError, match=rf"w\.safetensors: variances below 0 in {VARIANCE}; no batch has them"):
        load({VARIANCE: put(value)})


@pytest.mark.parametrize("value", [0.0, -0.0])
def test_a_variance_of_zero_is_one(load, value):
    assert load({VARIANCE: put(value)}).stem.bn.running_var.min() == 0


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.uint8, torch.float8_e4m3fn])
def test_other_numbers_are_no_weights(load, dtype):
    kind = str(dtype).removeprefix("torch.")
    message = (
        rf"w\.safetensors: stem\.conv\.weight is {kind}; weights are float16.*save the network unquantized, with m"
    )
    for options in ({}, {"in_chans": 1}):
        with pytest.raises(WeightsError, match=message):
            load({CONV: lambda t: t.to(dtype)}, **options)


@pytest.mark.parametrize("change", [lambda t: t + 0.5, lambda t: t.bool()], ids=["fraction", "bool"])
def test_a_counter_is_an_integer(load, change):
    with pytest.raises(WeightsError, match=r"stem\.bn\.num_batches_tracked is \w+; .*counters whole numbers"):
        load({"stem.bn.num_batches_tracked": change})


@pytest.mark.parametrize("shape", [(0,), (0, 3, 3, 3), ()])
@pytest.mark.parametrize("name", [CONV, BIAS, VARIANCE])
def test_tensors_of_none_or_one(load, name, shape):
    shown = str(list(shape)).replace("[", r"\[")
    with pytest.raises(WeightsError, match=rf"does not fit(?s:.*)\+ {name} {shown}"):
        load({name: lambda t: t.new_zeros(shape)})
