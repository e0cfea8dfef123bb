"""What is said of a faulty entry: file, line, model, the problem and the fix."""

from __future__ import annotations

import time

import pytest

import effnets
from effnets.errors import ConfigError
from effnets.spec.entries import ENTRY_KEYS
from effnets.spec.models import load_spec
from effnets.spec.specs import ModelSpec, PreprocessSpec


@pytest.fixture
def write(tmp_path):
    def write(text: str):
        path = tmp_path / "my.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


BLOCKS = "stem: 8, blocks: [ds_r1_k3_s1_c8]"


def test_keys_are_the_fields_of_the_specs():
    from_specs = {*ModelSpec.__dataclass_fields__, *PreprocessSpec.__dataclass_fields__}
    not_keys = {"name", "preprocess"}
    assert set(ENTRY_KEYS) - {"base", "every_block", "resolution"} == from_specs - not_keys


def test_the_line_is_that_of_the_fault(write):
    path = write(
        "# mine\nother: {base: mixnet_s}\nnet:\n  stem: 8\n  blocks:\n    - ds_r1_k3_s1_c8\n    - ds_r1_k_s1_c8\n"
    )
    with pytest.raises(ConfigError, match=r"my\.yaml:7: net: blocks: row 2: block string 'ds_r1_k_s1_c8': 'k' is not"):
        load_spec(f"{path}:net")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("base: mixnet_s, widht: 1.3", "my.yaml:1:23: net: unknown key 'widht'; did you mean 'width'"),
        ("base: mixnet_s, '': 1", "net: unknown key ''; keys are base, every_block, resolution, family, stem"),
        (
            "stem: 8, blocks: [xx_r1_k3_s1_c8]",
            "my.yaml:1: net: blocks: row 1: block string 'xx_r1_k3_s1_c8': 'xx' is not",
        ),
        (
            "stem: 8, blocks: [ds_r1_k_s1_c8]",
            "row 1: block string 'ds_r1_k_s1_c8': 'k' is not a value .*; write k3 or k3.5",
        ),
        ("stem: 8, blocks: [ds_r1_k3_s1_c8, 5]", "my.yaml:1:41: net: blocks: row 2 is 5; it must be a block string"),
        ("stem: 8, blocks: [[ds_r1_k3_s1_c8]]", "net: blocks: row 1 is a list; it must be a block string"),
        ("stem: 8, blocks: ds_r1_k3_s1_c8", "net: blocks is 'ds_r1_k3_s1_c8'; it must be a list of block strings"),
        ("stem: 8, blocks: []", "my.yaml:1: net: blocks is empty; list at least one block string"),
        ("stem: 8", "my.yaml:1: net: 'blocks' is missing; state it, or a 'base' that does"),
        ("blocks: [ds_r1_k3_s1_c8]", "my.yaml:1: net: 'stem' is missing; state it, or a 'base' that does"),
        ("", "my.yaml:1: net: 'stem' is missing"),
        ("stem: sixteen", "my.yaml:1:7: net: stem is 'sixteen'; it must be a whole number"),
        ("stem: 1.5", "net: stem is 1.5; it must be a whole number"),
        ("stem: 1e1", "net: stem is 10.0; it must be a whole number"),
        ("stem: true", "net: stem is True; it must be a whole number"),
        ("stem: 1_0", "net: stem is '1_0'; it must be a whole number"),
        ("stem: ", "net: stem is null; it must be a whole number"),
        ("width: wide", "net: width is 'wide'; it must be a number"),
        ("width: .inf", "net: width is '.inf'; it must be a number"),
        ("depth_fixed_ends: yes", "net: depth_fixed_ends is 'yes'; it must be true or false"),
        ("family: 5", "net: family is 5; it must be text"),
        ("activation: swish", "net: activation is 'swish'; it must be one of relu, relu6, silu, hard_swish"),
        ("padding: no", "net: padding is 'no'; it must be one of symmetric, same"),
        ("every_block: 5", "net: every_block is 5; it must be a piece of a block string, such as k3.5"),
        ("base: mixnet_s, every_block: zz", "my.yaml:1: net: every_block: block string 'zz': 'zz' is not known"),
        ("base: mixnet_s, every_block: cn", "net: every_block: block string 'cn': cn has no expansion"),
        ("stem: 8, every_block: k5", "my.yaml:1: net: every_block has no rows to act on; state 'blocks', or a 'base'"),
        ("channels: 5", "net: channels is 5; it must be a mapping such as {start: …, growth: …}, or null"),
        ("channels: {start: 16}", "net: channels: 'growth' is missing; add growth: channels that the ramp adds"),
        ("channels: {start: 16, grow: 1}", "net: channels: unknown key 'grow'; did you mean 'growth'"),
        ("channels: {start: 0, growth: 1}", "net: channels: start is 0; it must lie in 1..65536"),
        ("base: rexnet_100, channels: null", "my.yaml:1: net: block 1: a block states its channels c exactly when the"),
        ("base: mixnet_s, channels: {start: 8, growth: 8}", "net: block 1: a block states its channels c exactly when"),
        ("base: mixnet_s, mean: grey", "net: mean is 'grey'; it must be a number, or a list of one for each channel"),
        ("base: mixnet_s, mean: [0.5, grey, 0.5]", "my.yaml:1:35: net: mean is 'grey'; it must be a number"),
        ("base: mixnet_s, mean: [0.5, 0.5]", "mean has 2 numbers and std 3; give one of each per channel"),
        ("base: mixnet_s, mean: [1, 1], std: [1, 1, 1]", "mean has 2 numbers and std 3; give one of each per channel"),
        ("base: mixnet_s, std: 0", "net: std is 0; it must lie in 1e-06..1000"),
        (
            "base: mixnet_s, resolution: 0",
            "net: resolution is 0; it must lie in 0.01..64",
        ),
        ("base: mixnet_s, resolution: 1e999", "net: resolution is inf; it must lie"),
        ("base: mixnet_s, input_size: 1, resolution: 0.01", "net: input_size is 0; it must lie in 1..8192"),
        ("base: mixnet_s, width: 0", "my.yaml:1: net: width is 0; it must lie in 0.01..64"),
        ("base: mixnet_s, width: 1e999", "net: width is inf; it must lie in 0.01..64"),
        ("base: mixnet_s, depth: -1", "net: depth is -1; it must lie in 0.01..64"),
        ("base: mixnet_s, bn_eps: 0", "net: bn_eps is 0; it must lie in 1e-12..1"),
        ("base: mixnet_s, drop_rate: 1", "net: drop_rate is 1; it must lie in 0..0.99"),
        ("base: mixnet_s, stem: 999999999", "net: stem is 1e\\+09; it must lie in 1..65536"),
        ("base: mixnet_s, num_classes: -1", "net: num_classes is -1; it must lie in 0..1e\\+06"),
        ("base: mixnet_s, stem_stride: 4", "net: stem_stride is 4; it must lie in 1..2"),
        ("base: mixnet_s, divisor: 0", "net: divisor is 0; it must lie in 1..1024"),
        ("base: mixnet_t", "my.yaml:1: net: base 'mixnet_t' is not a model; did you mean .*mixnet_"),
        ("base: zzz", r"my.yaml:1: net: base 'zzz' is not a model; list_models\(\) has all names"),
        ("base: 5", "my.yaml:1: net: base must be the name of a model"),
        ("base: null", "my.yaml:1: net: base must be the name of a model"),
        ("base: net", "my.yaml:1: net: base goes in a circle: net → net; let one of them stand on its own"),
    ],
)
def test_error_has_file_line_model_and_fix(write, entry, message):
    path = write(f"net: {{{entry}}}\n")
    with pytest.raises(ConfigError, match=message) as caught:
        load_spec(path)
    assert str(caught.value).startswith(f"{path}:1:")


