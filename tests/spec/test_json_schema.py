"""The schemas in configs: generated, in step, and as strict about typical slips as the readers themselves."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import jsonschema
import pytest

from effnets.errors import ConfigError
from effnets.spec.block_string import BLOCKS, decode_block
from effnets.spec.entries import ENTRY_KEYS
from effnets.spec.json_schema import block_pattern, fragment_pattern, make_schema, make_weights_schema
from effnets.spec.models import load_spec
from effnets.spec.yaml import Node, read_yaml
from effnets.utils.arguments import Range
from effnets.utils.paths import configs_dir

MODEL_FILES = sorted((configs_dir() / "models").glob("*.yaml"))
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_schema.py"
NUMBERS = [key for key, info in ENTRY_KEYS.items() if isinstance(info.limits, Range)]
VALIDATOR = jsonschema.Draft202012Validator(make_schema())

GOOD = "net: {stem: 16, blocks: [ds_r1_k3_s1_c16]}"


def to_plain(node: Node) -> object:
    if isinstance(node.value, dict):
        return {key: to_plain(value) for key, value in node.value.items()}
    if isinstance(node.value, list):
        return [to_plain(item) for item in node.value]
    return node.value


def read_plain(path: Path, text: str) -> object:
    path.write_text(text, encoding="utf-8")
    return to_plain(read_yaml(path))


@pytest.mark.parametrize(("name", "make"), [("schema.json", make_schema), ("weights-schema.json", make_weights_schema)])
def test_schema_file_is_in_step(name, make):
    stored = json.loads((configs_dir() / name).read_text(encoding="utf-8"))
    assert stored == make(), f"configs/{name} is stale; run: python scripts/make_schema.py"


def test_script_checks_and_writes(tmp_path, monkeypatch, capsys):
    main = runpy.run_path(str(SCRIPT))["main"]
    monkeypatch.setitem(main.__globals__, "configs_dir", lambda: tmp_path)
    page = main.__globals__["KEYS_PAGE"]
    monkeypatch.setitem(main.__globals__, "KEYS_PAGE", tmp_path / "keys.md")
    stored = tmp_path / "schema.json"
    for content in (None, "{}"):
        if content is not None:
            stored.write_text(content)
        monkeypatch.setattr("sys.argv", ["make_schema.py", "--check"])
        with pytest.raises(SystemExit, match=r"schema\.json is stale; run: python scripts/make_schema\.py"):
            main()
    monkeypatch.setattr("sys.argv", ["make_schema.py"])
    main()
    for name in ("schema.json", "weights-schema.json", "recipe-schema.json"):
        assert (tmp_path / name).read_bytes() == (configs_dir() / name).read_bytes()
    assert (tmp_path / "keys.md").read_bytes() == page.read_bytes()
    assert "wrote" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["make_schema.py", "--check"])
    main()
    (tmp_path / "weights-schema.json").unlink()
    with pytest.raises(SystemExit, match=r"weights-schema\.json is stale"):
        main()


def test_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(make_schema())
    jsonschema.Draft202012Validator.check_schema(make_weights_schema())


def test_there_are_model_files():
    assert len(MODEL_FILES) >= 6


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.stem)
def test_shipped_file_is_valid(path):
    VALIDATOR.validate(to_plain(read_yaml(path)))


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.stem)
def test_shipped_file_names_its_schema(path):
    first_line = path.read_text(encoding="utf-8").splitlines()[0]
    assert first_line == "# yaml-language-server: $schema=../schema.json"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "net: {base: mixnet_m, every_block: k5.7_dilated}",
        "net: {base: mobilenetv1_100, every_block: cn}",
        "net: {base: mobilenetv1_100, mean: [0.5, 0.5, 0.5], std: 0.5}",
        "net: {base: rexnet_100, channels: {start: 16, growth: 90, inclusive: true}}",
        "{_half: {width: 0.5}, net: {base: mixnet_s}}",
        "net: {stem: 16, blocks: [ir_c24_r1_k3_s1_e6]}",
    ],
)
def test_reader_and_schema_accept(tmp_path, text):
    path = tmp_path / "net.yaml"
    VALIDATOR.validate(read_plain(path, text))
    assert load_spec(path).name == "net"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(GOOD.replace("stem", "stemm"), id="unknown key"),
        pytest.param(GOOD.replace("16,", "sixteen,"), id="text for a number"),
        pytest.param(GOOD.replace("16,", "1.5,"), id="fraction for a whole number"),
        pytest.param(GOOD.replace("16,", "true,"), id="boolean for a number"),
        pytest.param(GOOD.replace("}", ", width: wide}"), id="text for width"),
        pytest.param(GOOD.replace("}", ", depth_fixed_ends: yes}"), id="yes for a boolean"),
        pytest.param(GOOD.replace("}", ", activation: swish}"), id="unknown activation"),
        pytest.param(GOOD.replace("}", ", padding: valid}"), id="unknown padding"),
        pytest.param(GOOD.replace("}", ", channels: {start: 8}}"), id="schedule without growth"),
        pytest.param(GOOD.replace("}", ", channels: {start: 8, growth: 8, end: 8}}"), id="unknown schedule key"),
        pytest.param(GOOD.replace("16,", "0,"), id="no channels"),
        pytest.param(GOOD.replace("}", ", width: 65}"), id="width too large"),
        pytest.param(GOOD.replace("}", ", crop_pct: 87.5}"), id="per cent for a share"),
        pytest.param(GOOD.replace("}", ", std: 0}"), id="no deviation"),
        pytest.param(GOOD.replace("}", ", mean: [0.5, 0.5, 5000]}"), id="one mean too large"),
        pytest.param(GOOD.replace("}", ", stem_stride: 3}"), id="stride too large"),
        pytest.param(GOOD.replace("}", ", resolution: 0}"), id="no resolution"),
        pytest.param("net: {base: rexnet_100, channels: {start: 0, growth: 8}}", id="schedule from nothing"),
        pytest.param("net: {stem: 16, blocks: []}", id="no rows"),
        pytest.param("net: {stem: 16, blocks: ds_r1_k3_s1_c16}", id="one row without a list"),
        pytest.param("net: {stem: 16, blocks: [16]}", id="a number for a row"),
        pytest.param("net: {stem: 16}", id="no blocks"),
        pytest.param("net: {blocks: [ds_r1_k3_s1_c16]}", id="no stem"),
        pytest.param("net: mixnet_m", id="entry is no mapping"),
        pytest.param("net: {base: mixnet_m, mean: []}", id="empty mean"),
        pytest.param("net: {base: mixnet_m, every_block: k}", id="bad fragment"),
        pytest.param("net: {base: mixnet_m, every_block: k3_k5}", id="fragment with a key twice"),
        pytest.param("a.b: {base: mixnet_m}", id="dot in a name"),
        pytest.param("[net]", id="a list of names"),
    ],
)
def test_reader_and_schema_refuse(tmp_path, text):
    path = tmp_path / "net.yaml"
    assert not VALIDATOR.is_valid(read_plain(path, text))
    with pytest.raises(ConfigError):
        load_spec(path)


# The ends of resolution's range bring most input sizes out of their own.
@pytest.mark.parametrize(
    "key", [key for key, info in ENTRY_KEYS.items() if isinstance(info.limits, Range) and key != "resolution"]
)
def test_reader_and_schema_have_the_same_ranges(tmp_path, key):
    least, most = ENTRY_KEYS[key].limits.low, ENTRY_KEYS[key].limits.high
    step = 1 if int in ENTRY_KEYS[key].options else most / 1000
    path = tmp_path / "net.yaml"
    text = "{_small: {stem: 16, blocks: [ds_r1_k3_s1_c16]}, net: {base: _small, %s: %r}}"
    for value in (least, most):
        VALIDATOR.validate(read_plain(path, text % (key, value)))
        load_spec(path)
    for value in (least - step, most + step):
        assert not VALIDATOR.is_valid(read_plain(path, text % (key, value)))
        with pytest.raises(ConfigError, match=key):
            load_spec(path)


ROWS = [
    "ds_r1_k3_s1_e1_c16",
    "ir_r1_k3.5.7.9.11_a1.1_p1.1_s2_e6_c24_se0.25_nsw_exponential_noskip",
    "ir_c24_nre_se1/12_e2.5_s1_k3_r99999_dilated",
    "lb_r2_k3_s2_e6",
    "lb_r2_k3_s2_e6_c24_se1/12",
    "cn_r1_k1_s1_c8_skip",
    "dsa_r13_k3_s1_c64_nhs",
]


@pytest.mark.parametrize("row", ROWS)
def test_block_patterns_match_their_own_type_only(row):
    validators = {name: jsonschema.Draft202012Validator({"pattern": block_pattern(name)}) for name in BLOCKS}
    matching = [name for name, validator in validators.items() if validator.is_valid(row)]
    assert matching == [row.partition("_")[0]]


@pytest.mark.parametrize(
    "row",
    [
        "",
        "ir",
        "ir_",
        "xx_r1_k3_s1_e6_c8",
        "r1_k3_s1_e6_c8",
        "ir_r1_k3_s1_e6",
        "ir_r1_k_s1_e6_c8",
        "ir_r1_k3..5_s1_e6_c8",
        "ir_r1_k3_s1_e6_c8_c8",
        "ir_r1_k3_s1_e6_c8_c16",
        "ir_r1_k3_s1_e6_c8_nxx",
        "ir_r1_k3_s1_e6_c8_skip",
        "ir_r1_k3_s1_e6_c8_noskip_noskip",
        "ir__r1_k3_s1_e6_c8",
        " ir_r1_k3_s1_e6_c8",
        "ir_r0_k3_s1_e6_c8",
        "ir_r٣_k3_s1_e6_c8",
        "cn_r1_k3_s1_c8_e6",
        "cn_r1_k3_s1_c8_a1",
        "dsa_r1_k3_s1_c8_noskip",
        "lb_r1_k3_s1_e6_p1.1",
        "ir_r1_k3_s1_e6_c8_dilate",
    ],
)
def test_block_pattern_and_decoder_refuse(row):
    block = make_schema()["$defs"]
    validator = jsonschema.Draft202012Validator({"$ref": "#/$defs/block", "$defs": block})
    assert not validator.is_valid(row)
    with pytest.raises(ConfigError, match="block string"):
        decode_block(row)


@pytest.mark.parametrize("fragment", ["k5", "k3.5.7", "dilated", "exponential", "cn", "cn_k5", "se1/12_nsw", "noskip"])
def test_fragment_pattern_accepts(fragment):
    assert jsonschema.Draft202012Validator({"pattern": fragment_pattern()}).is_valid(fragment)


@pytest.mark.parametrize("fragment", ["", "k", "k5_", "k5_cn", "k5_k7", "skip_noskip", "swish", "k5 "])
def test_fragment_pattern_refuses(fragment):
    assert not jsonschema.Draft202012Validator({"pattern": fragment_pattern()}).is_valid(fragment)
