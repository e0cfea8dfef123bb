"""The multipliers: rounding of channels, depth, width and ReXNet's ramp, by hand or as published."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import effnets
from effnets.errors import ConfigError
from effnets.spec.models import load_spec
from effnets.spec.plan import NetworkPlan, make_plan, round_channels
from tests.support.plans import plan_of


@pytest.mark.parametrize(
    ("channels", "divisor", "expected"),
    [
        (32, 8, 32),
        (35, 8, 32),
        (35.9, 8, 40),  # 32 is nearer, but loses over a tenth
        (36, 8, 40),
        (1, 8, 8),
        (11.2, 8, 16),  # 8 would lose over a tenth
        (8.8, 8, 8),
        (8.9, 8, 16),
        (27, 1, 27),
        (27.5, 1, 28),
        (24 * 0.35, 8, 8),
        (1280 * 1.4, 8, 1792),
        (56, 16, 64),
    ],
)
def test_round_channels(channels, divisor, expected):
    assert round_channels(channels, divisor) == expected


@given(st.floats(0.1, 1e6), st.integers(1, 1024))
@settings(deadline=None)
def test_rounded_channels_divide_and_lose_at_most_a_tenth(channels, divisor):
    rounded = round_channels(channels, divisor)
    assert rounded % divisor == 0
    assert 0.9 * channels <= rounded <= max(channels, 1) + 2 * divisor


# Depth.


def repeats(plan: NetworkPlan) -> list[int]:
    return [len(stage) for stage in plan.stages]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mixnet_m", [1, 2, 4, 4, 4, 4]),
        ("mixnet_xl", [1, 2, 5, 5, 5, 5]),
        ("mixnet_xxl", [1, 3, 5, 5, 5, 5]),
        ("mobilenetv2_100", [1, 2, 3, 4, 3, 3, 1]),
        ("mobilenetv2_110d", [1, 3, 4, 5, 4, 4, 1]),
        ("mobilenetv2_120d", [1, 3, 5, 6, 5, 5, 1]),
    ],
)
def test_depth_of_real_models(name, expected):
    assert repeats(make_plan(load_spec(name))) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"depth": 1.2}, [2, 3, 3]),
        ({"depth": 1.2, "depth_rounding": "nearest"}, [1, 2, 2]),
        ({"depth": 1.2, "depth_fixed_ends": True}, [1, 3, 2]),
        ({"depth": 0.1}, [1, 1, 1]),
        ({"depth": 3}, [3, 6, 6]),
    ],
)
def test_depth_rounding_and_fixed_ends(fields, expected):
    assert repeats(plan_of("ds_r1_k3_s1_c16", "ds_r2_k3_s2_c24", "ds_r2_k3_s2_c32", **fields)) == expected


def test_rows_of_a_stage_share_its_depth_and_the_first_grows_last():
    plan = plan_of("ds_r1_k3_s2_c24", "ds_r3_k5_s1_c24", depth=1.25)
    assert [[block.convolution[0].kernel_size for block in stage] for stage in plan.stages] == [[3, 5, 5, 5, 5]]
    assert [block.stride for block in plan.blocks] == [2, 1, 1, 1, 1]
    assert [block.row for block in plan.blocks] == [0, 1, 1, 1, 1]


def test_a_stage_begins_at_a_new_width_or_a_stride():
    plan = plan_of("ds_r1_k3_s1_c16", "ds_r1_k5_s1_c16", "ds_r1_k3_s1_c24", "ds_r2_k3_s2_c24")
    assert repeats(plan) == [2, 1, 2]


def test_blocks_are_bounded():
    assert sum(repeats(plan_of(*["ds_r256_k3_s1_c8"] * 4))) == 1024
    for rows, fields in ((["ds_r256_k3_s1_c8"] * 5, {}), (["ds_r256_k3_s1_c8"], {"depth": 64.0})):
        with pytest.raises(ConfigError, match=rf"^net: block row {len(rows)}: over 1,024 blocks in all; lower the"):
            plan_of(*rows, **fields)


# Width.


@pytest.mark.parametrize(
    ("scaling", "width", "expected"),
    [("fixed", 0.5, 32), ("fixed", 1.5, 32), ("width", 0.5, 16), ("width", 1.5, 48), ("up", 0.5, 32), ("up", 1.5, 48)],
)
def test_scaling_of_stem_and_head(scaling, width, expected):
    plan = plan_of("ds_r1_k3_s1_c64", stem=32, head=32, stem_scaling=scaling, head_scaling=scaling, width=width)
    assert (plan.stem.out_channels, plan.head.out_channels) == (expected, expected)
    assert plan.num_features == plan.pre_logits_channels == expected
    assert plan.stages[0][0].out_channels == 64 * width


# ReXNet's ramp.


def channels(name: str) -> list[int]:
    return [block.out_channels for block in make_plan(load_spec(name)).blocks]


def test_ramp_of_rexnet():
    assert channels("rexnet_100") == [16, 27, 38, 50, 61, 72, 84, 95, 106, 117, 128, 140, 151, 162, 174, 185]


def test_ramp_below_one_keeps_stem_and_start():
    plan = make_plan(load_spec("rexnet_090"))
    assert plan.stem.out_channels == 32
    assert channels("rexnet_090") == [16, 26, 36, 46, 56, 67, 77, 87, 97, 107, 117, 127, 138, 148, 158, 168]
    assert effnets.count("rexnet_090").params == 4_091_257


def test_ramp_of_rexnet_lite_reaches_its_end():
    assert channels("rexnet_lite_100")[-1] == round_channels(180, 8) == 184
    assert channels("rexnet_lite_100")[0] == 16


@pytest.mark.parametrize(
    ("name", "params"), [("rexnet_lite_100", 4.74), ("rexnet_lite_130", 6.75), ("rexnet_200", 16.37)]
)
def test_parameters_as_published(name, params):
    assert round(effnets.count(name).params / 1e6, 2) == params
