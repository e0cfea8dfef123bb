"""Names, inheritance, files of the user's own, and what is said when one of them is wrong."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import effnets
from effnets import catalogue, config
from effnets.config import list_models, list_weights, load_spec, split_tag
from effnets.errors import ConfigError, MissingFileError, UnknownModelError
from effnets.plan import make_plan

KERNELS = ["k3_5", "k3_5_7", "k3_5_7_9", "k3_5_7_9_11", "k3_5_7_9_11_13"]
LARGE = ["k5", "k7", "k9", "k11", "k13"]


def names(model: str, variants: str) -> list[str]:
    return [f"{model}_{variant}" for variant in variants.split()]


REQUIRED = [
    *names("mobilenetv1", "025 050 075 100 125 100h 100_conv 100_shallow"),
    *names("mobilenetv2", "035 050 075 100 130 140 110d 120d 100_32px"),
    *names("mixnet", "s m l xl xxl"),
    *names("rexnet", "090 100 130 150 200 220 300"),
    *names("rexnetr", "100 130 150 200 300"),
    *names("rexnet_lite", "100 130 150 200"),
    *names("tf_mobilenetv1", "025 050 075 100"),
    *names("tf_mobilenetv2", "035 050 075 100 130 140"),
    *names("tf_mixnet", "s m l"),
    *[f"mobilenetv{v}_100_{k}{x}" for v in (1, 2) for k in KERNELS for x in ("", "_exp", "_dil")],
    *[f"mobilenetv{v}_100_{k}{x}" for v in (1, 2) for k in LARGE for x in ("", "_dil")],
    *["mnasnet_a1", "fbnet_c", "proxylessnas_mobile", "efficientnet_lite0"],
]

NET = "net: {stem: 16, blocks: [ds_r1_k3_s1_c16]}\n"


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "my.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


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
        ("mixnet_*", ["mixnet_l", "mixnet_m", "mixnet_s", "mixnet_xl", "mixnet_xxl"]),
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


def test_file_without_a_yaml_suffix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynet").write_text(NET)
    with pytest.raises(UnknownModelError, match=r"'mynet' is no model's name; a file of your own must end in \.yaml"):
        load_spec("mynet")


def test_spec_is_returned_as_it_is():
    spec = load_spec("mixnet_s")
    assert load_spec(spec) is spec


# Inheritance.


def test_width_is_inherited_from_the_nearest_base():
    assert load_spec("tf_mixnet_l").width == load_spec("mixnet_l").width == 1.3
    assert load_spec("tf_mixnet_l").blocks == load_spec("mixnet_m").blocks


def test_variant_replaces_what_it_states_and_keeps_the_rest():
    base, variant = load_spec("mobilenetv2_100"), load_spec("mobilenetv2_110d")
    assert (variant.width, variant.depth, variant.depth_fixed_ends) == (1.1, 1.2, True)
    assert (variant.stem_scaling, variant.head_scaling) == ("fixed", "fixed")
    assert (variant.blocks, variant.head, variant.activation) == (base.blocks, base.head, base.activation)


def test_padding_epsilon_and_mean_of_tensorflow():
    spec = load_spec("tf_mobilenetv1_050")
    assert (spec.padding, spec.bn_eps, spec.width) == ("same", 1e-3, 0.5)
    assert spec.preprocess.mean == spec.preprocess.std == (0.5, 0.5, 0.5)
    assert load_spec("tf_mixnet_s").preprocess == load_spec("mixnet_s").preprocess


def test_family_is_the_file_of_the_first_base():
    assert load_spec("mobilenetv1_100_k3_5_exp").family == "mobilenetv1"
    assert load_spec("tf_mixnet_l").family == "mixnet"
    assert load_spec("fbnet_c").family == "fbnet"


def test_resolution_multiplies_the_input_size_also_an_inherited_one(write):
    path = write(
        "a: {base: mobilenetv1_100, resolution: 0.857142857}\n"
        "b: {base: mobilenetv2_100_32px, resolution: 2}\n"
        "c: {base: b, input_size: 48}\n"
    )
    assert [load_spec(f"{path}:{name}").input_size for name in "abc"] == [192, 64, 96]


def test_activation_and_single_numbers_for_every_channel(write):
    spec = load_spec(write("net: {base: mixnet_s, activation: hard_swish, mean: 0, std: [1, 2, 4]}"))
    assert spec.activation == "hard_swish"
    assert spec.preprocess.mean == (0.0, 0.0, 0.0)
    assert spec.preprocess.std == (1.0, 2.0, 4.0)


def test_every_block_acts_in_the_order_of_the_bases(write):
    path = write(
        "a: {base: mobilenetv1_100, every_block: k5.7}\n"
        "b: {base: a, every_block: exponential}\n"
        "c: {base: b, every_block: k9}\n"
        "d: {base: c, blocks: [ds_r1_k3_s1_c8]}\n"
        "e: {base: d, every_block: nsw}\n"
    )
    b, c, d, e = (load_spec(f"{path}:{name}") for name in "bcde")
    assert {(block.kernel_sizes, block.exponential) for block in b.blocks} == {((5, 7), True)}
    assert {(block.kernel_sizes, block.exponential) for block in c.blocks} == {((9,), True)}
    assert [(block.kernel_sizes, block.exponential) for block in d.blocks] == [((3,), False)]
    assert [(block.kernel_sizes, block.activation) for block in e.blocks] == [((3,), "silu")]
    assert [block.channels for block in b.blocks] == [block.channels for block in load_spec("mobilenetv1_100").blocks]


def test_every_block_and_rows_in_one_entry(write):
    spec = load_spec(write("net: {stem: 8, every_block: k5, blocks: [ds_r1_k3_s1_c8]}"))
    assert spec.blocks[0].kernel_sizes == (5,)


def test_null_takes_an_inherited_schedule_away(write):
    spec = load_spec(write("net: {base: rexnet_100, channels: null, blocks: [lb_r1_k3_s1_e1_c16]}"))
    assert spec.channels is None


# Files of the user's own.


def test_one_model_of_a_file(write):
    path = write(NET)
    spec = load_spec(path)
    assert (spec.name, spec.family, spec.stem) == ("net", "my", 16)
    assert load_spec(str(path)) == load_spec(f"{path}:net") == spec
    assert load_spec(write(NET, "my.yml")) == spec


def test_several_models_need_a_name(write):
    path = write(NET + NET.replace("net", "other") + "_half: {width: 0.5}\n")
    assert load_spec(f"{path}:other").name == "other"
    with pytest.raises(ConfigError, match=r"my\.yaml: holds 2 models; name one: '.*my\.yaml:net', '.*my\.yaml:other'"):
        load_spec(path)


def test_templates_of_a_file(write):
    path = write("_half: {width: 0.5, base: mixnet_s}\nnet: {base: _half, bn_eps: 1e-3}\n")
    spec = load_spec(path)
    assert (spec.name, spec.width, spec.bn_eps, spec.family) == ("net", 0.5, 1e-3, "mixnet")


@pytest.mark.parametrize("text", ["", "# nothing\n", "_half: {width: 0.5}\n"], ids=["empty", "comment", "template"])
def test_file_without_models(write, text):
    with pytest.raises(ConfigError, match=r"my\.yaml: holds 0 models; add one"):
        load_spec(write(text))


def test_names_of_the_file_come_before_the_zoo(write):
    path = write("mixnet_m: {base: mobilenetv1_100, width: 0.5}\nnet: {base: mixnet_m}\n")
    assert load_spec(f"{path}:mixnet_m").blocks == load_spec("mobilenetv1_100").blocks
    assert load_spec(f"{path}:net").width == 0.5
    assert load_spec("mixnet_m").width == 1.0


def test_names_of_the_file_do_not_reach_into_the_zoo(write):
    path = write("mixnet_m: {base: mobilenetv1_100}\nnet: {base: mixnet_l}\n")
    assert load_spec(f"{path}:net").blocks == load_spec("mixnet_l").blocks


@pytest.mark.parametrize("wanted", ["nett", ""])
def test_unknown_name_in_a_file(write, wanted):
    path = write(NET)
    with pytest.raises(UnknownModelError, match=rf"no model named '{wanted}' in .*my\.yaml; (did you mean|it has) net"):
        load_spec(f"{path}:{wanted}")


def test_missing_file(tmp_path):
    for name in (tmp_path / "none.yaml", f"{tmp_path / 'none.yaml'}:net"):
        with pytest.raises(MissingFileError, match=r"none\.yaml: no such file"):
            load_spec(name)


def test_a_name_in_two_files_of_the_zoo(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    for name in ("one", "two"):
        (tmp_path / "models" / f"{name}.yaml").write_text("# first\n" + NET)
    monkeypatch.setattr(catalogue, "configs_dir", lambda: tmp_path)
    with pytest.raises(ConfigError, match=r"two\.yaml:2: net: this name stands in .*one\.yaml:2 too; rename one"):
        catalogue.catalogue.__wrapped__()


def test_clear_cache_reads_again():
    before = load_spec("mixnet_s")
    assert load_spec("mixnet_s") is before
    config.clear_cache()
    assert load_spec("mixnet_s") is not before
    assert load_spec("mixnet_s") == before


def test_specs_and_counts_need_no_heavy_imports():
    program = (
        "import json, sys, effnets; effnets.list_models(); effnets.load_spec('mixnet_s'); effnets.count('mixnet_s');"
        "import effnets.schema; effnets.list_models(pretrained=True); effnets.load_spec('mixnet_s.ft_in1k');"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(json.loads(result.stdout))
    assert "effnets" in loaded
    assert loaded.isdisjoint({"torch", "numpy", "PIL", "timm", "torchvision", "safetensors", "huggingface_hub"})
