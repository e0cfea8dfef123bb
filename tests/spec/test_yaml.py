"""The YAML reader: positions, YAML 1.2 scalars, and refusals that come quickly and say where."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from effnets.errors import ConfigError, MissingFileError
from effnets.spec import yaml as yamltree
from effnets.spec.yaml import Node, read_yaml


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True)
def _loader(request, monkeypatch):
    """Every test runs with libyaml's parser and with the one in Python, which takes its place where PyYAML lacks it."""
    if not hasattr(yaml, request.param):
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr(yamltree, "_Loader", getattr(yaml, request.param))


@pytest.fixture
def read(tmp_path):
    def read(text: str | bytes) -> Node:
        path = tmp_path / "table.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_yaml(path)

    return read


def test_values_and_positions(read):
    document = read("# a table\nnet:\n  stem: 16\n  blocks:\n    - one\n    - 'two'\n  inner: {deep: [1, 2]}\n")
    assert document.line == 2
    net = document.value["net"]
    assert (net.line, net.column) == (2, 1)
    stem, blocks, inner = net.value["stem"], net.value["blocks"], net.value["inner"]
    assert stem == Node(16, 3, 3)
    assert (blocks.line, blocks.column) == (4, 3)
    assert blocks.value == [Node("one", 5, 7), Node("two", 6, 7)]
    assert inner.value["deep"] == Node([Node(1, 7, 18), Node(2, 7, 21)], 7, 11)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E+3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.5", -0.5),
        ("+1.5", 1.5),
        ("2.0", 2.0),
        ("7", 7),
        ("-7", -7),
        ("+7", 7),
        ("012", 12),
        ("1e999", float("inf")),
        ("9" * 18, int("9" * 18)),
        ("9" * 30, float("9" * 30)),
        ("9" * 31, "9" * 31),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("True", "True"),
        ("0o17", "0o17"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-31", "2024-01-31"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("nan", "nan"),
        (".", "."),
        ("e3", "e3"),
        ("1e", "1e"),
        ("٣", "٣"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("''", ""),
        ('"\\u03c1"', "ρ"),
        ("k3.5.7", "k3.5.7"),
    ],
)
def test_scalar(read, text, value):
    scalar = read(f"key: {text}\n").value["key"].value
    assert scalar == value
    assert type(scalar) is type(value)


@pytest.mark.parametrize("text", ["|\n  one\n  two\n", ">-\n  12\n"], ids=["literal", "folded"])
def test_block_scalars_are_text(read, text):
    assert isinstance(read(f"key: {text}").value["key"].value, str)


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n"], ids=["empty", "blank", "comment"])
def test_empty_file_is_an_empty_mapping(read, text):
    assert read(text).value == {}


def test_byte_order_mark_is_passed_over(read):
    assert read(b"\xef\xbb\xbfnet: 1\n").value == {"net": Node(1, 1, 1)}


def test_merge_key_is_a_key_like_any_other(read):
    assert read("net: {<<: {stem: 1}}").value["net"].value.keys() == {"<<"}


LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
PLACE = r"table\.yaml:{}:{}: "
# libyaml looks ahead, and has a limit of its own in some versions.
DEEP = PLACE.format(1, r"\d+") + "(nested deeper than 16 levels|not valid YAML: exceeded maximum nesting depth)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a: 1\nb: 2\na: 3\n", PLACE.format(3, 1) + r"'a' is here twice \(before in line 1\)", id="twice"),
        pytest.param("n: {a: 1, a: 1}", PLACE.format(1, 11) + "'a' is here twice", id="twice in flow"),
        pytest.param("a: 1\n'a': 2\n", PLACE.format(2, 1) + "'a' is here twice", id="twice, quoted"),
        pytest.param(
            "a: 1\nb: *a\n", PLACE.format(2, 4) + r"aliases \(\*name\) are not read here; use 'base'", id="alias"
        ),
        pytest.param("a: &x 1\n", PLACE.format(1, 4) + r"anchors \(&name\) are not read here; use 'base'", id="anchor"),
        pytest.param("&x a: 1\n", PLACE.format(1, 1) + "anchors", id="anchor of a key"),
        pytest.param("a: &x {b: 1}\n", PLACE.format(1, 4) + "anchors", id="anchor of a mapping"),
        pytest.param(LAUGHS, PLACE.format(1, 5) + "anchors", id="billion laughs"),
        pytest.param(
            "a: !!int 1\n", PLACE.format(1, 4) + r"tags \(tag:yaml.org,2002:int\) are not read here", id="tag"
        ),
        pytest.param("a: !!python/object/apply:os.system [ls]\n", PLACE.format(1, 4) + "tags", id="python tag"),
        pytest.param("a: ! 1\n", PLACE.format(1, 4) + r"tags \(!\)", id="non-specific tag"),
        pytest.param("a: 1\n---\nb: 1\n", PLACE.format(2, 1) + "a second document begins here; keep one", id="two"),
        pytest.param("? [a]\n: 1\n", PLACE.format(1, 3) + "a key must be a plain word", id="list for a key"),
        pytest.param("a: [1\n", PLACE.format(r"\d", r"\d") + "not valid YAML", id="open bracket"),
        pytest.param("a: 'x\n", PLACE.format(r"\d", r"\d") + "not valid YAML", id="open quote"),
        pytest.param("a:\n\t- b\n", PLACE.format(2, 1) + "not valid YAML", id="tab"),
        pytest.param("a: b: c\n", PLACE.format(1, 5) + "not valid YAML: mapping values", id="two colons"),
        pytest.param("%YAML 9.9\n---\na: 1\n", PLACE.format(1, 1) + "not valid YAML", id="version"),
        pytest.param('a: "\\UFFFFFFFF"\n', r"table\.yaml.*: not valid YAML: ", id="no character"),
        pytest.param(b"a: \xff\n", r"table\.yaml: not UTF-8 text \(byte 3\); save it as UTF-8", id="latin-1"),
        pytest.param("a: ä".encode("utf-16"), r"table\.yaml: not UTF-8 text \(byte 0\)", id="utf-16"),
        pytest.param(b"a: \xed\xa0\x80", r"table\.yaml: not UTF-8 text \(byte 3\)", id="surrogate"),
        pytest.param(b"a: \0\n", r"table\.yaml: not valid YAML: .*character.* position 3", id="NUL"),
        pytest.param(b"a: \x1b[31m\n", r"table\.yaml: not valid YAML: .*character", id="escape sequence"),
        pytest.param(b"# " + b"x" * 10_000_000, r"table\.yaml: too long .* limit is 1,048,576 bytes", id="10 MB"),
        pytest.param("a: " + "[" * 100_000, DEEP, id="deep lists"),
        pytest.param("a: " + "[" * 100_000 + "]" * 100_000, DEEP, id="deep closed"),
        pytest.param("{a: " * 100_000, PLACE.format(1, 69) + "nested deeper than 16 levels", id="deep mappings"),
        pytest.param("- " * 100_000, PLACE.format(1, 35) + "nested deeper than 16 levels", id="deep block lists"),
    ],
)
def test_refused_quickly_with_file_and_line(read, text, message):
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=message):
        read(text)
    assert time.perf_counter() - start < 2


def test_sixteen_levels_are_read(read):
    node = read("a: " + "[" * 16 + "]" * 16).value["a"]
    depth = 0
    while isinstance(node.value, list) and node.value:
        node = node.value[0]
        depth += 1
    assert depth == 15


def test_a_full_mebibyte_is_read(read):
    assert read("a: 1\n#" + "x" * ((1 << 20) - 6)).value["a"].value == 1


def test_missing_file(tmp_path):
    with pytest.raises(MissingFileError, match=r"nowhere\.yaml: no such file") as caught:
        read_yaml(tmp_path / "nowhere.yaml")
    assert isinstance(caught.value, FileNotFoundError)


def test_folder(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.yaml: cannot be read \("):
        read_yaml(tmp_path / "folder.yaml")


def test_file_for_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"table\.yaml: cannot be read \("):
        read_yaml(tmp_path / "file" / "table.yaml")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero here")
def test_endless_file(tmp_path):
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=r"zero\.yaml: is not a regular file"):
        read_yaml(tmp_path / "zero.yaml")


@pytest.mark.parametrize("name", ["a\0b.yaml", "a\ud800.yaml"], ids=["NUL", "surrogate"])
def test_impossible_path(tmp_path, name):
    with pytest.raises(ConfigError, match=r"no file can have this name"):
        read_yaml(tmp_path / name)


def test_path_too_long(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / ("a" * 5000 + ".yaml"))
