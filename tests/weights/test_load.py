"""Loading: strict, all or nothing, with rules for the head and a report of everything."""

from __future__ import annotations

import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

import effnets
from effnets.errors import ArgumentError, WeightsError
from tests.support import images, shake


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network with something to lose, and its weights in both dialects."""
    model = shake(effnets.create_model("mixnet_s", num_classes=7), size=64)
    folder = tmp_path_factory.mktemp("weights")
    files = {dialect: folder / f"{dialect}.safetensors" for dialect in ("effnets", "timm")}
    for dialect, path in files.items():
        effnets.save_weights(model, path, dialect=dialect)
    return model, files


@pytest.mark.parametrize("dialect", ["effnets", "timm"])
def test_round_trip_keeps_every_bit(trained, dialect):
    model, files = trained
    loaded = effnets.create_model("mixnet_s", weights=files[dialect])
    assert loaded.num_classes == 7
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    report = loaded.load_report
    assert report.dialect == dialect
    assert set(report.loaded) == set(model.state_dict())
    assert report.reinitialised == report.dropped == ()
    assert len(report.sha256) == 64
    assert str(files[dialect]) in str(report)


def test_dialects_differ_in_names_only(trained):
    _, files = trained
    ours, theirs = load_file(files["effnets"]), load_file(files["timm"])
    assert ours.keys() != theirs.keys()
    assert torch.equal(ours["stages.2.0.depthwise.conv.1.weight"], theirs["blocks.2.0.conv_dw.1.weight"])


def test_construction_draws_nothing_when_weights_follow(trained):
    _, files = trained
    before = torch.get_rng_state()
    effnets.create_model("mixnet_s", weights=files["timm"])
    assert torch.equal(before, torch.get_rng_state())


def test_another_number_of_classes_is_warned_about_once_and_reported(trained):
    model, files = trained
    with pytest.warns(UserWarning, match=r"classifier of 3 classes is newly initialized.*has one of 7") as caught:
        loaded = effnets.create_model("mixnet_s", weights=files["timm"], num_classes=3)
    assert len(caught) == 1
    assert loaded.load_report.reinitialised == ("classifier.weight", "classifier.bias")
    assert loaded.load_report.dropped == ("classifier.weight", "classifier.bias")
    assert loaded.classifier.weight.shape == (3, 1536)
    assert 0 < loaded.classifier.weight.std() < 0.1
    x = images(1, 3, 64, 64)
    torch.testing.assert_close(loaded.eval().forward_features(x), model.forward_features(x), rtol=0, atol=0)


def test_no_classifier_asked_for(trained):
    _, files = trained
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = effnets.create_model("mixnet_s", weights=files["timm"], num_classes=0)
    assert loaded.load_report.dropped == ("classifier.bias", "classifier.weight")
    assert loaded(images(2, 3, 64, 64)).shape == (2, 1536)


def test_a_backbone_leaves_the_head_out(trained):
    _, files = trained
    loaded = effnets.create_model("mixnet_s", weights=files["timm"], features_only=True, out_indices=(1, 2))
    dropped = loaded.load_report.dropped
    assert {name.split(".")[0] for name in dropped} == {"head", "classifier", "stages"}
    assert not any(name.startswith("stages.2.") for name in dropped)
    assert any(name.startswith("stages.3.") for name in dropped)


def test_head_strict(trained):
    _, files = trained
    model = effnets.create_model("mixnet_s", num_classes=3)
    with pytest.raises(WeightsError, match=r"- classifier\.bias \[3\]\n  \+ classifier\.bias \[7\]"):
        effnets.load_weights(model, files["timm"], head="strict")


def test_head_drop_initialises_even_one_that_fits(trained):
    trained_model, files = trained
    model = effnets.create_model("mixnet_s", num_classes=7)
    with pytest.warns(UserWarning, match="newly initialized"):
        report = effnets.load_weights(model, files["timm"], head="drop")
    assert report.reinitialised == ("classifier.weight", "classifier.bias")
    assert not torch.equal(model.classifier.weight, trained_model.classifier.weight)


def test_a_file_without_classifier(trained, tmp_path):
    _, files = trained
    body = {name: tensor for name, tensor in load_file(files["effnets"]).items() if not name.startswith("classifier")}
    save_file(body, tmp_path / "body.safetensors")
    with pytest.warns(UserWarning, match=r"body\.safetensors has none"):
        model = effnets.create_model("mixnet_s", weights=tmp_path / "body.safetensors")
    assert model.num_classes == 1000


def test_a_mismatch_is_a_diff_and_changes_nothing(trained, tmp_path):
    _, files = trained
    tensors = load_file(files["timm"])
    tensors["blocks.1.0.conv_dw.extra"] = torch.zeros(4)
    tensors["blocks.1.0.conv_dw.weight"] = torch.zeros(96, 1, 5, 5)
    del tensors["blocks.0.0.bn1.weight"]
    save_file(tensors, tmp_path / "odd.safetensors")
    model = effnets.create_model("mixnet_s", num_classes=7)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        effnets.load_weights(model, tmp_path / "odd.safetensors")
    assert str(caught.value).splitlines()[1:] == [
        "  - stages.0.0.depthwise.bn.weight [16]",
        "  + stages.1.0.depthwise.conv.extra [4]",
        "  - stages.1.0.depthwise.conv.weight [96, 1, 3, 3]",
        "  + stages.1.0.depthwise.conv.weight [96, 1, 5, 5]",
    ]
    assert "odd.safetensors (timm names) does not fit mixnet_s" in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.load_report is None


def test_a_long_diff_is_cut(trained):
    _, files = trained
    with pytest.raises(WeightsError, match=r"does not fit mixnet_m(?s:.*)  … and \d+ more$"):
        effnets.create_model("mixnet_m", weights=files["timm"])


def test_a_key_of_no_module_is_shown_as_it_is(trained, tmp_path):
    _, files = trained
    save_file(load_file(files["timm"]) | {"teacher.weight": torch.zeros(2)}, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError, match=r"\+ teacher\.weight \(unknown name\) \[2\]"):
        effnets.create_model("mixnet_s", weights=tmp_path / "odd.safetensors")


def test_unknown_keys_are_refused(tmp_path):
    save_file({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "resnet.safetensors")
    with pytest.raises(
        WeightsError,
        match=r"resnet\.safetensors: its keys \(layer1.*no known dialect \(.*another network than the zoo's",
    ):
        effnets.create_model("mixnet_s", weights=tmp_path / "resnet.safetensors")


def test_another_padding_is_refused_by_a_built_model(tmp_path):
    path = tmp_path / "tf.safetensors"
    effnets.save_weights(effnets.create_model("tf_mobilenetv1_025", num_classes=2), path)
    model = effnets.create_model("mobilenetv1_025", num_classes=2)
    with pytest.raises(WeightsError, match=r"trained with padding same.*create_model\('mobilenetv1_025', weights="):
        effnets.load_weights(model, path)
    built = effnets.create_model("mobilenetv1_025", weights=path)
    assert (built.spec.padding, built.spec.bn_eps, built.spec.preprocess.mean) == ("same", 1e-3, (0.5, 0.5, 0.5))
    assert built.stem.conv.pads_by_size
    assert len(built.load_report.notes) == 4


@pytest.mark.parametrize("in_chans", [1, 2, 4, 6])
def test_other_input_channels_keep_the_scale(trained, in_chans):
    model, files = trained
    loaded = effnets.create_model("mixnet_s", weights=files["timm"], in_chans=in_chans).eval()
    assert any("input channels" in note for note in loaded.load_report.notes)
    ours, theirs = loaded.stem.conv.weight, model.stem.conv.weight
    if in_chans > 1:
        for channel in range(in_chans):
            torch.testing.assert_close(ours[:, channel], theirs[:, channel % 3] * 3 / in_chans)
    if in_chans in (1, 6):  # where each colour counts the same, a grey picture is seen as before
        grey = images(2, 1, 64, 64)
        torch.testing.assert_close(loaded.stem(grey.repeat(1, in_chans, 1, 1)), model.stem(grey.repeat(1, 3, 1, 1)))


def test_files_without_batch_counters(trained, tmp_path):
    _, files = trained
    tensors = {name: t for name, t in load_file(files["timm"]).items() if not name.endswith("num_batches_tracked")}
    save_file(tensors, tmp_path / "old.safetensors")
    report = effnets.create_model("mixnet_s", weights=tmp_path / "old.safetensors").load_report
    assert any("batch counters" in note for note in report.notes)


def test_half_precision_files(trained, tmp_path):
    model, files = trained
    halves = {name: t.half() if t.is_floating_point() else t for name, t in load_file(files["timm"]).items()}
    save_file(halves, tmp_path / "half.safetensors")
    loaded = effnets.create_model("mixnet_s", weights=tmp_path / "half.safetensors")
    assert loaded.stem.conv.weight.dtype == torch.float32
    assert torch.equal(loaded.stem.conv.weight, model.stem.conv.weight.half().float())
    assert "tensors of float16 were cast to float32" in loaded.load_report.notes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"head": "maybe"}, "head is 'maybe'; choose one of auto"), ({"dialect": "jax"}, "dialect is 'jax'; choose one")],
)
def test_bad_arguments(trained, arguments, message):
    model, files = trained
    with pytest.raises(ArgumentError, match=message):
        effnets.load_weights(model, files["timm"], **arguments)


def test_meta_models_hold_no_values(trained):
    _, files = trained
    with pytest.raises(ArgumentError, match="meta device has no values"):
        effnets.create_model("mixnet_s", weights=files["timm"], device="meta")


def test_a_native_name_in_another_dialect_is_refused(trained, tmp_path):
    _, files = trained
    tensors = load_file(files["timm"])
    save_file(tensors | {"stem.conv.weight": torch.full((16, 3, 3, 3), 7.0)}, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError, match=r"\+ stem\.conv\.weight \(unknown name\)"):
        effnets.create_model("mixnet_s", weights=tmp_path / "odd.safetensors")


def test_class_names_travel_with_the_weights(tmp_path):
    model = effnets.create_model("mobilenetv1_025", num_classes=2)
    model.class_names = ("Kätzchen", "owl")
    effnets.save_weights(model, tmp_path / "w.safetensors")
    again = effnets.create_model("mobilenetv1_025", weights=tmp_path / "w.safetensors")
    assert again.class_names == ("Kätzchen", "owl")
    with pytest.warns(UserWarning, match="newly initialized"):
        other = effnets.create_model("mobilenetv1_025", weights=tmp_path / "w.safetensors", num_classes=3)
    assert other.class_names is None
    other.class_names = ("a", "b", "c")
    other.reset_classifier(4)
    assert other.class_names is None


@pytest.mark.parametrize("features_only", [False, True])
def test_wrapped_networks_and_backbones_are_saved_and_loaded(tmp_path, features_only):
    model = effnets.create_model("mobilenetv1_025", features_only=features_only)
    other = effnets.create_model("mobilenetv1_025", features_only=features_only)
    effnets.save_weights(torch.compile(model), tmp_path / "w.safetensors")
    effnets.load_weights(torch.nn.DataParallel(other), tmp_path / "w.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_what_is_no_network_of_ours(tmp_path):
    for call in (effnets.save_weights, effnets.load_weights):
        with pytest.raises(ArgumentError, match="model is a Linear; give one that create_model built"):
            call(torch.nn.Linear(2, 2), tmp_path / "w.safetensors")
    with pytest.raises(ArgumentError, match="meta device has no values"):
        effnets.save_weights(effnets.create_model("mixnet_s", device="meta"), tmp_path / "w.safetensors")


def test_a_backbone_has_no_head_to_be_strict_about(trained):
    _, files = trained
    with pytest.raises(ArgumentError, match="a feature pyramid has none"):
        effnets.load_weights(effnets.create_model("mixnet_s", features_only=True), files["timm"], head="strict")


def test_networks_timm_has_not_are_not_written_for_it(tmp_path):
    model = effnets.create_model("rexnet_lite_100", num_classes=2)
    with pytest.raises(WeightsError, match=r"timm has no network like this one.*save in dialect effnets"):
        effnets.save_weights(model, tmp_path / "lite.safetensors", dialect="timm")
    assert list(tmp_path.iterdir()) == []
    effnets.save_weights(model, tmp_path / "lite.safetensors")
    effnets.create_model("rexnet_lite_100", weights=tmp_path / "lite.safetensors")
