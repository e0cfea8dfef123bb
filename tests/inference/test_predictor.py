"""predict: images of any kind in, ranked classes out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import effnets
from effnets.errors import ArgumentError, ImageError, WeightsError
from effnets.inference.labels import imagenet1k, rank
from effnets.inference.predictor import create_predictor
from tests.support import shake


@pytest.fixture(scope="module")
def model():
    return shake(effnets.create_model("mobilenetv1_025"), size=64)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (80, 100, 3), dtype=np.uint8))


def test_one_image_or_many_of_any_kind(model, tmp_path):
    path = tmp_path / "a.png"
    picture(0).save(path)
    alone = effnets.predict(model, path)
    together = effnets.predict(model, [str(path), path, picture(0), np.asarray(picture(0)), picture(1)], batch_size=2)
    assert len(alone) == 1
    assert len(together) == 5
    for same in together[:4]:
        assert [p.index for p in same] == [p.index for p in alone[0]]
        assert same[0].probability == pytest.approx(alone[0][0].probability, abs=1e-5)
    assert [p.index for p in together[4]] != [p.index for p in alone[0]]


def test_predictions_are_the_softmax_ranked(model):
    transform = effnets.create_transform(model, input_size=96)
    with torch.inference_mode():
        expected = model(transform(picture(0))[None])[0].softmax(0)
    predictions = effnets.predict(model, picture(0), topk=1000, input_size=96)[0]
    assert sum(p.probability for p in predictions) == pytest.approx(1)
    assert [p.probability for p in predictions] == sorted((p.probability for p in predictions), reverse=True)
    best = predictions[0]
    assert best.index == expected.argmax().item()
    assert best.probability == pytest.approx(expected.max().item(), rel=1e-4)
    assert best.label == imagenet1k()[best.index]


def test_no_images(model):
    assert effnets.predict(model, []) == []


def test_the_mode_stays_as_it_was(model):
    for mode in (True, False):
        model.train(mode)
        before = model.stem.bn.running_mean.clone()
        effnets.predict(model, picture(0), input_size=32)
        assert model.training is mode
        assert torch.equal(before, model.stem.bn.running_mean)


def test_parts_that_are_frozen_stay_so():
    """A backbone whose batch normalisation is kept in evaluation mode while its head trains."""
    model = effnets.create_model("mobilenetv1_025").train()
    model.stem.bn.eval()
    model.stages[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    effnets.predict(model, picture(0), input_size=32)
    assert {name: module.training for name, module in model.named_modules()} == before


def test_wrapped_networks(model):
    expected = effnets.predict(model, picture(0), input_size=64)
    for wrapped in (torch.compile(model, backend="eager"), torch.nn.DataParallel(model)):
        assert effnets.predict(wrapped, picture(0), input_size=64) == expected


def test_weights_that_overflow_are_not_taken_for_an_answer():
    model = effnets.create_model("mobilenetv1_025")
    torch.nn.init.constant_(model.classifier.bias, torch.nan)
    with pytest.raises(WeightsError, match="logits are not finite: the weights hold NaN"):
        effnets.predict(model, picture(0), input_size=32)


def test_too_few_names():
    model = effnets.create_model("mobilenetv1_025", num_classes=3)
    model.class_names = ("cat", "dog")
    with pytest.raises(ArgumentError, match="class_names has 2 names for 3 classes"):
        effnets.predict(model, picture(0), input_size=32)


def test_names_of_other_classes():
    small = effnets.create_model("mobilenetv1_025", num_classes=3)
    assert effnets.predict(small, picture(0), input_size=32)[0][0].label.startswith("class ")
    small.class_names = ("cat", "dog", "owl")
    assert {p.label for p in effnets.predict(small, picture(0), input_size=32)[0]} == {"cat", "dog", "owl"}


def test_grey_networks_and_bfloat16():
    grey = effnets.create_model("mobilenetv1_025", in_chans=1, dtype=torch.bfloat16)
    assert len(effnets.predict(grey, picture(0), input_size=32)[0]) == 5


def test_an_unreadable_image_is_named(model, tmp_path):
    (tmp_path / "notes.jpg").write_text("not a picture")
    with pytest.raises(ImageError, match=r"notes\.jpg"):
        effnets.predict(model, [picture(0), tmp_path / "notes.jpg"])


def test_an_unreadable_image_is_skipped_on_request(model, tmp_path):
    (tmp_path / "notes.jpg").write_text("not a picture")
    images = [picture(0), tmp_path / "notes.jpg", tmp_path / "missing.jpg", picture(1)]
    with pytest.warns(UserWarning, match="skipped: ") as warned:
        found = effnets.predict(model, images, on_error="skip", batch_size=2)
    assert [len(predictions) for predictions in found] == [5, 0, 0, 5]
    assert ["notes.jpg" in str(warned[0].message), "missing.jpg" in str(warned[1].message)] == [True, True]
    assert [[p.index for p in found[0]], [p.index for p in found[3]]] == [
        [p.index for p in predictions] for predictions in effnets.predict(model, [picture(0), picture(1)])
    ]


def test_a_stream_gives_results_and_reasons_in_order(model, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    for number, path in enumerate(paths):
        picture(number).save(path)
    paths[3].write_bytes(b"")
    found = list(create_predictor(model).stream(paths, 1, 2, on_error="skip"))
    assert "3.png is empty" in found[3]
    expected = effnets.predict(model, paths[:3] + paths[4:], 1)
    assert [predictions[0].index for predictions in found[:3] + found[4:]] == [one[0].index for one in expected]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ({}, {"topk": 0}, "topk is 0; ask for at least 1"),
        ({}, {"topk": 2.5}, "topk is 2.5; ask for"),
        ({}, {"batch_size": 0}, "batch_size is 0"),
        ({}, {"input_size": 0}, "input_size is 0"),
        ({}, {"on_error": "ignore"}, "on_error is 'ignore'; choose 'raise' or 'skip'"),
        ({"num_classes": 0}, {}, "no classifier; build it without features_only"),
        ({"features_only": True}, {}, "no classifier; build it without features_only"),
        ({"global_pool": "none"}, {"input_size": 64}, "classifies every place; pool to classify"),
    ],
)
def test_refusals(arguments, options, message):
    with pytest.raises(ArgumentError, match=message):
        effnets.predict(effnets.create_model("mobilenetv1_025", **arguments), picture(0), **options)


def test_rank_is_stable_and_survives_large_logits():
    logits = np.array([[1000.0, 1000.0, -1000.0]], dtype=np.float32)
    best = rank(logits, ("a", "b", "c"), 3)[0]
    assert [(p.label, p.probability) for p in best] == [("a", 0.5), ("b", 0.5), ("c", 0.0)]


@pytest.mark.parametrize("nothing", [None, 5])
def test_what_is_no_image(model, nothing):
    with pytest.raises(ArgumentError, match=f"images is {nothing}; give a path"):
        effnets.predict(model, nothing)


def test_what_is_no_model_of_ours():
    with pytest.raises(ArgumentError, match="model is a Linear; give one that create_model built"):
        effnets.predict(torch.nn.Linear(2, 2), picture(0))
