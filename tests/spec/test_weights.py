"""The registry: which weights there are, by which names, what they change in a network, and pins."""

from __future__ import annotations

import re
import shutil

import pytest

import effnets
from effnets.errors import ConfigError, MissingFileError, UnknownModelError
from effnets.spec import models as config
from effnets.spec import weights as registry
from effnets.spec.models import list_models, load_spec
from effnets.spec.weights import apply_weights, find_weights, list_weights, pins_path, read_pins
from effnets.utils.paths import configs_dir

ALL = list_models(pretrained=True)
SHA = "0123456789abcdef" * 4
COMMIT = "89abcdef01" * 4


@pytest.fixture
def pin(tmp_path, monkeypatch):
    def pin(text: str):
        path = tmp_path / "pins.yaml"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setenv("EFFNETS_PINS", str(path))
        read_pins.cache_clear()
        return path

    yield pin
    read_pins.cache_clear()


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """A folder of weights' tables to spoil."""
    shutil.copytree(configs_dir() / "weights", tmp_path / "weights")
    monkeypatch.setattr(registry, "configs_dir", lambda: tmp_path)
    registry.clear_cache()
    yield tmp_path / "weights"
    registry.clear_cache()


def test_the_first_tag_is_the_default():
    assert list_weights("rexnetr_200") == ["sw_in12k_ft_in1k", "sw_in12k"]
    assert find_weights("rexnetr_200").name == "rexnetr_200.sw_in12k_ft_in1k"
    assert list_weights("mixnet_xxl") == []
    assert effnets.list_weights is list_weights


