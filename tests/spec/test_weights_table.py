"""Tables of weights: what they may say, what comes of it, and what is said when one of them is wrong."""

from __future__ import annotations

import math

import jsonschema
import pytest

from effnets.errors import ConfigError, MissingFileError
from effnets.spec.json_schema import make_weights_schema
from effnets.spec.weights import crop_share, read_weights
from effnets.spec.yaml import read_yaml
from effnets.utils.paths import configs_dir
from tests.spec.test_json_schema import read_plain, to_plain

FILES = sorted(path for path in (configs_dir() / "weights").glob("*.yaml") if path.name != "pins.yaml")
VALIDATOR = jsonschema.Draft202012Validator(make_weights_schema())

BASE = (
    "_base: {dialect: timm, licence: mit, input_size: 224, crop_pct: 0.875, interpolation: bicubic, mean: 0.5, std: 1}"
)
BASE += "\n"
HUB = "hf-hub:org/net"
GOOD = f'{BASE}net:\n  in1k: {{base: _base, source: "{HUB}"}}\n'


@pytest.fixture
def read(tmp_path):
    def read(text: str):
        path = tmp_path / "my.yaml"
        path.write_text(text, encoding="utf-8")
        return read_weights(path, ["net", "other"])

    return read


def entry(more: str) -> str:
    return GOOD.replace(f'source: "{HUB}"', f'source: "{HUB}", {more}')


def test_an_entry_and_its_template(read):
    weights = read(GOOD)["net"]["in1k"]
    assert (weights.name, weights.source, weights.repo, weights.file) == (
        "net.in1k",
        HUB,
        "org/net",
        "model.safetensors",
    )
    assert (weights.dialect, weights.licence, weights.num_classes, weights.background) == ("timm", "mit", 1000, False)
    assert (weights.padding, weights.bn_eps, weights.activation) == (None, None, None)
    assert (weights.preprocess.mean, weights.preprocess.std) == ((0.5,) * 3, (1.0,) * 3)
    assert weights.url() == "https://huggingface.co/org/net/resolve/main/model.safetensors"
    assert not weights.pinned


def test_the_order_of_tags_is_the_files(read):
    tags = read(GOOD + f'  a: {{base: _base, source: "{HUB}"}}\n  0: {{base: _base, source: "{HUB}"}}\n')["net"]
    assert list(tags) == ["in1k", "a", "0"]


def test_templates_build_on_templates_and_entries_on_both(read):
    weights = read(
        BASE + f'_tf: {{base: _base, bn_eps: 1e-3, std: 2}}\nnet: {{t: {{base: _tf, source: "{HUB}", std: 3}}}}'
    )
    assert (weights["net"]["t"].bn_eps, weights["net"]["t"].preprocess.std) == (1e-3, (3.0,) * 3)


@pytest.mark.parametrize(
    ("size", "resize"), [(224, 232), (224, 256), (96, 128), (160, 192), (192, 224), (29, 31), (1, 3)]
)
def test_resize_is_a_crop_share_that_gives_it_back(read, size, resize):
    preprocess = read(entry(f"input_size: {size}, resize: {resize}"))["net"]["in1k"].preprocess
    assert math.floor(size / preprocess.crop_pct) == resize


def test_resize_gives_itself_back_at_every_size():
    sizes = ((size, resize) for resize in range(1, 400) for size in range(math.ceil(resize / 20), resize + 1))
    assert all(math.floor(size / crop_share(size, resize)) == resize for size, resize in sizes)


def test_resize_and_crop_replace_each_other(read):
    template = "_resized: {base: _base, resize: 232}\n"
    first, second = f'{{base: _resized, source: "{HUB}"}}', f'{{base: _resized, crop_pct: 0.5, source: "{HUB}"}}'
    tags = read(f"{BASE}{template}net: {{a: {first}, b: {second}}}")
    assert [weights.preprocess.crop_pct for weights in tags["net"].values()] == [224 / 232, 0.5]


def test_a_file_of_the_package(read):
    weights = read(GOOD.replace(HUB, "package:net.safetensors"))["net"]["in1k"]
    assert (weights.source, weights.file, weights.repo) == ("package:net.safetensors", "net.safetensors", None)
    assert weights.packaged
    assert not read(GOOD)["net"]["in1k"].packaged


def test_a_url_with_its_file_apart(read):
    weights = read(GOOD.replace(f'"{HUB}"', "https://x.org/folder/, file: w_1.h5"))["net"]["in1k"]
    assert (weights.source, weights.file, weights.repo) == ("https://x.org/folder/w_1.h5", "w_1.h5", None)
    assert weights.url() == weights.source


