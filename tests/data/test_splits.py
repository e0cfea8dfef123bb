from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnets.data import DataConfig, open_data
from effnets.data.dataset import ImageDataset
from effnets.data.multilabel import rarest_labels
from effnets.data.splits import named, split_of, split_of_file, split_validation
from effnets.errors import ArgumentError
from tests.support.data_sets import by_class, write


class Labels(ImageDataset):
    """Labels without images."""

    def __init__(self, labels):
        self.labels = np.array(labels, np.int64)
        self.class_names = tuple(f"class {label}" for label in range(self.labels.max(initial=0) + 1))

    def name(self, index):
        return str(index)

    def read(self, index):
        raise AssertionError(f"dividing reads no picture, not even {index}")

    def sizes(self):
        raise AssertionError("dividing reads no picture")


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200), st.floats(0.01, 0.9), st.integers(0, 5))
def test_every_class_gives_its_share(labels, share, seed):
    source = Labels(labels)
    train, val, _ = split_validation(source, share, seed)
    taken = [] if val is None else [val.name(index) for index in range(len(val))]
    kept = [train.name(index) for index in range(len(train))]
    assert sorted(taken + kept, key=int) == [str(index) for index in range(len(labels))]
    for label in set(labels):
        whole, part = labels.count(label), 0 if val is None else int((val.labels == label).sum())
        assert part < whole
        assert part > 0 or whole == 1
        assert abs(part - whole * share) <= 1 or part in (1, whole - 1)


def test_the_draw_is_that_of_the_seed():
    source = Labels([0, 1] * 50)
    first, again, other = (split_validation(source, 0.2, seed)[1] for seed in (1, 1, 2))
    assert first.indices.tolist() == again.indices.tolist() != other.indices.tolist()
    assert len(first) == 20


def test_a_class_with_one_image_stays_in_train():
    train, val, notes = split_validation(Labels([0] * 10 + [1]), 0.5, 0)
    assert (train.labels == 1).sum() == 1
    assert (val.labels == 1).sum() == 0
    assert notes == ("1 class (class 1) with a single image: it stays in train, so nothing validates it",)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=200) | st.lists(st.integers(0, 60), min_size=50, max_size=200),
    st.floats(0.01, 0.9),
    st.integers(0, 5),
)
def test_images_to_compare_come_in_pairs(labels, share, seed):
    """Two of a class validate or none, and two are left to train on; large classes give their usual shares."""
    source = Labels(labels)
    train, val, notes = split_validation(source, share, seed, pairs=True)
    if val is None:
        assert sum(labels.count(label) >= 4 for label in set(labels)) < 2
        assert "fewer than two classes have four images" in notes[-1]
        return
    plain = split_validation(source, share, seed)[1]
    for label in set(labels):
        whole, part = labels.count(label), int((val.labels == label).sum())
        assert part == 0 or (part >= 2 and whole - part >= 2)
        if 2 <= (usual := int((plain.labels == label).sum())) <= whole - 2:
            assert part == usual
    assert len(set(val.labels.tolist())) >= 2
    assert len(train) + len(val) == len(labels)


def test_pairs_of_many_small_classes_are_the_share_of_all():
    train, val, _ = split_validation(Labels(np.repeat(np.arange(100), 5)), 0.1, 0, pairs=True)
    assert (len(train), len(val)) == (450, 50)
    assert set(np.bincount(val.labels).tolist()) <= {0, 2}


@given(st.integers(0, 50), st.integers(1, 5))
def test_every_label_keeps_an_image_to_train_on(seed, count):
    generator = np.random.default_rng(seed)
    targets = (generator.random((12, count)) < 0.3).astype(np.float32)
    targets[0] = 1
    source = Labels(rarest_labels(targets))
    source.class_names, source.targets = tuple("abcde"[:count]), targets
    train, _, _ = split_validation(source, 0.5, seed)
    assert (train.targets == 1).any(axis=0).all()


def test_labels_that_only_taken_images_have_stay():
    """The rarest label of each picture stays by itself; `c`, which is rarest of none, could be lost."""
    targets = np.array([[1, 0, 1], [0, 1, 1], [1, 0, 0], [0, 1, 0]], np.float32)
    for seed in range(20):
        source = Labels(rarest_labels(targets))
        source.class_names, source.targets = ("a", "b", "c"), targets
        train, val, _ = split_validation(source, 0.5, seed)
        assert (train.targets == 1).any(axis=0).all()
        assert len(train) + (0 if val is None else len(val)) == 4


def test_no_share():
    source = Labels([0, 1])
    assert split_validation(source, 0, 0) == (source, None, ())
    with pytest.raises(ArgumentError, match="val_share is 1"):
        split_validation(source, 1, 0)


def test_ten_thousand_classes():
    source = Labels(np.repeat(np.arange(10_000), 5))
    train, val, _ = split_validation(source, 0.2, 0)
    assert np.bincount(train.labels).tolist() == [4] * 10_000
    assert np.bincount(val.labels).tolist() == [1] * 10_000


def test_subsets_of_subsets():
    subset = Labels(range(10)).subset([5, 6, 7]).subset([2, 0])
    assert [subset.name(index) for index in range(2)] == ["7", "5"]
    assert subset.labels.tolist() == [7, 5]
    assert subset.origin.__class__ is Labels


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-5.parquet", "train"),
        ("validation.tar", "val"),
        ("Test_1.tar", "test"),
        ("imagenet1k-validation-00.tar", "val"),
        ("train-of-test.tar", "train"),
        ("set-train-of-test.tar", None),
        ("trains.tar", None),
        ("0.tar", None),
    ],
)
def test_the_split_in_the_name_of_a_file(name, split):
    assert split_of_file(name) == split


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", "train Training TRAIN train_images train-set trainset training_set seg_train images_train train2017"),
        ("val", "val Valid VALIDATION validation_set val_images dev devset eval evaluation valset val2017"),
        ("test", "test Testing test_images testset seg_test test_data Test-Set test1 test_2"),
        (None, "trains tester training_shoes validate protest latest train_mini devices 1test bullet_train"),
    ],
)
def test_what_a_split_is_called(split, names):
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), split)


def test_long_lists_are_cut():
    assert named("class", list("abcdefg")) == "7 classes (a, b, c, d, e, …)"
    assert named("file", ["a"]) == "1 file (a)"


@pytest.mark.parametrize(("test", "share", "taken"), [(0, None, 4), (3, None, 2), (3, 0.2, 8), (0, 0.2, 8)])
def test_less_is_taken_where_test_images_are_there(tmp_path, test, share, taken):
    files = by_class(20, folder="train/") | by_class(test, folder="test/", seed=100)
    splits = open_data(DataConfig(write(tmp_path / "data", files), check="none", val_share=share))
    assert (len(splits.train), len(splits.val)) == (40 - taken, taken)
