"""Keras Applications' MobileNets: every layout of their files, both ways, and a real one."""

from __future__ import annotations

import json

import h5py
import pytest
import torch

import effnets
from effnets.errors import WeightsError
from tests.support import SHARED, error_between, images, needs_shared, shake
from tests.support.keras_layout import OLD_V2, V1, V2, layers, write_keras_3, write_layers

TOLERANCE = 1e-4
NAMES = {"tf_mobilenetv1_025": V1, "tf_mobilenetv1_075": V1, "tf_mobilenetv2_035": V2, "tf_mobilenetv2_140": V2}
INPUTS = [(2, 3, 224, 224), (1, 3, 193, 225)]
WRITERS = {
    "root.h5": write_layers,
    "no_prefix.h5": lambda path, found: write_layers(path, found, style="{weight}:0"),
    "renamed.hdf5": lambda path, found: write_layers(path, found, style="{layer}_1/{weight}:0"),
    "whole.h5": lambda path, found: write_layers(path, found, under="model_weights"),
    "keras_3.h5": lambda path, found: write_layers(path, found, "{layer}/{weight}", "model_weights", keras_3=True),
    "keras_3.weights.h5": write_keras_3,
}


@pytest.fixture(scope="module", params=NAMES)
def shaken(request):
    return request.param, shake(effnets.create_model(request.param))


@torch.no_grad()
def assert_same(model, loaded) -> None:
    for key, tensor in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(tensor, loaded.state_dict()[key]), key
    for shape in INPUTS:
        assert error_between(model(images(*shape)), loaded.eval()(images(*shape))) <= TOLERANCE


@pytest.mark.parametrize("kind", WRITERS)
def test_every_layout_loads(shaken, tmp_path, kind):
    name, model = shaken
    WRITERS[kind](tmp_path / kind, layers(model, NAMES[name]))
    loaded = effnets.create_model(name, weights=tmp_path / kind)
    assert loaded.load_report.dialect == "keras"
    assert [note for note in loaded.load_report.notes if "batch counters" not in note] == []
    assert_same(model, loaded)


@pytest.mark.parametrize("headless", [False, True])
def test_the_layer_names_of_2018_load(tmp_path, headless):
    model = shake(effnets.create_model("tf_mobilenetv2_035"), size=64)
    found = layers(model, OLD_V2)
    if headless:
        del found["Logits"]
    write_layers(tmp_path / "old.h5", found)
    loaded = effnets.create_model(
        "tf_mobilenetv2_035", weights=tmp_path / "old.h5", num_classes=0 if headless else 1000
    )
    for key, tensor in loaded.state_dict().items():
        assert key.endswith("num_batches_tracked") or torch.equal(tensor, model.state_dict()[key]), key


def test_what_is_saved_is_what_keras_writes(shaken, tmp_path):
    name, model = shaken
    effnets.save_weights(model, tmp_path / "saved.h5", dialect="keras")
    expected = layers(model, NAMES[name])
    with h5py.File(tmp_path / "saved.h5") as file:
        assert list(file.attrs["layer_names"]) == list(expected)
        assert file.attrs["keras_version"] == "2.0.0"
        for layer, weights in expected.items():
            paths = list(file[layer].attrs["weight_names"])
            assert paths == [f"{layer}/{weight}:0" for weight in weights]
            for path, value in zip(paths, weights.values(), strict=True):
                assert file[layer][path].dtype == "float32"
                assert (file[layer][path][()] == value).all()
    assert_same(model, effnets.create_model(name, weights=tmp_path / "saved.h5"))


@pytest.mark.parametrize("name", ["tf_mobilenetv1_025", "tf_mobilenetv2_035"])
def test_files_without_top(name, tmp_path):
    model = shake(effnets.create_model(name, num_classes=0), size=64)
    effnets.save_weights(model, tmp_path / "notop.h5", dialect="keras")
    with h5py.File(tmp_path / "notop.h5") as file:
        assert not {"conv_preds", "predictions"} & set(file)
    x = images(2, 3, 64, 64)
    loaded = effnets.create_model(name, weights=tmp_path / "notop.h5", num_classes=0).eval()
    assert error_between(model(x), loaded(x)) == 0
    with pytest.warns(UserWarning, match=r"newly initialized.*notop\.h5 has none"):
        effnets.create_model(name, weights=tmp_path / "notop.h5", num_classes=3)


def test_half_precision_and_1001_classes_of_one_s_own(tmp_path):
    model = shake(effnets.create_model("tf_mobilenetv1_025", num_classes=1001), size=64).half()
    effnets.save_weights(model, tmp_path / "half.h5", dialect="keras")
    loaded = effnets.create_model("tf_mobilenetv1_025", weights=tmp_path / "half.h5")
    assert loaded.num_classes == 1001
    assert torch.equal(loaded.classifier.weight, model.classifier.weight.float())


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("mobilenetv1_025", "w.h5", "keras's own network has padding same, this one symmetric"),
        ("tf_mixnet_s", "w.h5", "other logits there: keras's own network has activation relu6, this one relu"),
        ("tf_mobilenetv1_025", "w.safetensors", r"dialect keras are written as \.h5 or \.hdf5"),
        ("tf_mobilenetv1_025", "w.weights.h5", r"Keras 3 reads another layout.*call it \.h5"),
    ],
)
def test_what_is_not_written(name, path, message, tmp_path):
    with pytest.raises(WeightsError, match=message):
        effnets.save_weights(effnets.create_model(name, num_classes=2), tmp_path / path, dialect="keras")
    assert list(tmp_path.iterdir()) == []


@needs_shared
def test_a_real_file_on_photographs():
    path = SHARED / "weights" / "keras_mobilenet_2_5_224_tf.h5"
    golden = json.loads((SHARED / "golden" / "photos.json").read_text())[path.name]
    model = effnets.create_model("tf_mobilenetv1_025", weights=path).eval()
    transform = effnets.create_transform(model)
    for photo, expected in golden.items():
        with torch.inference_mode():
            logits = model(transform(SHARED / "data" / "photos" / photo)[None])[0]
        torch.testing.assert_close(logits[:8], torch.tensor(expected["logits_first8"]), rtol=0, atol=1e-3)
        assert logits.sum().item() == pytest.approx(expected["logits_sum"], abs=1e-2)
        assert logits.norm().item() == pytest.approx(expected["logits_l2"], abs=1e-3)
