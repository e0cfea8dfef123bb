"""Cached features: what they depend on, batches of them, and the probe that becomes a classifier."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

import effnets
from effnets.data import open_data
from effnets.data.augmentation import Augmentation
from effnets.data.loader import EpochLoader
from effnets.data.transforms import TrainTransform
from effnets.errors import TrainingInterruptedError
from effnets.evaluation.validate import ValidationLoader
from effnets.inference.transform import create_transform
from effnets.train.linear_probe import (
    FeatureLoader,
    Features,
    LinearProbe,
    compute_augmented_features,
    compute_features,
    features_key,
    fold_probe,
    probe_features,
    probe_trainer,
    read_features,
    write_features,
)
from effnets.train.loss import Loss
from effnets.train.recipe import Recipe
from effnets.train.trainer import TrainContext
from effnets.utils.shutdown import GracefulShutdown
from tests.support import shake
from tests.support.drawn_classes import draw_data, write_table

CPU = torch.device("cpu")


@pytest.fixture
def network(tmp_path):
    torch.manual_seed(0)
    return shake(effnets.create_model(write_table(tmp_path)), size=32)


@pytest.fixture
def loader(tmp_path, network):
    source = open_data(draw_data(tmp_path / "data")).train
    return ValidationLoader(source, create_transform(network), 5)


def test_images_are_the_same_in_every_pass(loader):
    first, second = list(loader), list(loader)
    assert [len(images) for images, _ in first] == [5, 5, 5, 5, 4]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, second, strict=True))
    alone = torch.stack([loader.transform(loader.dataset.image(index)) for index in range(24)])
    assert torch.equal(torch.cat([images for images, _ in first]), alone)
    assert torch.equal(torch.cat([labels for _, labels in first]), torch.from_numpy(loader.dataset.labels))
    chosen = ValidationLoader(loader.dataset, loader.transform, 2, [7, 3, 9])
    assert torch.equal(torch.cat([images for images, _ in chosen]), alone[[7, 3, 9]])


def test_images_that_turn_out_broken_are_left_out(loader):
    transform, names = loader.transform, [loader.dataset.name(index) for index in range(24)]
    whole = torch.cat([images for images, _ in loader])
    files = [Path(names[index]) for index in (7, 8, 9, 10)]
    for file in files[:3]:
        file.write_bytes(file.read_bytes()[:-60])
    one_by_one = ValidationLoader(loader.dataset, transform, 1)
    with pytest.warns(UserWarning, match=r"left out of its batch: .* cannot be read as an image"):
        first = list(one_by_one)
    assert list(one_by_one.corrupt.messages) == [7, 8, 9]
    assert str(files[0]) in one_by_one.corrupt.messages[7]
    readable = [index for index in range(24) if index not in (7, 8, 9)]
    for batches in (first, list(one_by_one)):
        assert torch.equal(torch.cat([images for images, _ in batches]), whole[readable])
        assert torch.cat([labels for _, labels in batches]).tolist() == loader.dataset.labels[readable].tolist()
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(effnets.DataError, match=r"1 of 24 images cannot be read, and 0 may be left out; fix"),
    ):
        list(ValidationLoader(loader.dataset, transform, 1, strict=True))
    files[3].write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(effnets.DataError, match=r"4 of 24 images cannot be read, and 3 may be left out; fix"),
    ):
        list(ValidationLoader(loader.dataset, transform, 5))
    with pytest.warns(UserWarning, match="left out"), pytest.raises(effnets.DataError, match="1 of 1 images cannot"):
        list(ValidationLoader(loader.dataset, transform, 5, [7]))


@pytest.mark.parametrize("standardized", [True, False])
def test_a_folded_probe_gives_the_probes_answers(network, loader, standardized):
    network.train()
    features = compute_features(network, loader, CPU, GracefulShutdown(), mirrored=True)
    assert network.training
    assert features.values.shape == (2, 24, 24)
    probe = LinearProbe(features, 3, standardized=standardized)
    torch.nn.init.normal_(probe.classifier.weight)
    torch.nn.init.normal_(probe.classifier.bias)
    with torch.no_grad():
        fold_probe(probe.state_dict(), network)
        network.eval()
        images = torch.cat([images for images, _ in loader])
        assert torch.allclose(network(images), probe(features.values[0]), atol=1e-4)
        assert torch.allclose(network(images.flip(3)), probe(features.values[1]), atol=1e-4)
    if standardized:
        seen = (features.values.flatten(0, 1) - probe.mean) / probe.deviation
        assert torch.allclose(seen.mean(0), torch.zeros(24), atol=1e-4)


def test_a_process_without_validation_images_takes_part(network, loader, tmp_path):
    recipe = Recipe(model="drawn", freeze="backbone", epochs=2, probe_views=1, workers=0)
    context = TrainContext(accelerator=Accelerator(cpu=True), shutdown=GracefulShutdown())
    none = ValidationLoader(loader.dataset, loader.transform, 5, [])
    features = probe_features(network, loader.dataset, recipe, context, tmp_path)
    trainer = probe_trainer(network, features, none, Loss(), recipe, context)
    trainer.fit()
    assert [row.epoch for row in trainer.progress.rows] == [0, 1, 2]


def test_augmented_features_are_a_view_for_each_epoch(network, loader):
    preprocess = network.spec.preprocess
    transform = TrainTransform(preprocess, 32, Augmentation())
    epochs = EpochLoader(loader.dataset, transform, batch_size=5, order="sequential", drop_last=False)
    network.train()
    features = compute_augmented_features(network, epochs, 2, GracefulShutdown())
    assert network.training
    assert features.values.shape == (2, 24, 24)
    assert not torch.equal(features.values[0], features.values[1])
    assert features.labels.tolist() == loader.dataset.labels.tolist()
    again = compute_augmented_features(network, epochs, 1, GracefulShutdown())
    assert torch.equal(again.values[0], features.values[0])


def test_a_stop_request_takes_effect_after_the_batch(network, loader):
    seen = []

    def asked_to_end():
        for number, batch in enumerate(loader):
            seen.append(number)
            if number == 1:
                stop.received = signal.SIGTERM
            yield batch

    stop = GracefulShutdown()
    network.train()
    with pytest.raises(TrainingInterruptedError, match="interrupted while features were computed; continue with"):
        compute_features(network, asked_to_end(), CPU, stop, mirrored=False)
    assert seen == [0, 1]
    assert network.training


def test_constant_features_do_not_blow_up():
    probe = LinearProbe(Features(values=torch.ones(1, 4, 3), labels=torch.zeros(4)), 2, standardized=True)
    assert probe(torch.ones(4, 3)).isfinite().all()


def test_kept_features_are_those_of_the_same_network_and_images(network, loader, tmp_path):
    path = tmp_path / "kept" / "features.safetensors"
    key = features_key(network, loader.dataset, "mirrored")
    features = compute_features(network, loader, CPU, GracefulShutdown(), mirrored=True)
    assert read_features(path, key) is None
    write_features(path, key, features)
    found = read_features(path, key)
    assert torch.equal(found.values, features.values)
    assert torch.equal(found.labels, features.labels)
    assert read_features(path, features_key(network, loader.dataset, "plain")) is None
    network.reset_classifier(7)  # of no matter to what enters it
    assert features_key(network, loader.dataset, "mirrored") == key
    with torch.no_grad():
        network.stem.conv.weight[0, 0, 0, 0] += 1
    assert features_key(network, loader.dataset, "mirrored") != key
    path.write_bytes(b"damaged")
    assert read_features(path, key) is None


def test_batches_of_features_go_by_turns_to_processes():
    values = torch.arange(22.0).view(1, 22, 1).repeat(2, 1, 1)
    features = Features(values=values, labels=torch.arange(22) % 2)
    whole = list(FeatureLoader(features, every_view=False, batch_size=4, seed=1, multiple=2).batches(3))
    assert [batch.number for batch in whole] == [0, 1, 2, 3]
    assert len(torch.cat([batch.indices for batch in whole]).unique()) == 16
    assert all(torch.equal(batch.images[:, 0].long(), batch.indices) for batch in whole)
    for rank in (0, 1):
        part = FeatureLoader(features, every_view=False, batch_size=4, seed=1, multiple=2, rank=rank, world=2)
        mine = list(part.batches(3, start=2))
        assert [batch.number for batch in mine] == [2 + rank]
        assert torch.equal(mine[0].indices, whole[2 + rank].indices)
    assert not torch.equal(
        next(FeatureLoader(features, every_view=False, batch_size=4, seed=1).batches(4)).indices, whole[0].indices
    )
    small = FeatureLoader(features, every_view=False, batch_size=100, seed=1, multiple=2)
    assert (len(small), small.batch_size) == (2, 11)


@pytest.mark.parametrize("balanced", [False, True])
def test_an_epoch_of_a_probe_has_every_view_of_every_image(balanced):
    values = torch.arange(3 * 8.0).view(3, 8, 1)  # of view v and image p: 8 v + p
    features = Features(values=values, labels=torch.arange(8) // 4)
    batches = FeatureLoader(features, every_view=True, batch_size=4, seed=1, balanced=balanced)
    assert len(batches) == 6
    first, second = (list(batches.batches(epoch)) for epoch in (0, 1))
    seen = torch.cat([batch.images for batch in first]).flatten()
    assert sorted(seen.tolist()) == list(range(24))
    assert torch.equal(seen.long() % 8, torch.cat([batch.indices for batch in first]))
    assert not torch.equal(seen, torch.cat([batch.images for batch in second]).flatten())
