"""Networks of labels and of embeddings in files for other engines, which say so; softmax is never applied."""

from __future__ import annotations

import numpy as np
import pytest

import effnets
from effnets.errors import ArgumentError
from tests.support.tiny_network import tiny

SUFFIXES = (".xml", ".tflite", ".pte")


@pytest.fixture
def labels(tmp_path):
    network = tiny(tmp_path)
    network.classifier_activation, network.thresholds = "sigmoid", tuple(0.05 * (1 + n) for n in range(12))
    network.class_names = tuple(f"label {n}" for n in range(12))
    return network


@pytest.fixture
def embedding(tmp_path):
    network = tiny(tmp_path)
    network.classifier_activation = "l2"
    return network


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_labels_keep_their_thresholds_and_have_sigmoids(labels, tmp_path, suffix):
    pytest.importorskip({".tflite": "litert_torch", ".pte": "executorch"}.get(suffix, "openvino"))
    effnets.export(labels, tmp_path / f"m{suffix}", image_size=64, softmax=True)
    engine = effnets.load_engine(tmp_path / f"m{suffix}")
    assert (engine.description.classifier_activation, engine.description.thresholds) == ("sigmoid", labels.thresholds)
    outputs = engine.run(np.random.default_rng(0).standard_normal((1, 3, 64, 64), np.float32))
    np.testing.assert_allclose(outputs["probabilities"], 1 / (1 + np.exp(-outputs["logits"])), atol=1e-5)
    photo = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    found, expected = (effnets.predict(model, photo, input_size=64)[0] for model in (engine, labels))
    assert [one.label for one in found] == [one.label for one in expected]
    assert all(one.probability >= labels.thresholds[one.index] for one in found)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_embeddings_have_length_1(embedding, tmp_path, suffix):
    pytest.importorskip({".tflite": "litert_torch", ".pte": "executorch"}.get(suffix, "openvino"))
    effnets.export(embedding, tmp_path / f"m{suffix}", image_size=64, embedding=True)
    engine = effnets.load_engine(tmp_path / f"m{suffix}")
    outputs = engine.run(np.random.default_rng(0).standard_normal((1, 3, 64, 64), np.float32))
    np.testing.assert_allclose(np.linalg.norm(outputs["embedding"], axis=1), 1, rtol=1e-5)
    photo = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    vectors = [effnets.embed(model, photo, input_size=64) for model in (engine, embedding)]
    np.testing.assert_allclose(*vectors, atol=1e-4)


def test_core_ml_is_for_classes(labels, embedding, tmp_path):
    coreml = pytest.importorskip("effnets.deploy.export.coreml")
    for network in (labels, embedding):
        with pytest.raises(ArgumentError, match=r"a Core ML package is for networks that give an image one class"):
            coreml.export_coreml(network, tmp_path / "m.mlpackage")
