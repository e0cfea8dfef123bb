"""Names: all that are promised are there and load, patterns and tags pick from them, unknown ones are refused."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import effnets
from effnets.errors import UnknownModelError
from effnets.spec import models as config
from effnets.spec.models import list_models, list_weights, load_spec, split_tag
from effnets.spec.plan import make_plan

KERNELS = ["k3_5", "k3_5_7", "k3_5_7_9", "k3_5_7_9_11", "k3_5_7_9_11_13"]
LARGE = ["k5", "k7", "k9", "k11", "k13"]


def names(model: str, variants: str) -> list[str]:
    return [f"{model}_{variant}" for variant in variants.split()]


REQUIRED = [
    *names("mobilenetv1", "025 050 075 100 125 100h 100_conv 100_shallow 100_32px"),
    *names("mobilenetv2", "035 050 075 100 130 140 110d 120d 100_32px"),
    *names("mixnet", "s m l xl xxl s_32px xs_32px"),
    *names("rexnet", "090 100 130 150 200 220 300 100_32px"),
    *names("rexnetr", "100 130 150 200 300"),
    *names("rexnet_lite", "100 130 150 200"),
    *names("tf_mobilenetv1", "025 050 075 100"),
    *names("tf_mobilenetv2", "035 050 075 100 130 140"),
    *names("tf_mixnet", "s m l"),
    *[f"mobilenetv{v}_100_{k}{x}" for v in (1, 2) for k in KERNELS for x in ("", "_exp", "_dil")],
    *[f"mobilenetv{v}_100_{k}{x}" for v in (1, 2) for k in LARGE for x in ("", "_dil")],
    *["mnasnet_a1", "fbnet_c", "proxylessnas_mobile", "efficientnet_lite0"],
]


def test_required_names_are_listed():
    assert sorted(set(REQUIRED) - set(list_models())) == []


@pytest.mark.parametrize("name", list_models())
def test_every_model_loads_plans_and_counts(name):
    spec = load_spec(name)
    assert spec.name == name
    assert next(make_plan(spec).blocks).out_channels > 0
    assert effnets.count(name).params > 100_000


def test_list_models_is_sorted_and_hides_templates():
    listed = list_models()
    assert listed == sorted(set(listed))
    assert not [name for name in listed if name.startswith("_")]
    assert list_models("_*") == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("mixnet_?", ["mixnet_l", "mixnet_m", "mixnet_s"]),
        ("*mixnet_s", ["mixnet_s", "tf_mixnet_s"]),
        ("rexnetr_[12]?0", ["rexnetr_100", "rexnetr_130", "rexnetr_150", "rexnetr_200"]),
        ("fbnet_c", ["fbnet_c"]),
        ("fbnet", []),
        ("[", []),
    ],
)
def test_list_models_pattern(pattern, expected):
    assert list_models(pattern) == expected


def test_pretrained_names_are_model_and_tag():
    for name in list_models(pretrained=True):
        model, tag = split_tag(name)
        assert tag in list_weights(model)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("mixnet_s", ["mixnet_s.ft_in1k"]),
        ("*mixnet_s", ["mixnet_s.ft_in1k", "tf_mixnet_s.in1k"]),
        ("rexnetr_200.sw_in12k", ["rexnetr_200.sw_in12k"]),
        ("rexnetr_200.*", ["rexnetr_200.sw_in12k", "rexnetr_200.sw_in12k_ft_in1k"]),
        ("*.tv2*", ["mobilenetv2_100.tv2_in1k"]),
        ("mixnet_xxl", []),
    ],
)
def test_list_models_pretrained_pattern(pattern, expected):
    assert list_models(pattern, pretrained=True) == expected


def test_a_tag_brings_what_its_weights_ask_of_the_network():
    spec = load_spec("rexnetr_200.sw_in12k")
    assert (spec.name, spec.num_classes, spec.preprocess.test_input_size) == ("rexnetr_200", 11821, 288)
    assert load_spec("rexnetr_200").num_classes == 1000
    assert load_spec("fbnet_c.rmsp_in1k").bn_eps == 1e-3
    assert load_spec("fbnet_c").bn_eps == 1e-5
    assert load_spec("tf_mobilenetv1_050.keras_r160_in1k").input_size == 160
    assert effnets.count("tf_mobilenetv1_050.keras_r160_in1k") == effnets.count("tf_mobilenetv1_050", 160)


def test_list_weights_of_an_unknown_model():
    with pytest.raises(UnknownModelError, match=r"no model named 'mixnet_q'.*did you mean mixnet_"):
        list_weights("mixnet_q")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("mixnet_m", ("mixnet_m", None)), ("mixnet_m.a.b", ("mixnet_m", "a.b")), ("mixnet_m.", ("mixnet_m", ""))],
)
def test_split_tag(name, expected):
    assert split_tag(name) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mixnett_m", "no model named 'mixnett_m' in effnets; did you mean mixnet_m or "),
        ("mobilenet_v2_100", "did you mean .*mobilenetv2_100"),
        ("zzzz", r"no model named 'zzzz' in effnets; list_models\(\) has all names"),
        ("_mobilenetv2_deep", "is a template for other models, not a model"),
        ("mixnet_m.", "mixnet_m has no weights tagged ''; registered tags: "),
        ("mixnet_m.nonsense", "mixnet_m has no weights tagged 'nonsense'"),
        ("nonsense.tag", "no model named 'nonsense'"),
        ("", "no model named ''"),
        ("a\0b", "no model named"),
        ("a" * 5000, "no model named"),
    ],
)
def test_unknown_name(name, message):
    with pytest.raises(UnknownModelError, match=message):
        load_spec(name)


def test_spec_is_returned_as_it_is():
    spec = load_spec("mixnet_s")
    assert load_spec(spec) is spec


def test_clear_cache_reads_again():
    before = load_spec("mixnet_s")
    assert load_spec("mixnet_s") is before
    config.clear_cache()
    assert load_spec("mixnet_s") is not before
    assert load_spec("mixnet_s") == before


def test_specs_and_counts_need_no_heavy_imports():
    program = (
        "import json, sys, effnets; effnets.list_models(); effnets.load_spec('mixnet_s'); effnets.count('mixnet_s');"
        "import effnets.spec.json_schema; effnets.list_models(pretrained=True); effnets.load_spec('mixnet_s.ft_in1k');"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(json.loads(result.stdout))
    assert "effnets" in loaded
    assert loaded.isdisjoint({"torch", "numpy", "PIL", "timm", "torchvision", "safetensors", "huggingface_hub"})
