"""Batches of images with boxes are a function of seed and epoch, whatever prepares them."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from effnets.data.detection_augmentation import DetectionAugmentation
from effnets.detection.annotations import open_boxes
from effnets.detection.loader import BoxLoader
from effnets.detection.transforms import DetectionTransform
from effnets.errors import ArgumentError
from effnets.train.trainer import TrainLoader
from tests.support.boxed_sets import CLASSES, coco_content, coco_files, colored_box, scenes, voc_files
from tests.support.data_sets import write

PLAIN = DetectionAugmentation(distortion=0.0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_boxes(write(tmp_path_factory.mktemp("data"), voc_files({"train": scenes(10)})), val_share=0).train


def loader(dataset, *, fit="stretch", augmentation=None, **arguments):
    settings = {"batch_size": 4, "seed": 3} | arguments
    return BoxLoader(dataset, DetectionTransform(32, fit=fit, augmentation=augmentation), **settings)


def same(first, second):
    return len(first) == len(second) and all(
        a.number == b.number
        and torch.equal(a.indices, b.indices)
        and all(torch.equal(x, y) for x, y in zip(a.images, b.images, strict=True))
        and all(
            torch.equal(x[key], y[key])
            for x, y in zip(a.targets, b.targets, strict=True)
            for key in ("boxes", "labels")
        )
        for a, b in zip(first, second, strict=True)
    )


def test_workers_change_nothing(dataset):
    alone, helped = loader(dataset), loader(dataset, workers=2)
    try:
        for epoch in (0, 1):
            assert same(list(alone.batches(epoch)), list(helped.batches(epoch)))
    finally:
        helped.close()


def test_memory_changes_nothing(dataset):
    assert same(list(loader(dataset).batches(0)), list(loader(dataset, cache_bytes=0).batches(0)))


def test_any_position_is_a_beginning(dataset):
    whole = list(loader(dataset).batches(2))
    assert len(loader(dataset)) == len(whole) == 2
    for start in range(3):
        assert same(list(loader(dataset).batches(2, start)), whole[start:])


def test_epochs_and_seeds_differ(dataset):
    first = list(loader(dataset).batches(0))
    assert not same(first, list(loader(dataset).batches(1)))
    assert not same(first, list(loader(dataset, seed=4).batches(0)))
    torch.manual_seed(7)
    assert same(first, list(loader(dataset).batches(0)))


def test_processes_share_an_epoch(dataset):
    whole = list(loader(dataset, batch_size=2).batches(1))
    for rank in range(2):
        assert same(list(loader(dataset, batch_size=2, rank=rank, world_size=2).batches(1)), whole[rank::2])


@pytest.mark.parametrize("fit", ["stretch", "shorter"])
def test_what_a_detector_is_given(dataset, fit):
    batches = list(loader(dataset, fit=fit, augmentation=PLAIN, drop_last=False).batches(0))
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(10))
    for batch in batches:
        for image, target in zip(batch.images, batch.targets, strict=True):
            assert image.dtype == torch.float32
            assert 0 <= float(image.min()) <= float(image.max()) <= 1
            assert target["boxes"].shape == (len(target["labels"]), 4)
            pixels = (255 * image).permute(1, 2, 0).numpy()
            for box, label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
                found = colored_box(pixels, CLASSES[label - 1])
                assert np.abs(np.array(found) - box).max() <= 2.5


def test_large_images_are_shrunk_first_and_boxes_with_them(tmp_path):
    listed = scenes(4)
    for scene in listed:
        scene.size = (640, 480)
        scene.objects = [(name, *(10 * edge for edge in edges)) for name, *edges in scene.objects]
    large = open_boxes(write(tmp_path, voc_files({"train": listed})), val_share=0).train
    batch = next(loader(large, augmentation=DetectionAugmentation.none(), order="sequential").batches(0))
    expected = large.boxes(0) * np.array([32 / 640, 32 / 480] * 2)
    np.testing.assert_allclose(batch.targets[0]["boxes"].numpy(), expected, rtol=1e-5)
    assert large.cached(64).image(0).size == (86, 64)


def test_groups_are_not_trained_on(tmp_path):
    content = coco_content(scenes(4))
    content["annotations"][0]["iscrowd"] = 1
    files = coco_files({"train": scenes(4)})
    files["annotations/instances_train2017.json"] = json.dumps(content).encode()
    grouped = open_boxes(write(tmp_path, files), val_share=0).train
    batch = next(loader(grouped, augmentation=DetectionAugmentation.none(), order="sequential").batches(0))
    assert [target["labels"].tolist() for target in batch.targets] == [[2], [1], [], [1, 2]]


def test_a_corrupt_image_is_left_out_of_its_batch(tmp_path):
    listed = scenes(8)
    data = write(tmp_path, voc_files({"train": listed}))
    dataset = open_boxes(data, val_share=0, check="none").train
    (data / f"JPEGImages/{listed[3].name}.png").write_bytes(b"no image")
    batches = loader(dataset, order="sequential").batches(0)
    with pytest.warns(UserWarning, match=r"left out of its batch: .*scene003\.png"):
        first = next(batches)
    assert first.indices.tolist() == [0, 1, 2]


def test_a_loader_is_one_of_training(dataset):
    made = loader(dataset)
    assert made.batch_size == 4
    assert {name for name in dir(TrainLoader) if not name.startswith("_")} <= set(dir(made))
    assert pickle.loads(pickle.dumps(made.dataset)).digest() == dataset.digest()
    with pytest.raises(ArgumentError, match="batch_size is 40, but 10 images are too few"):
        loader(dataset, batch_size=40)
