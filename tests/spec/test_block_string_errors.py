"""Wrong block strings and overrides: refused with the string, the problem and the fix in the message."""

from __future__ import annotations

import pytest

from effnets.errors import ConfigError
from effnets.spec.block_string import decode_block, encode_block, override_block
from effnets.spec.specs import BlockSpec

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
        ("ir" + REST + "\n", "'c8.n' is not a value for channels; write c40"),
        ("ir_ir" + REST, "'ir' is not known"),
        ("ir" + REST + "_zz3", "'zz3' is not known; .* keys r, k, a, p, s, e, c, se, n, flags exponential, dilated"),
        ("ir" + REST + "_", "'' is not known"),
        ("ir" + REST + "_nxx", r"'nxx' is not a value for activation; write one of nre \(relu\)"),
        ("ir" + REST + "_nswish", r"'nswish' is not a value for activation; .*nsw \(silu\)"),
        ("ir" + REST + "_c16", "'c16' sets channels a second time; keep one"),
        ("ir" + REST + "_c8", "'c8' sets channels a second time; keep one"),
        ("ir" + REST + "_dilated_dilated", "'dilated' sets dilated a second time"),
        ("cn_r1_k3_s1_c8_skip_noskip", "'noskip' sets shortcut a second time"),
        ("ir_r1_k_s1_e6_c8", "'k' is not a value for kernel_sizes; write k3 or k3.5.7"),
        ("ir_r1_k3..5_s1_e6_c8", "'k3..5' is not a value for kernel_sizes; write k3 or k3.5.7"),
        ("ir_r1_k3._s1_e6_c8", "'k3.' is not a value for kernel_sizes"),
        ("ir_r1_k4_s1_e6_c8", "kernel size is 4; kernels are odd"),
        ("ir_r1_k3.4_s1_e6_c8", "kernel size is 4; kernels are odd"),
        ("ir_r1_k0_s1_e6_c8", "'k0' is not a value for kernel_sizes"),
        ("ir_r1_k-3_s1_e6_c8", "'k-3' is not a value for kernel_sizes"),
        ("ir_r1_k65_s1_e6_c8", r"kernel_sizes is 65; it must lie in 1\.\.63"),
        ("ir_r1_k" + ".".join(["3"] * 17) + "_s1_e6_c8", "kernel_sizes has over 16 kernel groups"),
        ("ir_r1_k3_s3_e6_c8", "stride is 3; it must lie in 1..2"),
        ("ir_r1_k3_s0_e6_c8", "'s0' is not a value for stride; write s2"),
        ("ir_r0_k3_s1_e6_c8", "'r0' is not a value for repeats; write r2"),
        ("ir_r257_k3_s1_e6_c8", r"repeats is 257; it must lie in 1\.\.256"),
        ("ir_r1_k3_s1_e0_c8", r"expansion is 0; it must lie in 0\.01\.\.64"),
        ("ir_r1_k3_s1_e65_c8", r"expansion is 65; it must lie in 0\.01\.\.64"),
        ("ir_r1_k3_s1_e1e9_c8", "'e1e9' is not a value for expansion; write e6"),
        ("ir_r1_k3_s1_einf_c8", "'einf' is not a value for expansion"),
        ("ir_r1_k3_s1_enan_c8", "'enan' is not a value for expansion"),
        ("ir_r1_k3_s1_e6_c0", "'c0' is not a value for channels"),
        ("ir_r1_k3_s1_e6_c99999", r"channels is 99999; it must lie in 1\.\.65536"),
        ("ir_r1_k3_s1_e6_c" + "9" * 400, "'c9999.* is not a value for channels"),
        ("ir_r1_k3_s1_e6_c٨", "'c٨' is not a value for channels; write c40"),
        ("ir_r1_k²_s1_e6_c8", "'k²' is not a value for kernel_sizes"),
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
        ("ir" + REST + "_se0", "se_ratio is 0; it must be above 0 and at most 1"),
        ("ir" + REST + "_se1.5", "se_ratio is 3/2; it must be above 0 and at most 1"),
        ("ir" + REST + "_se1/0", "se_ratio is 1/0; its denominator cannot be 0"),
        ("ir" + REST + "_se1/3333333", "se_ratio is 1/3333333; write it with fewer digits"),
        ("ir" + REST + "_se-0.5", "'se-0.5' is not a value for se_ratio; write se0.25 or se1/12"),
        ("ir" + REST + "_a1.2", "'a1.2' is not a value for expand_groups; write a1.1"),
        ("ir" + REST + "_a" + ".".join("1" * 17), r"expand_groups is 17; it must lie in 1\.\.16"),
        ("ir" + REST + "_p" + ".".join("1" * 17), r"project_groups is 17; it must lie in 1\.\.16"),
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
    ("row", "fragment", "message"),
    [
        ("cn_r1_k3_s1_c8", "se0.25", "block string 'se0.25': cn has no se_ratio; its keys are r, k, s, c, n, skip"),
        ("cn_r1_k3_s1_c8", "e1", "block string 'e1': cn has no expansion"),
        ("ds_r1_k3_s1_c8", "a1", "block string 'a1': ds has no expand_groups"),
        ("ds_r1_k3_s1_c8", "e3", "block string 'e3': ds has no expansion, so e must be 1 or absent"),
        ("ds_r1_k3_s1_c8", "skip", "block string 'skip': ds takes no skip"),
        ("ir_r1_k3_s1_e6_c8", "cn", "block string 'cn': cn has no expansion"),
        ("lb_r1_k3_s1_e6", "ir", r"block string 'ir': ir needs c \(channels\); write c40"),
        ("ds_r1_k3_s1_c8", "k", "block string 'k': 'k' is not a value for kernel_sizes"),
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
