"""embed: images of any kind in, vectors out, of networks and of exported files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import effnets
from effnets.errors import ArgumentError, ImageError, WeightsError
from tests.support import shake


@pytest.fixture(scope="module")
def model():
    return shake(effnets.create_model("mobilenetv1_025"), size=64)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (80, 100, 3), dtype=np.uint8))


def inputs(model, *seeds):
    transform = effnets.create_transform(model, input_size=64)
    return torch.stack([transform(picture(seed)) for seed in seeds])


def test_it_is_the_classifiers_input(model, tmp_path):
    picture(1).save(tmp_path / "b.png")
    found = effnets.embed(
        model, [picture(0), tmp_path / "b.png", np.asarray(picture(2))], normalize=False, input_size=64
    )
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(inputs(model, 0, 1, 2)), pre_logits=True).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    logits = found @ model.classifier.weight.detach().numpy().T + model.classifier.bias.detach().numpy()
    best = [predictions[0].index for predictions in effnets.predict(model, [picture(0), picture(1)], input_size=64)]
    assert logits.argmax(1)[:2].tolist() == best


@pytest.mark.parametrize("stage", [0, 2, -1])
def test_a_stage_is_averaged_over_all_places(model, stage):
    found = effnets.embed(model, picture(0), stage=stage, normalize=False, input_size=64)
    with torch.inference_mode():
        maps = model.stages[: stage % len(model.stages) + 1](model.stem(inputs(model, 0)))
    np.testing.assert_allclose(found, maps.mean((2, 3)).numpy(), rtol=1e-3, atol=1e-3)


def test_vectors_have_length_one_unless_told_otherwise(model):
    plain = effnets.embed(model, [picture(0), picture(1)], normalize=False, input_size=64)
    unit = effnets.embed(model, [picture(0), picture(1)], input_size=64)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-5)


def test_without_classes_or_wrapped(model):
    expected = effnets.embed(model, picture(0), input_size=64)
    bare = effnets.create_model("mobilenetv1_025", num_classes=0)
    bare.load_state_dict({key: value for key, value in model.state_dict().items() if "classifier" not in key})
    for other in (bare, torch.compile(model, backend="eager"), torch.nn.DataParallel(model)):
        np.testing.assert_allclose(effnets.embed(other, picture(0), input_size=64), expected, atol=1e-6)
    with pytest.raises(ArgumentError, match="has no classifier; build it without features_only and with num_classes"):
        effnets.predict(bare, picture(0))


def test_the_network_sees_the_images_alone(model):
    seen = []
    handle = model.register_forward_hook(lambda *_: seen.append(1))
    stem = model.stem.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    try:
        effnets.embed(model, picture(0), input_size=64)
    finally:
        handle.remove()
        stem.remove()
    assert seen == [1]


def test_no_images(model):
    assert effnets.embed(model, []).shape == (0, model.num_features)


def test_what_cannot_be_read(model, tmp_path):
    (tmp_path / "notes.jpg").write_text("not a picture")
    with pytest.raises(ImageError, match=r"notes\.jpg"):
        effnets.embed(model, [picture(0), tmp_path / "notes.jpg"], input_size=32)
    with pytest.warns(UserWarning, match=r"skipped: .*notes\.jpg"):
        found = effnets.embed(model, [picture(0), tmp_path / "notes.jpg"], input_size=32, on_error="skip")
    assert np.isfinite(found).all(1).tolist() == [True, False]


def test_networks_and_stages_that_cannot_be(model):
    with pytest.raises(ArgumentError, match="stage is 99; mobilenetv1_025 has the stages 0 to 4, or -1, -2"):
        effnets.embed(model, picture(0), stage=99)
    with pytest.raises(ArgumentError, match=r"no classifier; build it without features_only$"):
        effnets.embed(effnets.create_model("mobilenetv1_025", features_only=True), picture(0))
    with pytest.raises(ArgumentError, match="batch_size is 0; it must be at least 1"):
        effnets.embed(model, picture(0), batch_size=0)


def test_values_that_overflow():
    broken = effnets.create_model("mobilenetv1_025")
    torch.nn.init.constant_(broken.stem.conv.weight, torch.nan)
    with pytest.raises(WeightsError, match="an embedding is not finite: the weights hold NaN"):
        effnets.embed(broken, picture(0), input_size=32)


def test_engines_without_an_embedding_say_how_to_get_one(model):
    engine = effnets.load_engine(model)
    with pytest.raises(ArgumentError, match="was exported without an embedding; export it with embedding=True"):
        effnets.embed(engine, picture(0))
    with pytest.raises(ArgumentError, match="stage is 1, but mobilenetv1_025 is exported, without its stages"):
        effnets.embed(engine, picture(0), stage=1)
