"""What a table says: inheritance, files of the user's own, and the messages when one of them is wrong."""

from __future__ import annotations

import pytest

from effnets.errors import ConfigError, MissingFileError, UnknownModelError
from effnets.spec import entries
from effnets.spec.models import load_spec

NET = "net: {stem: 16, blocks: [ds_r1_k3_s1_c16]}\n"


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "my.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


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


def test_file_without_a_yaml_suffix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynet").write_text(NET)
    with pytest.raises(UnknownModelError, match=r"'mynet' is not a model's name; a file of your own must end"):
        load_spec("mynet")


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
    monkeypatch.setattr(entries, "configs_dir", lambda: tmp_path)
    with pytest.raises(ConfigError, match=r"two\.yaml:2: net: this name is also in .*one\.yaml:2; rename one"):
        entries.zoo_entries.__wrapped__()
