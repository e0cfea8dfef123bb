from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch

from effnets.data import DataConfig, open_data
from effnets.data.augmentation import Augmentation
from effnets.data.dataset import CachedDataset, cache_all
from effnets.data.loader import EpochLoader
from effnets.data.transforms import TrainTransform
from effnets.errors import ArgumentError, DataError
from effnets.inference.transform import Transform
from effnets.spec.specs import PreprocessSpec
from tests.support.data_sets import by_class, picture, truncated, write

PREPROCESS = PreprocessSpec(input_size=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
BUSY = Augmentation(
    brightness=0.4, hue=0.1, policy="randaugment", random_erasing=0.5, rotation=10, grayscale=0.2, mixup=0.2, cutmix=1.0
)


@pytest.fixture
def source(tmp_path):
    return open_data(DataConfig(write(tmp_path, by_class(10, ("bird", "cat", "dog"))), val_share=0)).train


def loader(source, augmentation=BUSY, **arguments):
    settings = {"batch_size": 4, "seed": 3} | arguments
    return EpochLoader(source, TrainTransform(PREPROCESS, 8, augmentation), **settings)


def same(first, second):
    return len(first) == len(second) and all(
        a.number == b.number
        and torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.indices, b.indices)
        and (a.targets is None) == (b.targets is None)
        and (a.targets is None or torch.equal(a.targets, b.targets))
        for a, b in zip(first, second, strict=True)
    )


def test_workers_change_nothing(source):
    alone = loader(source)
    helped = loader(source, workers=2)
    for epoch in (0, 1):  # the workers stay for the second epoch
        assert same(list(alone.batches(epoch)), list(helped.batches(epoch)))


def test_any_position_is_a_beginning(source):
    whole = list(loader(source).batches(2))
    assert [batch.number for batch in whole] == list(range(7))
    for start in range(8):
        assert same(list(loader(source).batches(2, start)), whole[start:])


def test_processes_share_an_epoch(source):
    whole = list(loader(source).batches(1))
    for world in (2, 3):
        parts = [list(loader(source, rank=rank, world_size=world).batches(1)) for rank in range(world)]
        for rank, part in enumerate(parts):
            assert same(part, whole[rank::world])
        resumed = list(loader(source, rank=1, world_size=world).batches(1, start=3))
        assert same(resumed, [batch for batch in whole[3:] if batch.number % world == 1])


def test_a_dropped_epoch_disturbs_no_other(source):
    for workers in (0, 2):
        dropped = loader(source, workers=workers)
        next(dropped.batches(0))
        assert same(list(dropped.batches(1)), list(loader(source).batches(1)))


def test_nobody_elses_randomness_is_touched(source):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(loader(source).batches(0))
    assert torch.equal(torch.get_rng_state(), before)
    first = list(loader(source).batches(0))
    torch.manual_seed(6)
    assert same(list(loader(source).batches(0)), first)


def test_epochs_and_seeds_differ(source):
    plain = Augmentation()
    first, second = (next(loader(source, plain).batches(epoch)) for epoch in (0, 1))
    other = next(loader(source, plain, seed=4).batches(0))
    assert not torch.equal(first.images, second.images)
    assert not torch.equal(first.images, other.images)
    # The same picture comes out otherwise in another epoch.
    shown = {epoch: next(loader(source, plain, order="sequential").batches(epoch)).images for epoch in (0, 1)}
    assert not torch.equal(shown[0], shown[1])


def test_every_image_once(source):
    batches = list(loader(source, drop_last=False).batches(0))
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(30))
    assert [len(batch.images) for batch in batches] == [4] * 7 + [2]
    for batch in batches:
        assert batch.labels.tolist() == source.labels[batch.indices].tolist()
        assert batch.images.dtype == torch.float32
        assert torch.allclose(batch.targets.sum(dim=1), torch.ones(len(batch.targets)))


def test_two_passes_show_every_image_twice_and_otherwise(source):
    twice = loader(source, passes=2, drop_last=False)
    whole = list(twice.batches(1))
    indices = torch.cat([batch.indices for batch in whole])
    assert sorted(indices.tolist()) == sorted(2 * list(range(30)))
    assert sorted(indices[:30].tolist()) == list(range(30))  # the first pass comes first
    images = torch.cat([batch.images for batch in whole])
    places = (indices == 7).nonzero().flatten()
    assert not torch.equal(images[places[0]], images[places[1]])
    assert same(list(twice.batches(1, 5)), whole[5:])
    assert same(list(loader(source, passes=2, drop_last=False, workers=2).batches(1)), whole)
    assert len(loader(source, passes=2)) == 15


def test_steps_of_accumulation_are_whole(source):
    assert len(loader(source)) == 7
    assert len(loader(source, multiple=4)) == 4
    with pytest.raises(ArgumentError, match="batch_size is 16, but 30 images are too few for 2 full batches"):
        loader(source, batch_size=16, multiple=2)


def test_balanced_classes(tmp_path):
    write(tmp_path, by_class(20, ("many",)) | by_class(2, ("few",), seed=5000))
    source = open_data(DataConfig(tmp_path, val_share=0)).train
    batches = list(loader(source, Augmentation(), order="balanced", batch_size=2).batches(0))
    labels = torch.cat([batch.labels for batch in batches])
    assert torch.bincount(labels).tolist() == [11, 11]
    few = [
        (int(index), image)
        for b in batches
        for index, label, image in zip(b.indices, b.labels, b.images, strict=True)
        if source.class_names[label] == "few"
    ]
    again = [image for index, image in few if index == few[0][0]]
    assert len(again) >= 5
    assert not torch.equal(again[0], again[1])  # an image that comes again comes otherwise


