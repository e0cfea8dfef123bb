"""Trainings of embeddings: the head travels, batches are of some classes, a resumed run ends with the same bits."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

import effnets
from effnets.cli import main
from effnets.data.augmentation import Augmentation
from effnets.embeddings.metric_learning import make_criterion
from effnets.embeddings.retrieval import retrieve
from effnets.engines.metadata import ModelMetadata
from effnets.train.checkpoint import load_state
from effnets.train.task import task_of
from effnets.train.task_settings import EmbeddingSettings
from tests.support.drawn_classes import draw_data, write_table
from tests.support.interrupting import Interrupting

LOSSES = ("triplet", "arcface", "multi_similarity")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of discs and frames to learn from, and of stripes too in test/."""
    folder = tmp_path_factory.mktemp("embedded")
    draw_data(folder / "data", train=24, val=8, test=8)
    for split in ("train", "val"):
        (folder / "data" / split / "stripes").rename(folder / f"stripes-{split}")
    return folder


@pytest.fixture(scope="module")
def recipe(folder):
    return effnets.Recipe(
        model=str(write_table(folder)),
        task="embed",
        weights="random",
        epochs=6,
        batch_size=16,
        learning_rate=5e-3,
        layer_decay=1.0,
        workers=0,
        precision="float32",
        augmentation=Augmentation(scale=(0.8, 1.0)),
        embedding=EmbeddingSettings(size=12),
    )


@pytest.fixture(scope="module")
def trained(folder, recipe):
    return effnets.finetune(recipe, folder / "data", folder / "run")


def photos(folder, split="test"):
    return sorted((folder / "data" / split).glob("*/*.png"))


def test_the_metrics_are_those_of_the_vectors(folder, trained):
    metrics, paths = trained.metrics, photos(folder)
    vectors = effnets.embed(trained.load(), paths)
    assert vectors.shape == (24, 12)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    found = retrieve(vectors, np.unique([path.parent.name for path in paths], return_inverse=True)[1])
    assert metrics["retrieval"]["test"]["recall_at_1"] == pytest.approx(100 * found.recall[1])
    assert metrics["test_top1"] == metrics["retrieval"]["test"]["recall_at_1"]
    assert metrics["best_loss"] == pytest.approx(1 - metrics["retrieval"]["val"]["map_at_r"] / 100, abs=1e-4)
    assert metrics["verification"]["test"]["threshold_fitted_on"] == "val"
    assert metrics["verification"]["test"]["threshold"] == metrics["verification"]["val"]["threshold"]
    assert metrics["classes"] == ["disc", "frame", "stripes"]
    page = (trained.folder / "report.html").read_text()
    assert "recall@1" in page
    assert "searched for" in page


def test_training_brings_images_of_a_class_together(folder, recipe, trained):
    torch.manual_seed(0)
    paths = photos(folder, "val")
    labels = np.unique([path.parent.name for path in paths], return_inverse=True)[1]
    before = retrieve(effnets.embed(effnets.create_model(recipe.model), paths), labels)
    after = retrieve(effnets.embed(trained.load(), paths), labels)
    assert after.map_at_r > before.map_at_r + 0.1
    assert after.recall[1] >= 0.8


def test_the_folder_says_that_outputs_are_an_embedding(trained):
    config = json.loads((trained.folder / "config.json").read_text())
    assert (config["classifier_activation"], config["num_classes"]) == ("l2", 12)
    assert "label_names" not in config
    model = trained.load()
    assert model.classifier_activation == "l2"
    other = effnets.create_model(trained.folder, pretrained=True, num_classes=0)
    assert other.classifier_activation == "softmax"  # asked for the features below
    assert effnets.embed(other, np.zeros((32, 32, 3), np.uint8)).shape == (1, 24)


def test_predictions_of_an_embedding_are_refused(folder, trained, tmp_path):
    model, photo = trained.load(), photos(folder)[0]
    pooled = trained.load()
    pooled.reset_classifier(0)
    pooled.classifier_activation = "l2"  # as of embedding.size: null
    with pytest.raises(effnets.ArgumentError, match="tiny was trained to embed and predicts no classes"):
        effnets.predict(pooled, photo)
    with pytest.raises(
        effnets.ArgumentError, match=r"tiny was trained to embed and predicts no classes; compare its vec"
    ):
        effnets.predict(model, photo)
    found = CliRunner().invoke(main, ["predict", str(photo), "--weights", str(trained.folder)])
    assert found.exit_code == 1
    assert "was trained to embed" in found.output
    with pytest.raises(effnets.ArgumentError, match="trained to embed"):
        effnets.evaluate(model, folder / "data")
    with pytest.raises(
        effnets.ArgumentError, match="embeddings, which have no probabilities; leave softmax and topk out"
    ):
        effnets.export_onnx(model, tmp_path / "m.onnx", topk=2)