@pytest.mark.parametrize("entry", ["5", "mixnet_s", "[mixnet_s]", "null"])
def test_entry_is_no_mapping(write, entry):
    with pytest.raises(ConfigError, match=r"my\.yaml:1: net: an entry is a mapping, such as {base: mixnet_m, width"):
        load_spec(write(f"net: {entry}\n"))


@pytest.mark.parametrize("text", ["- net\n", "net\n", "5\n"])
def test_file_is_no_mapping(write, text):
    with pytest.raises(ConfigError, match=r"my\.yaml:1: the file must map model names to entries"):
        load_spec(write(text))


@pytest.mark.parametrize("name", ["net.v2", "'my net'", "''", "-net", "nét", "n" * 101, "a/b"])
def test_bad_name(write, name):
    with pytest.raises(ConfigError, match=r"my\.yaml:1: .*: a model name is letters, digits, '_' and '-' \(no dots"):
        load_spec(write(f"{name}: {{base: mixnet_s}}\n"))


def test_duplicate_name(write):
    with pytest.raises(ConfigError, match=r"my\.yaml:2:1: 'net' is here twice \(before in line 1\); keep one"):
        load_spec(write("net: {base: mixnet_s}\nnet: {base: mixnet_m}\n"))


def test_a_fault_of_a_template_is_told_with_the_template(write):
    path = write("_t:\n  base: mixnet_s\n  width: wide\nnet: {base: _t}\n")
    with pytest.raises(ConfigError, match=r"my\.yaml:3:3: _t: width is 'wide'"):
        load_spec(path)


