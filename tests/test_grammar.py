"""Block strings: read to exact specs, written back as they were, and refused with the fix in the message."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effnets import cost, entry, grammar, plan, spec
from effnets.config import list_models, load_spec
from effnets.errors import ConfigError
from effnets.grammar import ACTIVATION_CODES, BLOCKS, FLAGS, KEYS, decode_block, encode_block, override_block
from effnets.paths import configs_dir
from effnets.spec import BlockSpec, ChannelSchedule, ModelSpec, PreprocessSpec
from effnets.yamltree import read_yaml

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


REST = "_r1_k3_s1_e6_c8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("xx" + REST, "'xx' is not known; blocks are cn, ds, dsa, ir, lb"),
        (REST[1:], "it must begin with a block type, one of cn, ds, dsa, ir, lb"),
        ("", "'' is not known"),
        ("ir", r"ir needs r \(repeats\); write r2"),
        ("IR" + REST, "'IR' is not known"),
        (" ir" + REST, "' ir' is not known"),
        ("ir" + REST + "\n", "'c8.n' is no value for channels; write c40"),
        ("ir_ir" + REST, "'ir' is not known"),
        ("ir" + REST + "_zz3", "'zz3' is not known; .* keys r, k, a, p, s, e, c, se, n, flags exponential, dilated"),
        ("ir" + REST + "_", "'' is not known"),
        ("ir" + REST + "_nxx", r"'nxx' is no value for activation; write one of nre \(relu\)"),
        ("ir" + REST + "_nswish", r"'nswish' is no value for activation; .*nsw \(silu\)"),
        ("ir" + REST + "_c16", "'c16' sets channels a second time; keep one"),
        ("ir" + REST + "_c8", "'c8' sets channels a second time; keep one"),
        ("ir" + REST + "_dilated_dilated", "'dilated' sets dilated a second time"),
        ("cn_r1_k3_s1_c8_skip_noskip", "'noskip' sets shortcut a second time"),
        ("ir_r1_k_s1_e6_c8", "'k' is no value for kernel_sizes; write k3 or k3.5.7"),
        ("ir_r1_k3..5_s1_e6_c8", "'k3..5' is no value for kernel_sizes; write k3 or k3.5.7"),
        ("ir_r1_k3._s1_e6_c8", "'k3.' is no value for kernel_sizes"),
        ("ir_r1_k4_s1_e6_c8", "kernel size k is 4; kernels are odd"),
        ("ir_r1_k3.4_s1_e6_c8", "kernel size k is 4; kernels are odd"),
        ("ir_r1_k0_s1_e6_c8", "'k0' is no value for kernel_sizes"),
        ("ir_r1_k-3_s1_e6_c8", "'k-3' is no value for kernel_sizes"),
        ("ir_r1_k65_s1_e6_c8", r"kernel size k is 65; it must lie in 1\.\.63"),
        ("ir_r1_k" + ".".join(["3"] * 17) + "_s1_e6_c8", "at most 16 kernel groups"),
        ("ir_r1_k3_s3_e6_c8", "stride s is 3; it must be 1 or 2"),
        ("ir_r1_k3_s0_e6_c8", "'s0' is no value for stride; write s2"),
        ("ir_r0_k3_s1_e6_c8", "'r0' is no value for repeats; write r2"),
        ("ir_r257_k3_s1_e6_c8", r"repeats r is 257; it must lie in 1\.\.256"),
        ("ir_r1_k3_s1_e0_c8", r"expansion e is 0; it must lie in 0\.01\.\.64"),
        ("ir_r1_k3_s1_e65_c8", r"expansion e is 65; it must lie in 0\.01\.\.64"),
        ("ir_r1_k3_s1_e1e9_c8", "'e1e9' is no value for expansion; write e6"),
        ("ir_r1_k3_s1_einf_c8", "'einf' is no value for expansion"),
        ("ir_r1_k3_s1_enan_c8", "'enan' is no value for expansion"),
        ("ir_r1_k3_s1_e6_c0", "'c0' is no value for channels"),
        ("ir_r1_k3_s1_e6_c99999", r"channels c is 99999; it must lie in 1\.\.65536"),
        ("ir_r1_k3_s1_e6_c" + "9" * 400, "'c9999.* is no value for channels"),
        ("ir_r1_k3_s1_e6_c٨", "'c٨' is no value for channels; write c40"),
        ("ir_r1_k²_s1_e6_c8", "'k²' is no value for kernel_sizes"),
        ("ir_k3_s1_e6_c8", r"ir needs r \(repeats\); write r2"),
        ("ir_r1_s1_e6_c8", r"ir needs k \(kernel_sizes\); write k3"),
        ("ir_r1_k3_e6_c8", r"ir needs s \(stride\); write s2"),
        ("ir_r1_k3_s1_c8", r"ir needs e \(expansion\); write e6"),
        ("ir_r1_k3_s1_e6", r"ir needs c \(channels\); write c40"),
        ("ds_r1_k3_s1_e6_c8", "ds has no expansion, so e must be 1 or absent; use ir"),
        ("dsa_r1_k3_s1_e3_c8", "dsa has no expansion, so e must be 1 or absent; use ir"),
        ("cn_r1_k3_s1_e6_c8", "cn has no expansion; its keys are r, k, s, c, n, skip"),
        ("cn_r1_k3_s1_c8_a1", "cn has no expand_groups"),
        ("ds_r1_k3_s1_c8_a1.1", "ds has no expand_groups"),
        ("lb_r1_k3_s1_e6_p1.1", "lb has no project_groups"),
        ("cn_r1_k3_s1_c8_se0.5", "cn has no se_ratio"),
        ("cn_r1_k3_s1_c8_dilated", "cn has no dilated"),
        ("cn_r1_k3_s1_c8_noskip", "cn takes no noskip; leave it out"),
        ("ir" + REST + "_skip", "ir takes no skip; leave it out"),
        ("dsa_r1_k3_s1_c8_noskip", "dsa has no shortcut"),
        ("ir" + REST + "_se0", "squeeze ratio se is 0; it must lie above 0 and up to 1"),
        ("ir" + REST + "_se1.5", "squeeze ratio se is 3/2; it must lie above 0 and up to 1"),
        ("ir" + REST + "_se1/0", "squeeze ratio se is 1/0; its denominator cannot be 0"),
        ("ir" + REST + "_se1/3333333", "squeeze ratio se is 1/3333333; write it with fewer digits"),
        ("ir" + REST + "_se-0.5", "'se-0.5' is no value for se_ratio; write se0.25 or se1/12"),
        ("ir" + REST + "_a1.2", "'a1.2' is no value for expand_groups; write a1.1"),
        ("ir" + REST + "_a" + ".".join("1" * 17), r"expansion groups a is 17; it must lie in 1\.\.16"),
        ("ir" + REST + "_p" + ".".join("1" * 17), r"projection groups p is 17; it must lie in 1\.\.16"),
    ],
)
def test_error_names_string_problem_and_fix(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        decode_block(text)
    assert str(caught.value).startswith(f"block string {text[:117]!r}"[:-1])


def test_error_about_a_huge_string_is_short():
    with pytest.raises(ConfigError, match=r"is not known") as caught:
        decode_block("z" * 1_000_000)
    assert len(str(caught.value)) < 500


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


@pytest.mark.parametrize(
    ("row", "fragment", "message"),
    [
        ("cn_r1_k3_s1_c8", "se0.25", "block string 'se0.25': cn has no se_ratio; its keys are r, k, s, c, n, skip"),
        ("cn_r1_k3_s1_c8", "e1", "block string 'e1': cn has no expansion"),
        ("ds_r1_k3_s1_c8", "a1", "block string 'a1': ds has no expand_groups"),
        ("ds_r1_k3_s1_c8", "e3", "block string 'e3': ds has no expansion, so e must be 1 or absent"),
        ("ds_r1_k3_s1_c8", "skip", "block string 'skip': ds takes no skip"),
        ("ir_r1_k3_s1_e6_c8", "cn", "block string 'cn': cn has no expansion"),
        ("lb_r1_k3_s1_e6", "ir", r"block string 'ir': ir needs c \(channels\); write c40"),
        ("ds_r1_k3_s1_c8", "k", "block string 'k': 'k' is no value for kernel_sizes"),
        ("ds_r1_k3_s1_c8", "", "block string '': '' is not known"),
        ("ds_r1_k3_s1_c8", "k5_k7", "'k7' sets kernel_sizes a second time"),
    ],
)
def test_override_refuses_what_the_block_lacks(row, fragment, message):
    with pytest.raises(ConfigError, match=message):
        override_block(decode_block(row), fragment)


def test_block_without_channels_has_no_string_unless_its_type_allows():
    assert encode_block(BlockSpec(type="lb", expansion=6.0)) == "lb_r1_k3_s1_e6"
    with pytest.raises(ConfigError, match=r"ir needs c \(channels\)"):
        encode_block(BlockSpec(type="ir", expansion=6.0))


DATACLASSES = [
    value
    for module in (spec, grammar, plan, entry)
    for value in vars(module).values()
    if dataclasses.is_dataclass(value) and value.__module__ == module.__name__
]


@pytest.mark.parametrize("cls", [*DATACLASSES, cost.StageCost], ids=lambda cls: cls.__name__)
def test_description_classes_are_frozen_slotted_and_keyword_only(cls):
    assert cls.__dataclass_params__.frozen
    assert "__slots__" in vars(cls)
    assert all(field.kw_only for field in dataclasses.fields(cls))


def test_the_spec_classes_are_among_them():
    assert {BlockSpec, ChannelSchedule, PreprocessSpec, ModelSpec, plan.NetworkPlan} <= set(DATACLASSES)


def test_a_spec_cannot_be_changed():
    block = BlockSpec(type="cn", channels=8)
    with pytest.raises(dataclasses.FrozenInstanceError):
        block.stride = 2
    with pytest.raises(TypeError, match="positional"):
        BlockSpec("cn")