@pytest.mark.parametrize("size", [12, None])
def test_exported_files_have_the_trained_embedding(folder, trained, tmp_path, size):
    model = trained.load()
    if size is None:
        model.reset_classifier(0)
        model.classifier_activation = "l2"
    expected = effnets.embed(model, photos(folder))
    effnets.export_onnx(model, tmp_path / "m.onnx", embedding=True)
    metadata = ModelMetadata.from_file(tmp_path / "m.onnx")
    assert (metadata.classifier_activation, metadata.embedding) == ("l2", size or 24)
    engine = effnets.load_engine(tmp_path / "m.onnx", "onnxruntime")
    np.testing.assert_allclose(effnets.embed(engine, photos(folder)), expected, atol=1e-5)
    outputs = engine.run(np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32))
    np.testing.assert_allclose(outputs["embedding"], F.normalize(torch.from_numpy(outputs["logits"])), atol=1e-6)
    with pytest.raises(effnets.ArgumentError, match="trained to embed"):
        effnets.predict(engine, photos(folder)[0])
    effnets.export_onnx(model, tmp_path / "plain.onnx", engines=["onnxruntime"])
    plain = effnets.load_engine(tmp_path / "plain.onnx", "onnxruntime")
    np.testing.assert_allclose(effnets.embed(plain, photos(folder), normalize=False), expected, atol=1e-5)


def test_the_commands_take_the_trained_embedding(folder, trained, tmp_path):
    table = tmp_path / "vectors.npy"
    run = ["embed", str(folder / "data" / "test"), "--weights", str(trained.folder), "--output", str(table)]
    found = CliRunner().invoke(main, run)
    assert found.exit_code == 0, found.output
    np.testing.assert_allclose(np.load(table), effnets.embed(trained.load(), photos(folder)), atol=1e-6)
    photo = photos(folder)[0]
    found = CliRunner().invoke(main, ["similar", str(table), str(photo), "-k", "3", "--json"])
    assert found.exit_code == 0, found.output
    assert len(json.loads(found.stdout)[0]["similar"]) == 3


@pytest.mark.parametrize("loss", LOSSES)
def test_a_resumed_run_ends_with_the_same_bits(folder, recipe, tmp_path, loss):
    settings = EmbeddingSettings(size=None if loss == "triplet" else 12, loss=loss)
    short = replace(recipe, embedding=settings, epochs=3, epoch_repeats=1, clip_grad=1.0)
    undisturbed = effnets.finetune(short, folder / "data", tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        effnets.finetune(short, folder / "data", tmp_path / "run", callbacks=[Interrupting()])
    resumed = effnets.finetune(short, folder / "data", tmp_path / "run", resume=True)
    states = [load_state(run.folder / "last") for run in (undisturbed, resumed)]
    parts = ["network", "average", *(["criterion"] if loss == "arcface" else [])]
    for part in parts:
        assert all(torch.equal(value, states[1][part][name]) for name, value in states[0][part].items()), part
    assert ("criterion" in states[0]) == (loss == "arcface")
    assert resumed.metrics["retrieval"] == undisturbed.metrics["retrieval"]


def test_arcface_learns_its_weights(folder, recipe, tmp_path):
    short = replace(recipe, embedding=EmbeddingSettings(size=12, loss="arcface"), epochs=2)
    run = effnets.finetune(short, folder / "data", tmp_path / "run")
    torch.manual_seed(0)
    weights = load_state(run.folder / "last")["criterion"]["W"]
    assert weights.shape == (12, 2)
    assert "W" not in {name.rpartition(".")[2] for name in run.load().state_dict()}
    model = task_of("embed").build_model(short, ())[0]
    fresh = make_criterion(short.embedding, model.num_outputs, 2)
    assert not torch.allclose(fresh.W, weights, atol=1e-4)


def test_criteria_are_those_of_the_papers():
    embeddings = F.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.3], [0.8, 0.7], [0.0, 1.0]]))
    labels = torch.tensor([0, 0, 1, 1])
    found = make_criterion(EmbeddingSettings(loss="triplet", margin=0.5), 2, 2)(embeddings, labels)
    distances = (embeddings[:, None] - embeddings).square().sum(2)
    losses = []
    for anchor, positive in ((0, 1), (1, 0), (2, 3), (3, 2)):
        for negative in (2, 3) if anchor < 2 else (0, 1):
            gap = distances[anchor, negative] - distances[anchor, positive]
            if 0 < gap <= 0.5:
                losses.append(0.5 - gap)
    assert losses
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)
    arcface = make_criterion(EmbeddingSettings(loss="arcface", margin=0.3, scale=8.0), 2, 2)
    cosines = embeddings @ F.normalize(arcface.W, dim=0)
    angles = cosines.clamp(-1, 1).acos()
    targets = F.one_hot(labels).bool()
    expected = F.cross_entropy(8 * torch.where(targets, (angles + 0.3).cos(), cosines), labels)
    if (angles[targets] + 0.3 < np.pi).all():
        assert arcface(embeddings, labels).item() == pytest.approx(expected.item(), rel=1e-3)