def test_the_evaluation_transform(source):
    transform = Transform(preprocess=PREPROCESS, size=8)
    evaluation = EpochLoader(source, transform, batch_size=8, order="sequential", drop_last=False)
    images = torch.cat([batch.images for batch in evaluation.batches(0)])
    assert len(images) == 30
    assert torch.equal(images[11], transform(source.image(11)))
    assert next(evaluation.batches(0)).targets is None


def test_normalisation_is_that_of_the_weights(source):
    (batch, *_) = loader(source, Augmentation.none(), order="sequential", channels_last=True).batches(0)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    preprocess = PreprocessSpec(input_size=8, mean=PREPROCESS.mean, std=PREPROCESS.std, crop_pct=1.0)
    expected = Transform(preprocess=preprocess, size=8)(source.image(2))
    assert torch.allclose(batch.images[2], expected, atol=1e-5)


def test_images_corrupt_on_the_way(tmp_path):
    write(tmp_path, by_class(10) | {"cat/cut.jpg": truncated(picture(1))})
    source = open_data(DataConfig(tmp_path, val_share=0, check="none")).train
    cut = next(index for index in range(21) if "cut" in source.name(index))
    for workers in (0, 1):
        tolerant = loader(source, batch_size=7, workers=workers)
        with pytest.warns(UserWarning, match=r"left out of its batch: .*cut\.jpg cannot be read"):
            batches = list(tolerant.batches(0))
        assert sorted(len(batch.images) for batch in batches) == [6, 7, 7]
        assert cut not in torch.cat([batch.indices for batch in batches])
        assert tolerant.corrupt.messages.keys() == {cut}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            list(tolerant.batches(1))  # told once
        with (
            pytest.warns(UserWarning, match="cut"),
            pytest.raises(DataError, match="1 of 21 images cannot be read, and 0"),
        ):
            list(loader(source, batch_size=7, workers=workers, corrupt_limit=0).batches(0))
        with (
            pytest.warns(UserWarning, match="cut"),
            pytest.raises(DataError, match=r"no image of a batch can be read; .*raise batch_size:\n.*cut\.jpg"),
        ):
            list(loader(source, batch_size=1, workers=workers).batches(0))


def test_kept_images_are_the_same(source):
    plain = CachedDataset(source, 12, 0)
    partly = CachedDataset(source, 12, 2000)
    wholly = CachedDataset(source, 12)
    assert (plain.kept, partly.kept, wholly.kept) == (0, 4, 30)
    expected = list(loader(plain).batches(0)) + list(loader(plain).batches(1))
    for kept in (partly, wholly):
        for workers in (0, 2):
            helped = loader(kept, workers=workers)
            assert same(list(helped.batches(0)) + list(helped.batches(1)), expected)
    assert wholly._filled.sum() >= 28  # the last two of an epoch fill no batch
    assert wholly.image(0).size == (12, 12)
    assert CachedDataset(source, 100).image(3).tobytes() == source.image(3).tobytes()


def test_all_are_kept_or_none(source):
    looked_at = []

    class Watched(CachedDataset):
        def lazy_image(self, index):
            looked_at.append(index)
            return super().lazy_image(index)

    watched = Watched(source, 16, 0)
    looked_at.clear()
    assert cache_all(watched, 12, 3 * 12 * 12 * 30).kept == 30
    assert looked_at == list(range(30))
    looked_at.clear()
    assert cache_all(watched, 12, 3 * 12 * 12 * 4) is None
    assert looked_at == [0, 1, 2, 3, 4]  # no more than it takes to know


def test_a_copy_of_a_cache_begins_empty_and_gives_the_same(source):
    kept = cache_all(source, 12)
    expected = kept.image(3).tobytes()
    copy = pickle.loads(pickle.dumps(kept))
    assert (copy.kept, copy._filled.sum()) == (30, 0)
    assert copy.image(3).tobytes() == expected


def test_a_corrupt_image_that_would_be_kept(tmp_path):
    write(tmp_path, by_class(3) | {"cat/text.jpg": b"no picture"})
    source = CachedDataset(open_data(DataConfig(tmp_path, val_share=0, check="none")).train, 12)
    with pytest.warns(UserWarning, match="text"):
        batches = list(loader(source, batch_size=7).batches(0))
    assert np.array_equal(np.sort(batches[0].indices), [0, 1, 2, 4, 5, 6]) or len(batches[0].indices) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"rank": 2, "world_size": 2}, "rank is 2 of 2 processes"),
        ({"workers": -1}, "workers is -1"),
    ],
)
def test_arguments(source, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        loader(source, **arguments)


STOPPED = """
import multiprocessing
import signal
import sys

from effnets.data import DataConfig, open_data
from effnets.data.augmentation import Augmentation
from effnets.data.loader import EpochLoader
from effnets.data.transforms import TrainTransform
from effnets.spec.specs import PreprocessSpec

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[2])
    source = open_data(DataConfig(sys.argv[1], val_share=0)).train
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    loader = EpochLoader(
        source, TrainTransform(PreprocessSpec(input_size=8), 8, Augmentation()), batch_size=2, workers=2
    )
    batches = loader.batches(0)
    next(batches)
    print("began", flush=True)
    sys.stdin.readline()
    print(len(list(batches)))
    loader.close()
"""


@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
def test_workers_outlive_a_signal_to_the_process_group(tmp_path, start_method):
    """As a service manager, timeout and Ctrl-C send it. A fork server would end, and its workers after it."""
    write(tmp_path / "data", by_class(10, ("bird", "cat", "dog")))
    (tmp_path / "program.py").write_text(STOPPED)
    command = [sys.executable, tmp_path / "program.py", tmp_path / "data", start_method]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout.readline() == "began\n"
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(1)
        rest, _ = process.communicate("go on\n", timeout=120)
    assert process.returncode == 0
    assert rest == "14\n"
