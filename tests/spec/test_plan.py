"""Plans on cases worked out by hand: channel groups, strides and dilation, features, blocks, arguments."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effnets.errors import ArgumentError, ConfigError
from effnets.spec.models import load_spec
from effnets.spec.plan import make_plan, split_channels
from tests.support.plans import network, plan_of


@pytest.mark.parametrize(
    ("channels", "groups", "exponential", "expected"),
    [
        (16, 1, False, (16,)),
        (16, 2, False, (8, 8)),
        (40, 3, False, (14, 13, 13)),
        (41, 3, False, (15, 13, 13)),
        (7, 4, False, (4, 1, 1, 1)),
        (16, 1, True, (16,)),
        (16, 2, True, (8, 8)),
        (16, 3, True, (8, 4, 4)),
        (32, 4, True, (16, 8, 4, 4)),
        (20, 3, True, (10, 5, 5)),
        (15, 3, True, (7, 3, 5)),
    ],
)
def test_split_channels(channels, groups, exponential, expected):
    assert split_channels(channels, groups, exponential) == expected


@given(st.integers(1, 5000), st.integers(1, 16), st.booleans())
@settings(deadline=None)
def test_a_split_loses_no_channel(channels, groups, exponential):
    try:
        shares = split_channels(channels, groups, exponential)
    except ConfigError:
        assert channels < (2 ** (groups - 1) if exponential else groups)
    else:
        assert (len(shares), sum(shares)) == (groups, channels)
        assert min(shares) >= 1


@pytest.mark.parametrize(("channels", "groups", "exponential"), [(2, 3, False), (0, 1, False), (15, 5, True)])
def test_split_without_enough_channels(channels, groups, exponential):
    message = rf"^{channels} channels do not divide into {groups} groups; take fewer groups or more channels$"
    with pytest.raises(ConfigError, match=message):
        split_channels(channels, groups, exponential)


# Strides and dilation.


PYRAMID = ["ds_r1_k3_s1_c16", "ds_r2_k3_s2_c16", "ds_r2_k3_s2_c24", "ds_r2_k3_s2_c32", "ds_r2_k3_s2_c40"]


@pytest.mark.parametrize(
    ("output_stride", "strides", "dilations", "reductions"),
    [
        (32, [1, 2, 1, 2, 1, 2, 1, 2, 1], [1, 1, 1, 1, 1, 1, 1, 1, 1], [2, 4, 8, 16, 32]),
        (16, [1, 2, 1, 2, 1, 2, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1, 2], [2, 4, 8, 16, 16]),
        (8, [1, 2, 1, 2, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 2, 2, 4], [2, 4, 8, 8, 8]),
    ],
)
def test_output_stride_turns_strides_into_dilation_after_the_block(output_stride, strides, dilations, reductions):
    plan = plan_of(*PYRAMID, output_stride=output_stride)
    assert [block.stride for block in plan.blocks] == strides
    assert [block.convolution[0].dilation for block in plan.blocks] == dilations
    assert [feature.reduction for feature in plan.features] == reductions
    assert [feature.channels for feature in plan.features] == [16, 16, 24, 32, 40]
    assert [feature.stage for feature in plan.features] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_a_converted_block_gains_no_shortcut(output_stride):
    plan = plan_of("ds_r2_k3_s2_c16", "ds_r2_k3_s2_c16", "ds_r2_k3_s2_c16", output_stride=output_stride)
    assert [block.shortcut for block in plan.blocks] == [False, True] * 3


def test_dilated_kernels_only_where_the_row_has_no_stride():
    plan = plan_of("ds_r2_k3.7_s2_c16_dilated", "ds_r2_k9_s2_c24_dilated", output_stride=8, stem_stride=2)
    seen = [[(conv.kernel_size, conv.dilation) for conv in block.convolution] for block in plan.blocks]
    assert seen == [[(3, 1), (7, 1)], [(3, 1), (3, 3)], [(9, 1)], [(3, 4)]]
    plan = plan_of(*["ds_r1_k3_s2_c16"] * 2, "ds_r2_k9_s2_c24_dilated", output_stride=8)
    seen = [[(conv.kernel_size, conv.dilation) for conv in block.convolution] for block in plan.blocks]
    assert seen[2:] == [[(9, 1)], [(3, 8)]]


@pytest.mark.parametrize("name", ["mobilenetv1_100", "mobilenetv2_100", "mixnet_s", "rexnet_100"])
def test_features_of_real_models(name):
    plan = make_plan(load_spec(name))
    assert [feature.reduction for feature in plan.features] == [2, 4, 8, 16, 32]
    assert [feature.channels for feature in plan.features] == [
        plan.stages[feature.stage][-1].out_channels for feature in plan.features
    ]


def test_features_of_a_stride_right_after_the_stem():
    plan = plan_of("ds_r1_k3_s2_c24", stem=16)
    assert [(level.stage, level.channels, level.reduction) for level in plan.features] == [(-1, 16, 2), (0, 24, 4)]


def test_features_at_32_pixels():
    assert [level.reduction for level in make_plan(load_spec("mobilenetv2_100_32px")).features] == [1, 2, 4, 8]


# Blocks.


def test_mixed_block_in_numbers():
    (block,) = plan_of("ir_r1_k3.5_a1.1_p1.1_s2_e6_c40_se0.5", stem=24).blocks
    assert [(conv.in_channels, conv.out_channels) for conv in block.expand] == [(12, 72), (12, 72)]
    assert [(conv.in_channels, conv.kernel_size, conv.groups) for conv in block.convolution] == [
        (72, 3, 72),
        (72, 5, 72),
    ]
    assert [(conv.in_channels, conv.out_channels) for conv in block.project] == [(72, 20), (72, 20)]
    assert (block.expanded_channels, block.squeeze_channels, block.stride) == (144, 12, 2)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["ds_r1_k3_s1_c16"], True),
        (["ds_r1_k3_s1_c16_noskip"], False),
        (["ds_r1_k3_s1_c24"], False),
        (["ds_r1_k3_s2_c16"], False),
        (["dsa_r1_k3_s1_c16"], False),
        (["cn_r1_k3_s1_c16"], False),
        (["cn_r1_k3_s1_c16_skip"], True),
        (["ir_r1_k3_s1_e6_c16"], True),
        (["lb_r1_k3_s1_e6_c24"], True),
        (["lb_r1_k3_s1_e6_c8"], False),
        (["lb_r1_k3_s1_e6_c24_noskip"], False),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_shortcut(rows, expected):
    assert next(plan_of(*rows).blocks).shortcut is expected


# Head and arguments.


def test_network_without_head_and_with_a_hidden_layer():
    plan = plan_of("ds_r1_k3_s1_c64")
    assert (plan.head, plan.num_features, plan.pre_logits_channels) == (None, 64, 64)
    plan = plan_of("ds_r1_k3_s1_c64", head_hidden=100)
    assert (plan.num_features, plan.pre_logits_channels) == (64, 100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_chans": 0}, "in_chans is 0; an image has at least 1 channel"),
        ({"num_classes": -1}, r"num_classes is -1; it must be 0 \(no classifier\) or more"),
        ({"output_stride": 4}, "output_stride is 4; it must be 8, 16 or 32"),
        ({"output_stride": 64}, "output_stride is 64; it must be 8, 16 or 32"),
    ],
)
def test_argument_out_of_range(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        make_plan(network("ds_r1_k3_s1_c16"), **arguments)


def test_arguments_are_taken():
    plan = make_plan(network("ds_r1_k3_s1_c16"), in_chans=5, num_classes=0)
    assert (plan.stem.in_channels, plan.num_classes) == (5, 0)
    assert make_plan(network("ds_r1_k3_s1_c16", num_classes=7)).num_classes == 7