def test_a_teachers_embedding_is_learned_without_labels(folder, trained, recipe, tmp_path):
    taught = replace(recipe, teacher=str(trained.folder), distillation_type="embedding", teacher_share=1.0, epochs=8)
    run = effnets.finetune(taught, folder / "data", tmp_path / "run")
    losses = [row["train_loss"] for row in run.metrics["epochs"][1:]]
    assert losses[-1] < 0.5 * losses[0]
    cosines = (effnets.embed(run.load(), photos(folder)) * effnets.embed(trained.load(), photos(folder))).sum(1)
    assert cosines.mean() > 0.8
    assert "criterion" not in load_state(run.folder / "last")
    both = replace(taught, teacher_share=0.5, epochs=1)
    assert effnets.finetune(both, folder / "data", tmp_path / "both").metrics["finished"]
    small = replace(taught, embedding=EmbeddingSettings(size=8))
    with pytest.raises(
        effnets.TrainingError, match=r"embeddings of 12 numbers, and the student of 8; set embedding.size to"
    ):
        effnets.finetune(small, folder / "data", tmp_path / "small")


def test_a_class_with_one_image_is_refused(recipe, tmp_path):
    draw_data(tmp_path / "data", train=4, val=0, test=0)
    for path in sorted((tmp_path / "data" / "train" / "frame").iterdir())[1:]:
        path.unlink()
    with pytest.raises(
        effnets.TrainingError, match=r"1 class \(frame\) with a single image to train on, .*; add images"
    ):
        effnets.finetune(replace(recipe, val_share=0.0), tmp_path / "data", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_small_classes_are_validated_in_pairs(recipe, tmp_path):
    """Six pictures of each class: one of each would have nothing to be found by, and say nothing of any epoch."""
    draw_data(tmp_path / "data", train=6, val=0, test=0)
    run = effnets.finetune(replace(recipe, epochs=1, batch_size=8), tmp_path / "data", tmp_path / "run")
    assert run.metrics["images"] == {"train": 14, "val": 4, "test": 0}
    assert run.metrics["retrieval"]["val"]["images"] == 4
    assert run.metrics["best_top1"] == run.metrics["retrieval"]["val"]["recall_at_1"]


def test_images_without_others_of_their_class_cannot_be_measured(recipe, tmp_path):
    draw_data(tmp_path / "data", train=4, val=1, test=2)
    with pytest.raises(effnets.DataError, match=r"no class of val has two images, .*; add images, or remove val"):
        effnets.finetune(recipe, tmp_path / "data", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_without_effect_are_named(folder, recipe, tmp_path):
    run = effnets.finetune(replace(recipe, label_smoothing=0.2, epochs=1), folder / "data", tmp_path / "run")
    assert "without effect with task: embed: label_smoothing" in run.metrics["notes"]


def test_few_classes_make_small_batches(folder, recipe, tmp_path):
    run = effnets.finetune(replace(recipe, batch_size=32, epochs=1), folder / "data", tmp_path / "run")
    assert "batches have 8 images, 4 of each of the 2 classes" in run.metrics["notes"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 4}, "batch_size is 4, less than 2 classes of 4 images"),
        ({"batch_size": 18}, "batch_size is 18, no multiple of embedding.images_per_class, 4"),
        ({"balance": "weights"}, "balance is weights, and with task: embed batches have as many images of each class"),
        ({"teacher": "mobilenetv1_025"}, "distillation_type is logits, and with task: embed the teacher's embedding"),
        ({"augmentation": Augmentation(cutmix=1.0)}, "augmentation.mixup and cutmix are for task: classify"),
    ],
)
def test_settings_that_contradict_each_other(recipe, changes, message):
    with pytest.raises(effnets.ConfigError, match=message):
        replace(recipe, **changes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"margin": 0.2}, "margin is for loss: triplet or arcface"),
        ({"loss": "triplet", "scale": 30.0}, "scale is for loss: arcface, and this is loss: triplet"),
        ({"images_per_class": 1}, "images_per_class"),
    ],
)
def test_settings_of_embeddings(settings, message):
    with pytest.raises(effnets.ConfigError, match=message):
        EmbeddingSettings(**settings)