def test_the_default_has_the_models_own_size_and_classes():
    for model in {name.partition(".")[0] for name in ALL}:
        weights = find_weights(model)
        own = (32, 10) if weights.packaged else (224, 1000)
        assert (weights.preprocess.input_size, weights.num_classes - weights.background) == own, model


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mixnet_q", "no model named 'mixnet_q' in effnets; did you mean mixnet_"),
        (
            "mixnet_m.ft_in1",
            r"has no weights tagged 'ft_in1'; registered tags: ft_in1k; did you mean mixnet_m\.ft_in1k\?",
        ),
        ("mixnet_m.zzz", "has no weights tagged 'zzz'; registered tags: ft_in1k$"),
        ("mixnet_m.", "has no weights tagged ''; registered tags: ft_in1k$"),
        ("mixnet_xxl", "mixnet_xxl has no published weights; these have: mixnet_xl, "),
        ("mixnet_xxl.ft_in1k", "has no weights tagged 'ft_in1k'; registered tags: none"),
        ("proxylessnas_mobile", r"no published weights; list_models\(pretrained=True\) has all there are"),
        ("_mobilenetv2_deep", "is a template for other models"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(UnknownModelError, match=message):
        find_weights(name)


@pytest.mark.parametrize("name", ALL)
def test_a_tag_makes_a_spec(name):
    weights = find_weights(name)
    assert weights.name == name
    bare = load_spec(weights.model)
    spec = load_spec(name)
    assert spec == apply_weights(bare, weights)
    assert spec.preprocess is weights.preprocess
    assert spec.num_classes == weights.num_classes - weights.background
    assert spec.padding == (weights.padding or bare.padding)
    assert spec.bn_eps == (weights.bn_eps or bare.bn_eps)
    assert (spec.blocks, spec.width, spec.name) == (bare.blocks, bare.width, bare.name)


def test_every_figure_has_a_source_and_no_hash_is_invented():
    for name in ALL:
        weights = find_weights(name)
        assert (weights.top1 is None) == (weights.top5 is None) == (weights.accuracy_source is None)
        if weights.sha256_prefix:
            assert re.search(rf"-{weights.sha256_prefix}\.", weights.file), name
        assert weights.top1 is None or weights.preprocess.input_size <= weights.measured_size
    for path in (configs_dir() / "weights").glob("*.yaml"):
        assert path.name == "pins.yaml" or not re.search(r"\b(sha256|revision):", path.read_text(encoding="utf-8")), (
            path
        )


def test_sources_and_files_are_different_for_all():
    assert len({(find_weights(name).source, find_weights(name).file) for name in ALL}) == len(ALL)


def test_a_model_in_two_tables(tables):
    shutil.copy(tables / "mixnet.yaml", tables / "again.yaml")
    with pytest.raises(ConfigError, match=r"mixnet\.yaml: mixnet_s is in .*again\.yaml too; keep a model's weights"):
        list_weights("mixnet_s")


def test_an_unknown_model_in_a_table(tables):
    (tables / "mixnet.yaml").write_text("mixnet_t: {in1k: {}}")
    with pytest.raises(ConfigError, match=r"mixnet\.yaml:1:1: mixnet_t: no model of this name; did you mean mixnet_"):
        find_weights("rexnet_100")


def test_clear_cache_reads_again(tables):
    assert list_weights("mixnet_s") == ["ft_in1k"]
    (tables / "mixnet.yaml").unlink()
    assert list_weights("mixnet_s") == ["ft_in1k"]
    config.clear_cache()
    assert list_weights("mixnet_s") == []


# Pins.


def test_shipped_pins_are_readable_and_of_registered_weights():
    assert pins_path() == configs_dir() / "weights" / "pins.yaml"
    assert set(read_pins(pins_path())) <= set(ALL)


def test_a_pin_fills_in(pin):
    pin(f"mixnet_s.ft_in1k: {{revision: '{COMMIT}', sha256: '{SHA}'}}\nmixnet_m.ft_in1k: {{sha256: '{SHA}'}}\n")
    weights = find_weights("mixnet_s")
    assert (weights.revision, weights.sha256, weights.pinned) == (COMMIT, SHA, True)
    assert weights.url("https://mirror/") == f"https://mirror/timm/mixnet_s.ft_in1k/resolve/{COMMIT}/model.safetensors"
    assert (find_weights("mixnet_m").revision, find_weights("mixnet_m").sha256) == (None, SHA)
    assert not find_weights("mixnet_l").pinned


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]", r"pins\.yaml:1: the file must map model\.tag to pins"),
        ("mixnet_s.ft_in1k: abc", r"pins\.yaml:1: mixnet_s\.ft_in1k: a pin is a mapping, \{revision: …, sha256: …\}"),
        ("mixnet_s.ft_in1k: {}", "a pin is a mapping"),
        ("mixnet_s.ft_in1k: {md5: a}", "unknown key 'md5'; keys are revision, sha256"),
        ("mixnet_s.ft_in1k: {sha256: 12}", "sha256 is 12; it must be text"),
        (
            f"mixnet_s.ft_in1k: {{sha256: '{SHA.upper()}'}}",
            r":1: mixnet_s\.ft_in1k: sha256 is '0.*64 lowercase hex digits",
        ),
        (
            "a:\n  revision: main",
            r"pins\.yaml:2: a: revision is 'main'; it must be the 40 lowercase hex digits",
        ),
        (
            f"mixnet_s.in1k: {{sha256: '{SHA}'}}",
            r"pins\.yaml:1: mixnet_s\.in1k: no weights of this name are registered",
        ),
        (
            f"mobilenetv2_100.tv_in1k: {{sha256: '{SHA}'}}",
            r":1: mobilenetv2_100\.tv_in1k: sha256 0.* does not begin with b0353104",
        ),
        (f"mobilenetv2_100.tv_in1k: {{revision: '{COMMIT}'}}", "revision is given for a URL"),
        ("a: {sha256: b}\na: {sha256: b}", "'a' is here twice"),
    ],
)
def test_malformed_pins(pin, text, message):
    pin(text)
    with pytest.raises(ConfigError, match=message):
        find_weights("mobilenetv2_100.tv_in1k")


def test_weights_of_the_package_keep_the_pin_they_came_with(pin):
    shipped = find_weights("mixnet_xs_32px")
    pin(f"mixnet_xs_32px.cifar10: {{sha256: '{SHA}'}}\n")
    assert find_weights("mixnet_xs_32px") == shipped
    assert shipped.pinned
    assert shipped.sha256 != SHA


def test_a_file_of_pins_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("EFFNETS_PINS", str(tmp_path / "gone.yaml"))
    with pytest.raises(
        MissingFileError, match=r"gone\.yaml: this file of pins does not exist \(EFFNETS_PINS names it\)"
    ):
        find_weights("mixnet_s")