REFUSED = [
    ("netz:\n  in1k: {}", r"my\.yaml:1:1: netz: no model of this name; did you mean net\?"),
    ("zzz:\n  in1k: {}", r"zzz: no model of this name; list_models\(\) has all names"),
    ("[net]", "the file must map models to their tags"),
    ("net: {}", r"net: a model maps tags to entries, such as in1k: \{base: _timm, …\}"),
    ("net: [a]", "net: a model maps tags to entries"),
    ("net: {in1k: w.pth}", r"my\.yaml:1:7: net\.in1k: an entry is a mapping"),
    ("net: {in1k: {sauce: a}}", r"my\.yaml:1:14: net\.in1k: unknown key 'sauce'; did you mean 'source'"),
    ("net: {in1k: {source: 1}}", r"net\.in1k: source is 1; it must be text"),
    ("net: {in1k: {base: _x}}", r"base '_x' is not a template of this file; it has none"),
    (BASE + "net: {in1k: {base: net}}", r"my\.yaml:2:14: net\.in1k: base 'net' is not a template.*it has _base"),
    ("_a: {base: _b}\n_b: {base: _a}\n", r"my\.yaml:1:1: _a: base leads through more than 8 entries, or in a circle"),
    ("_a: {sauce: 1}\n", r"_a: unknown key 'sauce'"),
    (GOOD.replace(" licence: mit,", ""), r"my\.yaml:3:3: net\.in1k: licence missing; state it, or a 'base' that does"),
    (GOOD.replace(" crop_pct: 0.875,", "").replace("mean: 0.5, ", ""), r"net\.in1k: mean, crop_pct missing"),
    (GOOD + GOOD, r"my\.yaml:4:1: '_base' is here twice"),
    (GOOD + f'  in1k: {{base: _base, source: "{HUB}"}}', "'in1k' is here twice"),
    (GOOD.replace("in1k:", "In1k:"), r"net\.In1k: tag is 'In1k'; it must be lowercase letters"),
    (entry("resize: 256, crop_pct: 0.5"), "resize and crop_pct both say how much is cropped; state one of them"),
    (entry("resize: 100"), "resize is 100; it must be at least input_size, 224"),
    (entry("dialect: onnx"), "dialect is 'onnx'; it must be one of effnets, timm"),
    (entry("top1: 70"), r"net\.in1k: top1 or top5 is given without accuracy_source; state where"),
    (entry("top1: 70, top5: 60, accuracy_source: x"), "top1 is 70, above top5, which is 60"),
    (entry("top1: 700, accuracy_source: x"), r"top1 is 700; it must lie in 0\.\.100"),
    (entry("accuracy_source: x"), "accuracy_source is given without a figure"),
    (entry("accuracy_size: 288"), "accuracy_size is given without a figure"),
    (entry("num_classes: 1, background: true"), r"num_classes is 1; it must lie in 2\.\.1e\+06"),
    (entry("file: ../x.pth"), r"file is '\.\./x\.pth'; it must be a file's name"),
    (entry("file: /etc/passwd"), "it must be a file's name"),
    (entry('sha256: "abc"'), "sha256 is 'abc'; it must be 64 lowercase hex digits"),
    (entry("sha256_prefix: b0353104"), "sha256_prefix b0353104 is not in the file's name, model.safetensors"),
    (entry("sha256_prefix: 12345678"), "sha256_prefix is 12345678; it must be text"),
    (entry("revision: main"), "revision is 'main'; it must be the 40 lowercase hex digits of a commit"),
    (GOOD.replace(HUB, "hf-hub:net"), "source is 'hf-hub:net'; it must be hf-hub:organization/repository"),
    (
        GOOD.replace(HUB, "org/net"),
        r"source is 'org/net'; write hf-hub:organization/repository, or the file's https:// URL",
    ),
    (GOOD.replace(HUB, "http://x.org/w.pth"), "or the file's https:// URL"),
    (GOOD.replace(HUB, "https://x.org/"), "a URL ends with the file's name"),
    (GOOD.replace(HUB, "package:../net.safetensors"), "write package: and the file's name alone"),
    (entry("file: b.pth").replace(HUB, "package:a.pth"), "and file 'b.pth'; write package: and the file's name alone"),
    (GOOD.replace(HUB, "package:.hidden"), r"file is '\.hidden'; it must be a file's name"),
    (entry(f"revision: {'a' * 40}").replace(HUB, "package:a.pth"), "revision is given for a URL or a file of the"),
    (entry("file: b.pth").replace(HUB, "https://x.org/a.pth"), "and file 'b.pth'; a URL ends with the file's name"),
    (entry(f"revision: {'a' * 40}").replace(HUB, "https://x.org/a.pth"), "revision is given for a URL"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_refused(read, text, message):
    with pytest.raises(ConfigError, match=message):
        read(text)


def test_missing_file(tmp_path):
    with pytest.raises(MissingFileError, match=r"none\.yaml: no such file"):
        read_weights(tmp_path / "none.yaml", [])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_file_is_valid_and_names_its_schema(path):
    VALIDATOR.validate(to_plain(read_yaml(path)))
    assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=../weights-schema.json\n")


def test_the_schema_accepts(tmp_path):
    VALIDATOR.validate(read_plain(tmp_path / "net.yaml", GOOD))


@pytest.mark.parametrize(
    "text",
    [
        "net: {}",
        "net: {in1k: {sauce: a}}",
        "net: {In1k: {base: _a}}",
        "net: {in1k: {source: a, dialect: timm}}",
        "net: {in1k: {base: _a, resize: 232, crop_pct: 0.5}}",
        "net: {in1k: {base: _a, top1: high}}",
        "_a: {dialect: onnx}",
        "a.b: {in1k: {base: _a}}",
    ],
)
def test_the_schema_refuses(tmp_path, text):
    assert not VALIDATOR.is_valid(read_plain(tmp_path / "net.yaml", text))
