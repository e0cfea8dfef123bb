"""The layers, each against an independent statement of what it computes."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from effnets.nn.layers import (
    Conv2d,
    ConvBNAct,
    DropPath,
    GlobalPool,
    Linear,
    MixedConv,
    SqueezeExcite,
    activation,
)
from effnets.nn.utils import initialize
from effnets.spec.specs import Activation
from tests.support import error_between, images


def make_conv(*, seed: int = 0, dtype: torch.dtype = torch.float32, **arguments) -> Conv2d:
    """A convolution with weights drawn from N(0, 1)."""
    conv = Conv2d(**{"in_channels": 1, "out_channels": 1, "kernel_size": 3, "dtype": dtype, **arguments})
    generator = torch.Generator().manual_seed(seed)
    for parameter in conv.parameters():
        nn.init.normal_(parameter, generator=generator)
    return conv


def tensorflow_pads(size: int, kernel_size: int, stride: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's rule, from its documentation of tf.nn.convolution, padding="SAME"."""
    output = math.ceil(size / stride)
    window = (kernel_size - 1) * dilation + 1
    total = max((output - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int, dilation: int, pads: list[tuple[int, int]]) -> np.ndarray:
    """Convolution of one channel, one tap of the kernel after the other."""
    rows, columns = kernel.shape
    padded = np.pad(x, pads)
    height, width = (math.ceil(size / stride) for size in x.shape)
    result = np.zeros((height, width))
    for row in range(rows):
        for column in range(columns):
            top, left = row * dilation, column * dilation
            taps = padded[
                top : top + (height - 1) * stride + 1 : stride, left : left + (width - 1) * stride + 1 : stride
            ]
            result += kernel[row, column] * taps
    return result


GEOMETRIES = [(k, s, d) for k in (1, 3, 5, 7, 9) for s in (1, 2) for d in (1, 2)]


@pytest.mark.parametrize(("kernel_size", "stride", "dilation"), GEOMETRIES, ids=str)
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_padding_is_that_of_the_framework_at_every_size(padding, kernel_size, stride, dilation):
    conv = make_conv(
        kernel_size=kernel_size,
        stride=stride,
        dilation=dilation,
        padding=padding,
        dtype=torch.float64,
        seed=kernel_size,
    )
    kernel = conv.weight.detach()[0, 0].numpy()
    for height in range(1, 41):
        size = (height, 41 - height)
        x = images(1, 1, *size, seed=height).double()
        if padding == "same":
            pads = [tensorflow_pads(side, kernel_size, stride, dilation) for side in size]
        else:
            pads = [(dilation * (kernel_size - 1) // 2,) * 2] * 2
        expected = convolve(x[0, 0].numpy(), kernel, stride, dilation, pads)
        with torch.no_grad():
            actual = conv(x)[0, 0].numpy()
        assert actual.shape == expected.shape, size
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12, err_msg=str(size))


def test_the_paddings_differ_where_they_should():
    """At even sizes and stride 2 the odd pixel tells; at odd sizes, or stride 1, both paddings are the same."""
    x = images(1, 1, 224, 224)
    for size, stride, equal in ((224, 2, False), (223, 2, True), (224, 1, True)):
        same, symmetric = (make_conv(stride=stride, padding=padding) for padding in ("same", "symmetric"))
        with torch.no_grad():
            assert torch.equal(same(x[..., :size, :size]), symmetric(x[..., :size, :size])) == equal


@pytest.mark.parametrize("example", [(64, 80), (97, 65)], ids=str)
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_exported_padding_follows_the_size(padding, example):
    """TensorFlow's padding depends on the size: frozen at that of the export, other sizes would come out wrong."""
    geometry = [(3, 2, 1), (5, 2, 1), (3, 1, 2), (7, 2, 2), (1, 2, 1), (3, 2, 1)]
    layers = [
        make_conv(kernel_size=k, stride=s, dilation=d, padding=padding, seed=seed)
        for seed, (k, s, d) in enumerate(geometry)
    ]
    model = nn.Sequential(*layers).eval()
    # From 33 on the last map has two pixels a side: torch takes a size of 1 for a constant.
    height, width = torch.export.Dim("height", min=33, max=512), torch.export.Dim("width", min=33, max=512)
    exported = torch.export.export(model, (images(1, 1, *example),), dynamic_shapes=[{2: height, 3: width}]).module()
    for size in (example, (224, 224), (225, 225), (256, 320), (97, 161), (160, 97)):
        x = images(1, 1, *size)
        with torch.no_grad():
            expected, actual = model(x), exported(x)
        assert actual.shape == expected.shape == (1, 1, *(math.ceil(side / 32) for side in size))
        assert error_between(expected, actual) <= 1e-6, size


def test_weights_are_left_to_the_builder():
    state = torch.get_rng_state()
    Conv2d(in_channels=3, out_channels=8, kernel_size=3, bias=True)
    Linear(8, 4)
    assert torch.equal(torch.get_rng_state(), state), "construction drew random numbers"


def test_initialise_draws_what_its_documentation_says():
    torch.manual_seed(0)
    parts = nn.ModuleDict(
        {
            "full": Conv2d(in_channels=64, out_channels=128, kernel_size=3),
            "depthwise": Conv2d(in_channels=4096, out_channels=4096, kernel_size=5, groups=4096),
            "pointwise": Conv2d(in_channels=256, out_channels=512, kernel_size=1, bias=True),
            "linear": Linear(512, 256),
        }
    )
    initialize(parts)
    deviations = {"full": 2 / (9 * 128), "depthwise": 2 / 25, "pointwise": 2 / 512, "linear": 0.01**2}
    for name, variance in deviations.items():
        assert parts[name].weight.std().item() == pytest.approx(math.sqrt(variance), rel=0.02), name
        assert abs(parts[name].weight.mean().item()) < 0.02 * math.sqrt(variance), name
    assert not parts["pointwise"].bias.any()
    assert not parts["linear"].bias.any()
    first = parts["full"].weight.clone()
    torch.manual_seed(0)
    initialize(parts)
    assert torch.equal(parts["full"].weight, first)


@pytest.mark.parametrize("channels", [(12, 10, 10), (5, 5), (1, 2, 4), (7,)], ids=str)
def test_mixed_convolution_is_convolutions_on_slices(channels):
    convs = [
        make_conv(in_channels=count, out_channels=count, groups=count, kernel_size=3 + 2 * index, seed=index)
        for index, count in enumerate(channels)
    ]
    mixed = MixedConv(convs)
    assert mixed.splits == list(channels)
    assert list(mixed.state_dict()) == [f"{index}.weight" for index in range(len(channels))]
    x = images(2, sum(channels), 9, 11)
    begins = np.cumsum([0, *channels])
    expected = [conv(x[:, begin : begin + conv.in_channels]) for conv, begin in zip(convs, begins, strict=False)]
    assert torch.equal(mixed(x), torch.cat(expected, dim=1))
    with pytest.raises(RuntimeError, match="split"):
        mixed(images(2, sum(channels) + 1, 9, 11))


def test_mixed_pointwise_groups_may_have_other_sizes_in_than_out():
    mixed = MixedConv(
        [
            make_conv(in_channels=3, out_channels=5, kernel_size=1, seed=1),
            make_conv(in_channels=2, out_channels=4, kernel_size=1, seed=2),
        ]
    )
    x = images(2, 5, 4, 4)
    y = mixed(x)
    assert y.shape == (2, 9, 4, 4)
    assert torch.allclose(y[:, :5], torch.einsum("oi,nihw->nohw", mixed[0].weight[..., 0, 0], x[:, :3]), atol=1e-5)
    assert torch.allclose(y[:, 5:], torch.einsum("oi,nihw->nohw", mixed[1].weight[..., 0, 0], x[:, 3:]), atol=1e-5)


@pytest.mark.parametrize("with_bn", [False, True], ids=["plain", "bn"])
@pytest.mark.parametrize("size", [(1, 1), (7, 5)], ids=str)
def test_squeeze_excite(size, with_bn):
    torch.manual_seed(0)
    bn = nn.BatchNorm2d(3).eval() if with_bn else None
    if bn:
        for statistic in (bn.weight, bn.bias, bn.running_mean):
            nn.init.normal_(statistic)
    squeeze = SqueezeExcite(
        make_conv(in_channels=6, out_channels=3, kernel_size=1, bias=True, seed=1),
        bn,
        activation("relu"),
        make_conv(in_channels=3, out_channels=6, kernel_size=1, bias=True, seed=2),
    )
    x = images(2, 6, *size)
    with torch.no_grad():
        hidden = x.mean((2, 3)) @ squeeze.reduce.weight[:, :, 0, 0].T + squeeze.reduce.bias
        if bn:
            hidden = (hidden - bn.running_mean) / torch.sqrt(bn.running_var + bn.eps) * bn.weight + bn.bias
        weights = hidden.clamp(min=0) @ squeeze.expand.weight[:, :, 0, 0].T + squeeze.expand.bias
        expected = x / (1 + torch.exp(-weights))[:, :, None, None]
        before = x.clone()
        assert error_between(expected, squeeze(x)) <= 1e-6
    assert torch.equal(x, before), "the input is the block's own and must not change"


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    torch.manual_seed(0)
    rate, count = 0.25, 8000
    x = torch.ones(count, 2, 3, 1)
    y = DropPath(rate).train()(x)
    per_image = y.flatten(1)
    kept = per_image[:, 0] != 0
    assert torch.equal(per_image, torch.where(kept, 1 / (1 - rate), 0.0)[:, None].expand_as(per_image))
    # Five standard deviations of a share of 8000 draws.
    assert kept.float().mean().item() == pytest.approx(1 - rate, abs=5 * math.sqrt(rate * (1 - rate) / count))
    assert y.mean().item() == pytest.approx(1.0, abs=0.04)


def test_drop_path_stops_the_gradient_of_what_it_drops():
    torch.manual_seed(0)
    x = torch.ones(64, 1, 1, 1, requires_grad=True)
    y = DropPath(0.5).train()(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert 0 < (x.grad == 0).sum() < 64


def test_drop_path_is_the_identity_in_evaluation():
    x = images(4, 3, 2, 2)
    layer = DropPath(0.9).eval()
    assert torch.equal(layer(x), x)
    assert repr(layer) == "DropPath(rate=0.9)"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("avg", lambda x: nn.functional.adaptive_avg_pool2d(x, 1)),
        ("max", lambda x: nn.functional.adaptive_max_pool2d(x, 1)),
        ("avgmax", lambda x: (nn.functional.adaptive_avg_pool2d(x, 1) + nn.functional.adaptive_max_pool2d(x, 1)) / 2),
        ("none", lambda x: x),
    ],
)
def test_global_pool(kind, expected):
    pool = GlobalPool(kind)
    for size in ((1, 1), (7, 5)):
        x = images(2, 6, *size)
        assert torch.allclose(pool(x), expected(x), atol=1e-6)
    assert kind in GlobalPool.KINDS
    assert repr(pool) == f"GlobalPool({kind})"


def test_every_activation_has_a_module_of_its_formula():
    x = torch.linspace(-8, 8, 65)
    formulas = {
        "relu": x.clamp(min=0),
        "relu6": x.clamp(0, 6),
        "silu": x / (1 + torch.exp(-x)),
        "hard_swish": x * (x + 3).clamp(0, 6) / 6,
    }
    assert set(formulas) == set(get_args(Activation))
    for name, expected in formulas.items():
        assert torch.allclose(activation(name)(x.clone()), expected, atol=1e-6), name


def test_conv_bn_act_without_activation_is_linear():
    bn = nn.BatchNorm2d(1).eval()
    linear = ConvBNAct(make_conv(kernel_size=1), bn, None)
    clipped = ConvBNAct(linear.conv, bn, activation("relu"))
    x = images(1, 1, 8, 8)
    with torch.no_grad():
        assert (linear(x) < 0).any()
        assert torch.equal(clipped(x), linear(x).clamp(min=0))