def test_long_circle(write):
    path = write("a: {base: b}\nb: {base: c}\nc: {base: d}\nd: {base: b}\n")
    with pytest.raises(ConfigError, match=r"my\.yaml:1: a: base goes in a circle: a → b → c → d → b; let one"):
        load_spec(f"{path}:a")


def test_chain_of_bases_is_bounded(write):
    links = [f"a0: {{{BLOCKS}}}"] + [f"a{i}: {{base: a{i - 1}}}" for i in range(1, 10_000)]
    path = write("\n".join(links))
    assert load_spec(f"{path}:a15").stem == 8
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=r"my\.yaml:10000: a9999: base leads through more than 16 models; shorten"):
        load_spec(f"{path}:a9999")
    assert time.perf_counter() - start < 5


def test_rows_are_bounded(write):
    rows = ", ".join(["ds_r1_k3_s1_c8"] * 1025)
    with pytest.raises(
        ConfigError, match=r"net: blocks: 1,025 rows are too many; the limit is 1,024, and a row repeats"
    ):
        load_spec(write(f"net: {{stem: 8, blocks: [{rows}]}}"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "stem: 8, blocks: [ds_r1_k3_s1_c8, ds_r1_k3.5.7_s1_c8], divisor: 1, width: 0.2",
            "net: block row 2: 2 channels do",
        ),
        (
            "stem: 8, blocks: [ir_r1_k3_a1.1.1.1.1.1.1.1.1_s1_e1_c8]",
            "net: block row 1: 8 channels do not divide into 9",
        ),
        (
            "stem: 8, blocks: [ds_r1_k3.5.7.9.11_s1_c8_exponential]",
            "net: block row 1: 8 channels do not divide into 5 groups; take fewer groups or more channels",
        ),
        (
            "stem: 8, depth: 64, blocks: [ds_r256_k3_s1_c8]",
            "net: block row 1: over 1,024 blocks in all; lower the repeats",
        ),
    ],
)
def test_fault_of_the_plan_names_model_and_row(write, entry, message):
    path = write(f"net: {{{entry}}}\n")
    message = rf"my\.yaml:1: {message}"
    with pytest.raises(ConfigError, match=message):
        load_spec(path)
    with pytest.raises(ConfigError, match=message):
        effnets.count(path)
    with pytest.raises(ConfigError, match=message):
        effnets.create_model(path)
