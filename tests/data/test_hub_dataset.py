from __future__ import annotations

import io

import pytest
from PIL import Image

from effnets.data import DataConfig, open_data
from effnets.errors import DataError
from tests.support.data_sets import by_class, picture, write

datasets = pytest.importorskip("datasets")


def saved(folder, splits):
    features = datasets.Features({"photo": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])})
    tables = {
        split: datasets.Dataset.from_dict(
            {
                "photo": [{"bytes": picture(seed + number), "path": None} for number in range(count)],
                "kind": [number % 2 for number in range(count)],
            },
            features=features,
        )
        for seed, (split, count) in enumerate(splits.items())
    }
    datasets.DatasetDict(tables).save_to_disk(folder)
    return f"hf-dataset:{folder}"


def test_a_saved_data_set(tmp_path):
    splits = open_data(saved(tmp_path / "set", {"train": 10, "validation": 4, "holdout": 2}))
    assert splits.class_names == ("cat", "dog")
    assert [len(splits.train), len(splits.val), splits.test] == [10, 4, None]
    assert splits.train.labels.tolist() == [0, 1] * 5
    assert splits.train.read(3) == picture(3)
    assert splits.train.sizes()[3] == len(picture(3))
    assert splits.train.name(3) == f"{tmp_path / 'set'}, train, row 3"
    assert "passed over the splits holdout" in splits.notes


def test_a_folder_that_the_library_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write(tmp_path / "set", by_class(3, folder="train/"))
    splits = open_data(DataConfig(f"hf-dataset:{tmp_path / 'set'}", val_share=0))
    assert splits.class_names == ("cat", "dog")
    assert Image.open(io.BytesIO(splits.train.read(0))).size == (16, 16)


def test_what_cannot_be_loaded():
    with pytest.raises(DataError, match=r"hf-dataset:nobody/nothing@main: could not be loaded .*check the name"):
        open_data("hf-dataset:nobody/nothing@main")


def test_one_of_several_columns_of_classes(tmp_path):
    labels = {
        "fine": datasets.ClassLabel(names=["cat", "tiger"]),
        "coarse": datasets.ClassLabel(names=["small", "big"]),
    }
    rows = {"photo": [{"bytes": picture(n), "path": None} for n in range(4)], "fine": [0, 1] * 2, "coarse": [1, 0] * 2}
    table = datasets.Dataset.from_dict(rows, features=datasets.Features({"photo": datasets.Image(), **labels}))
    table.save_to_disk(tmp_path / "set")
    name = f"hf-dataset:{tmp_path / 'set'}"
    splits = open_data(DataConfig(name, val_share=0))
    assert splits.class_names == ("cat", "tiger")
    assert "of the label columns fine, coarse, fine is used; name another with label_column" in splits.notes
    other = open_data(DataConfig(name, val_share=0, label_column="coarse"))
    assert (other.class_names, other.notes) == (("small", "big"), ())
    assert other.train.labels.tolist() == [1, 0, 1, 0]


def test_columns_that_are_not_there(tmp_path):
    name = saved(tmp_path / "set", {"train": 4})
    with pytest.raises(DataError, match="has the columns photo, kind; name the right one with label_column"):
        open_data(DataConfig(name, label_column="label"))


def test_splits_by_other_names(tmp_path):
    splits = open_data(saved(tmp_path / "set", {"dev": 3, "Training": 10, "validation": 4, "testing": 2}))
    assert [len(splits.train), len(splits.val), len(splits.test)] == [10, 4, 2]
    assert "passed over the splits dev" in splits.notes  # "validation" is the usual name
    assert "validation is taken as val, Training is taken as train, testing is taken as test" in splits.notes


def test_unlabeled_rows(tmp_path):
    features = datasets.Features({"photo": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"photo": [{"bytes": picture(n), "path": None} for n in range(5)], "kind": [1, -1, 0, None, 1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    name = f"hf-dataset:{tmp_path / 'set'}"
    splits = open_data(DataConfig(name, val_share=0))
    assert splits.train.labels.tolist() == [1, 0, 1]
    assert splits.train.read(2) == picture(4)
    assert splits.notes == ("left out of all: 2 images without a label, row 1 first",)
    with pytest.raises(
        DataError, match="all has 2 images without a label, row 1 first; label or remove them, or leave"
    ):
        open_data(DataConfig(name, strict=True))
