"""The parts of quantization, each by itself."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import onnx
import pytest
from PIL import Image

import effnets
from effnets.deploy.export.verify import probe_images
from effnets.deploy.quantize import cross_layer_equalization as equalize_module
from effnets.deploy.quantize import quantize as quantize_module
from effnets.deploy.quantize.accuracy_gate import Gate, compare
from effnets.deploy.quantize.calibration import METHODS, CalibrationImages, Histogram, collect, ranges_by, split_images
from effnets.deploy.quantize.cross_layer_equalization import equalize
from effnets.deploy.quantize.qdq_graph import bias_errors, layers_of, quantize_graph
from effnets.deploy.quantize.quantize import QuantSearch, logits_of
from effnets.engines.base import load_onnx
from effnets.engines.metadata import ModelMetadata
from effnets.evaluation.labels import match_classes
from effnets.inference.labels import imagenet1k
from effnets.spec.specs import PreprocessSpec
from tests.support.small_graphs import small_graph
from tests.support.tiny_network import REXNET_TABLE, tiny

PREPROCESS = PreprocessSpec(input_size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
DESCRIPTION = ModelMetadata(model="small", family="none", labels=("a", "b", "c"), preprocess=PREPROCESS, size=(16, 16))


def photos(count: int = 24, seed: int = 0) -> CalibrationImages:
    return CalibrationImages(
        paths=tuple(map(str, range(count))),
        pixels=probe_images(count, 16, 16, 3, seed=seed),
        labels=np.full(count, -1),
        preprocess=PREPROCESS,
    )


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("seed", range(12))
def test_equalization_computes_the_same_for_every_image(seed):
    model = small_graph(seed, spread=1.5)
    equalized, channels = equalize(model, (-1, 1))
    assert channels > 12
    extremes = np.random.default_rng(seed).choice([-1.0, 1.0], (16, 3, 16, 16)).astype(np.float32)
    batches = [*photos(seed=seed).batches(), extremes]
    expected = logits_of(model, batches)
    assert relative(logits_of(equalized, batches), expected) < 2e-5
    assert model == small_graph(seed, spread=1.5), "the argument was changed"


def test_equalization_that_forgot_the_clip_would_be_seen(monkeypatch):
    monkeypatch.setattr(equalize_module, "_clip_of", lambda *_: (0.0, np.inf))
    model = small_graph(0, spread=1.5)
    batches = list(photos().batches())
    assert relative(logits_of(equalize(model, (-1, 1))[0], batches), logits_of(model, batches)) > 1e-3


def test_bias_correction_reduces_the_mean_error():
    model, images = small_graph(3), photos(64)
    ranges = ranges_by("minmax", collect(model, images.batches))
    expected = logits_of(model, images.batches())

    def mean_error(biases):
        found = logits_of(quantize_graph(model, ranges, biases=biases), images.batches())
        return np.abs((found - expected).mean(0)).mean()

    biases = bias_errors(model, ranges, images.batches())
    assert set(biases) == {node.name for node in model.graph.node if node.op_type == "Conv"}
    assert mean_error(biases) < 0.7 * mean_error({})


def test_engines_agree_about_partial_shortcuts(tmp_path):
    path = tmp_path / "model.onnx"
    effnets.export_onnx(tiny(tmp_path, table=REXNET_TABLE), path, image_size=32, engines=["onnxruntime"])
    resized = dataclasses.replace(photos(), pixels=probe_images(24, 32, 32, 3, seed=0))
    built = QuantSearch(onnx.load(path), resized).build([])
    assert "Pad" in {node.op_type for node in built.graph.node}
    description = ModelMetadata.from_file(path)
    images = np.concatenate(list(resized.batches()))
    one, other = (
        load_onnx(built.SerializeToString(), description, name)(images) for name in ("onnxruntime", "openvino")
    )
    assert np.abs(one - other).mean() < 0.1 * one.std()


def test_a_layer_left_in_float_has_float_weights():
    model, images = small_graph(), photos()
    ranges = ranges_by("minmax", collect(model, images.batches))
    everything = quantize_graph(model, ranges)
    partly = quantize_graph(model, ranges, float_layers=["expand"])
    names = {tensor.name for tensor in partly.graph.initializer}
    assert "expand.w" in names
    assert "expand.w" not in {tensor.name for tensor in everything.graph.initializer}
    assert "logits" in {node.output[0] for node in everything.graph.node if node.op_type == "Gemm"}
    scales = {tensor.name: list(tensor.dims) for tensor in everything.graph.initializer}
    assert scales["depthwise.w_scale"] == [8], "depthwise weights have a scale for each channel"


def test_sensitivity_finds_the_sabotaged_layer(monkeypatch):
    def sabotaged(model, ranges, *, float_layers=(), biases=None):
        ranges = dict(ranges) if "narrow" in float_layers else {**ranges, "narrow": (-0.01, 0.01)}
        return quantize_graph(model, ranges, float_layers=float_layers, biases=biases)

    monkeypatch.setattr(quantize_module, "quantize_graph", sabotaged)
    search = QuantSearch(small_graph(spread=0.3), photos(), ["minmax"])
    assert search.layers == layers_of(small_graph())
    assert search.rank()[0] == "narrow"
    falls = list(search.sensitivity.values())
    assert falls == sorted(falls, reverse=True)
    assert falls[0] > 0.5 > falls[1]


def test_ranges():
    counts = np.ones(2048)
    counts[1024:] = 0
    counts[2047] = 1e-4
    histogram = Histogram(0.0, 8.0, counts)
    assert METHODS["minmax"](histogram) == (0.0, 8.0)
    for method in ("percentile 99.9", "percentile 99.99", "mse"):
        low, high = METHODS[method](histogram)
        assert low <= 0.01, method
        assert 3.9 < high < 4.5, method
    for method in METHODS:
        low, high = METHODS[method](Histogram(0.0, 0.0, np.eye(2048)[0]))
        assert low <= high, f"{method}: a value that is always 0"


def folder_of(folder, count, name="a", seed=0):
    (folder / name).mkdir(parents=True)
    for index, pixels in enumerate(probe_images(count, 20, 24, 3, seed=seed)):
        Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


def split(folder, **changes):
    options = {"calibration_images": 8, "held_out_images": 100, "min_held_out": 6, "seed": 0, **changes}
    return split_images(folder, DESCRIPTION, **options)


def test_held_out_photographs_do_not_calibrate(tmp_path):
    folder_of(tmp_path, 20)
    shutil.copytree(tmp_path / "a", tmp_path / "b")  # other names, the same content
    (tmp_path / "b" / "broken.jpg").write_bytes(b"no picture")
    found = split(tmp_path)
    assert (len(found.calibration), len(found.held_out), found.duplicates) == (8, 12, 20)
    assert [str(tmp_path / "b" / "broken.jpg") in text for text in found.broken] == [True]
    assert not set(found.calibration.paths) & set(found.held_out.paths)
    content = [
        {photos.pixels[index].tobytes() for index in range(len(photos))}
        for photos in (found.calibration, found.held_out)
    ]
    assert not content[0] & content[1]
    assert split(tmp_path).calibration.paths == found.calibration.paths
    assert split(tmp_path, seed=1).calibration.paths != found.calibration.paths


def test_labels_are_the_folders_that_are_classes(tmp_path):
    for index, name in enumerate(("a", "c", "elsewhere")):
        folder_of(tmp_path, 6, name, seed=index)
    found = split(tmp_path)
    names = {"a": 0, "c": 2, "elsewhere": -1}
    for part in (found.calibration, found.held_out):
        assert part.labels.tolist() == [names[path.split("/")[-2]] for path in part.paths]


@pytest.mark.parametrize(
    ("labels", "folders", "outputs"),
    [
        (imagenet1k(), ("n01440764", "n01443537", "n00000000"), (0, 1, -1)),
        (("background", *imagenet1k()), ("n01440764", "n01443537"), (1, 2)),
        (imagenet1k(), ("tench, Tinca tinca", "goldfish, Carassius auratus"), (0, 1)),
        (imagenet1k(), ("tench", "crane", "goldfish"), (0, -1, 1)),
        (("red", "green"), ("1", "0"), (1, 0)),
        (("red", "green", "blue"), ("1", "0"), (-1, -1)),
    ],
)
def test_labels_are_spelled_as_for_an_evaluation(labels, folders, outputs, tmp_path):
    for index, name in enumerate(folders):
        folder_of(tmp_path, 6, name, seed=index)
    description = dataclasses.replace(DESCRIPTION, labels=labels)
    found = split_images(tmp_path, description, calibration_images=4, held_out_images=100, min_held_out=6, seed=0)
    wanted = dict(zip(folders, outputs, strict=True))
    for part in (found.calibration, found.held_out):
        assert part.labels.tolist() == [wanted[path.split("/")[-2]] for path in part.paths]
    unknown = tuple(sorted(name for name, output in wanted.items() if output < 0))
    assert found.unknown_folders == unknown
    if not unknown:
        assert match_classes(folders, labels)[0].tolist() == list(outputs)


def test_pixels_are_those_of_a_prediction(tmp_path):
    found = split(folder_of(tmp_path, 12))
    images = np.concatenate(list(found.held_out.batches()))
    for path, image in zip(found.held_out.paths, images, strict=True):
        loaded = effnets.inference.image.load_image(path)
        assert np.array_equal(image, effnets.inference.image.image_to_array(loaded, PREPROCESS))


def test_too_few_photographs(tmp_path):
    folder_of(tmp_path, 5)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(effnets.ArgumentError, match=r"5 different photographs \(1 could not be read.*give at least 12"):
        split(tmp_path)
    with pytest.raises(effnets.MissingFileError, match="no such folder"):
        split(tmp_path / "nowhere")


def test_agreement_counts():
    expected = np.array([[9, 0, 0, 0, 0, 0], [0, 9, 0, 0, 0, 0], [0, 0, 1, 0.9, 0, 0]], np.float32)
    found = np.array([[9, 0, 0, 0, 0, 0], [-9, -8, 1, 2, 3, 4], [0, 0, 1, 1.1, 0, 0]], np.float32)
    result = compare(expected, found, np.array([0, 1, -1]), 0.3)
    assert (result.images, result.clear, result.labelled) == (3, 2, 2)
    assert (result.agreement, result.overall, result.in_top5) == (0.5, 1 / 3, 1.0)
    assert (result.top1_float, result.top1, result.loss) == (100, 50, 50)
    failures = result.failures(Gate(min_clear=1))
    assert len(failures) == 1, "one picture lost of two may be chance"
    assert "agrees on 50.00%" in failures[0]
    assert "clear first class on 2 of 3" in result.failures(Gate(min_agreement=0, max_loss=100))[0]
    broken = compare(expected, np.full_like(expected, np.nan), np.array([0, 1, -1]), 0.3)
    assert (broken.agreement, broken.in_top5, broken.top1) == (0, 0, 0)
    assert dataclasses.replace(result, agreement=1.0, top1=100.0).failures(Gate(min_clear=2)) == []


@pytest.mark.parametrize(
    ("images", "lost", "gained", "p", "verdict"),
    [
        (132, 0, 0, 1.0, "no loss above 1.0 points"),
        (132, 2, 0, 1 / 4, "a loss above 1.0 points that may be chance, p = 0.25"),
        (132, 5, 0, 1 / 32, "a loss above 1.0 points beyond chance, p = 0.031"),
        (132, 5, 3, 93 / 256, "a loss above 1.0 points that may be chance, p = 0.36"),
        (132, 0, 9, 1.0, "no loss above 1.0 points"),
        (500, 5, 0, 1 / 32, "no loss above 1.0 points"),
        (299, 6, 1, 1 / 16, "a loss above 1.0 points that may be chance, p = 0.062"),
        (300, 6, 1, 1 / 16, "a loss above 1.0 points"),
        (500, 6, 0, 1 / 64, "a loss above 1.0 points"),
        (500, 26, 20, 0.23, "a loss above 1.0 points"),
    ],
)
def test_accuracy_is_lost_if_chance_does_not_explain_it(images, lost, gained, p, verdict):
    changed = lost + gained
    labels = np.zeros(images, np.int64)
    expected = np.eye(6, dtype=np.float32)[[0] * lost + [1] * gained + [0] * (images - changed)]
    found = np.eye(6, dtype=np.float32)[[1] * lost + [0] * gained + [0] * (images - changed)]
    result = compare(expected, found, labels, 0.0)
    assert (result.lost, result.gained) == (lost, gained)
    assert result.chance == pytest.approx(p, rel=0.02)
    assert result.accuracy_verdict(Gate()) == f"{lost} lost, {gained} gained: {verdict}"
    failures = result.failures(Gate(min_agreement=0, min_in_top5=0))
    refused = verdict.startswith("a loss") and "may be chance" not in verdict
    assert ["accuracy falls" in text for text in failures] == [True] * refused


def test_without_labels_accuracy_is_not_measured():
    logits = np.eye(6, dtype=np.float32)
    result = compare(logits, logits[::-1], np.full(6, -1), 0.0)
    assert (result.lost, result.gained, result.chance) == (0, 0, 1)
    said = result.to_dict(Gate())
    assert (said["chance"], said["accuracy_verdict"]) == (None, "accuracy not measured: no image has a known label")
