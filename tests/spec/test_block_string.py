"""Block strings: read to exact specs, written back as they were, and overridden."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effnets.spec.block_string import ACTIVATION_CODES, BLOCKS, FLAGS, KEYS, decode_block, encode_block, override_block
from effnets.spec.models import list_models, load_spec
from effnets.spec.specs import BlockSpec
from effnets.spec.yaml import read_yaml
from effnets.utils.paths import configs_dir

KNOWN = {
    "cn_r1_k3_s2_c32": BlockSpec(type="cn", stride=2, channels=32),
    "cn_r3_k1.3_s1_c8_nhs_skip": BlockSpec(
        type="cn", repeats=3, kernel_sizes=(1, 3), channels=8, activation="hard_swish", shortcut=True
    ),
    "ds_r1_k3_s1_e1_c16": BlockSpec(type="ds", expansion=1.0, channels=16),
    "ds_r1_k3_s1_c16_noskip": BlockSpec(type="ds", channels=16, shortcut=False),
    "dsa_r6_k3_s2_c512": BlockSpec(type="dsa", repeats=6, stride=2, channels=512),
    "ir_r2_k3.5.7_a1.1_p1.1_s2_e6_c40_se0.5_nsw": BlockSpec(
        type="ir",
        repeats=2,
        kernel_sizes=(3, 5, 7),
        expand_groups=2,
        project_groups=2,
        stride=2,
        expansion=6.0,
        channels=40,
        se_ratio=Fraction(1, 2),
        activation="silu",
    ),
    "ir_r1_k13_s1_e2.5_c8_nr6_exponential_dilated": BlockSpec(
        type="ir",
        kernel_sizes=(13,),
        expansion=2.5,
        channels=8,
        activation="relu6",
        exponential=True,
        dilated=True,
    ),
    "lb_r5_k3_s2_e6_se1/12": BlockSpec(type="lb", repeats=5, stride=2, expansion=6.0, se_ratio=Fraction(1, 12)),
    "lb_r1_k3_s1_e1_c24_nre": BlockSpec(type="lb", expansion=1.0, channels=24, activation="relu"),
}


def shipped_rows() -> list[str]:
    rows = set()
    for path in sorted((configs_dir() / "models").glob("*.yaml")):
        for node in read_yaml(path).value.values():
            if "blocks" in node.value:
                rows |= {row.value for row in node.value["blocks"].value}
    return sorted(rows)


@pytest.mark.parametrize(("text", "block"), KNOWN.items(), ids=KNOWN)
def test_known_string_decodes_and_encodes(text, block):
    assert decode_block(text) == block
    assert encode_block(block) == text


def test_shipped_rows_are_found():
    assert len(shipped_rows()) > 60


@pytest.mark.parametrize("row", shipped_rows())
def test_shipped_row_is_canonical(row):
    assert encode_block(decode_block(row)) == row


@pytest.mark.parametrize("name", list_models())
def test_blocks_of_every_model_round_trip(name):
    for block in load_spec(name).blocks:
        assert decode_block(encode_block(block)) == block


def test_keys_come_in_any_order():
    expected = decode_block("ir_r2_k3.5_s2_e6_c40_se0.25_nsw_dilated")
    assert decode_block("ir_dilated_nsw_se0.25_c40_e6_s2_k3.5_r2") == expected
    assert decode_block("ir_c40_r2_dilated_k3.5_se0.25_s2_nsw_e6") == expected


# How to draw the value of each field; what BLOCKS says decides which fields a block has.
VALUES: dict[str, st.SearchStrategy] = {
    "repeats": st.integers(1, 256),
    "kernel_sizes": st.lists(st.integers(0, 31).map(lambda n: 2 * n + 1), min_size=1, max_size=16).map(tuple),
    "expand_groups": st.integers(1, 16),
    "project_groups": st.integers(1, 16),
    "stride": st.sampled_from([1, 2]),
    "expansion": st.floats(0.01, 64),
    "channels": st.integers(1, 65_536),
    "se_ratio": st.none() | st.fractions(Fraction(1, 1_000_000), 1, max_denominator=1_000_000),
    "activation": st.none() | st.sampled_from(sorted(ACTIVATION_CODES.values())),
    "exponential": st.booleans(),
    "dilated": st.booleans(),
}


@st.composite
def block_specs(draw) -> BlockSpec:
    block_type = draw(st.sampled_from(sorted(BLOCKS)))
    values: dict[str, object] = {}
    for name in (*BLOCKS[block_type].required, *BLOCKS[block_type].optional):
        field = KEYS[name].field if name in KEYS else FLAGS[name][0]
        if field == "shortcut":
            values[field] = draw(st.sampled_from([None, FLAGS[name][1]]))
        elif field == "expansion" and block_type in ("ds", "dsa"):
            values[field] = draw(st.sampled_from([None, 1.0]))
        elif field == "channels" and block_type == "lb":
            values[field] = draw(st.none() | VALUES[field])
        else:
            values[field] = draw(VALUES[field])
    return BlockSpec(type=block_type, **values)


@settings(deadline=None)
@given(block_specs())
def test_any_block_survives_writing_and_reading(block):
    assert decode_block(encode_block(block)) == block


@settings(deadline=None)
@given(block_specs(), st.randoms(use_true_random=False))
def test_writing_is_canonical_whatever_the_order(block, random):
    text = encode_block(block)
    block_type, *tokens = text.split("_")
    random.shuffle(tokens)
    shuffled = "_".join([block_type, *tokens])
    assert encode_block(decode_block(shuffled)) == text


def test_every_spec_field_is_written():
    """A field that the grammar forgot would be lost without a word."""
    fields = {key.field for key in KEYS.values()} | {field for field, _ in FLAGS.values()} | {"type"}
    assert fields == {field.name for field in dataclasses.fields(BlockSpec)}


@pytest.mark.parametrize(
    ("row", "fragment", "expected"),
    [
        ("dsa_r2_k3_s2_c64", "k3.5.7", "dsa_r2_k3.5.7_s2_c64"),
        ("dsa_r2_k3_s2_c64", "cn", "cn_r2_k3_s2_c64"),
        ("dsa_r2_k3_s2_c64", "cn_k5", "cn_r2_k5_s2_c64"),
        ("ir_r2_k5_s1_e6_c64", "dilated", "ir_r2_k5_s1_e6_c64_dilated"),
        ("ir_r2_k5_s1_e6_c64_se0.25", "se1/12_nsw", "ir_r2_k5_s1_e6_c64_se1/12_nsw"),
        ("lb_r2_k3_s1_e6_c64", "ir", "ir_r2_k3_s1_e6_c64"),
    ],
)
def test_override(row, fragment, expected):
    assert encode_block(override_block(decode_block(row), fragment)) == expected
