from __future__ import annotations

import re

import numpy as np
import pytest

from effnets.data import DataConfig, open_data
from effnets.errors import DataError
from tests.support.data_sets import by_class, write


def table(folder, text, encoding="utf-8"):
    path = write(folder, by_class(3)) / "data.csv"
    path.write_bytes(text.encode(encoding))
    return path


ROWS = "cat/0.jpg,cat\ncat/1.jpg,cat\ndog/0.jpg,dog\ndog/1.jpg,dog\n"


def test_paths_are_relative_to_the_table(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    splits = open_data(DataConfig(table(tmp_path, "path,label\n" + ROWS), val_share=0))
    assert splits.class_names == ("cat", "dog")
    assert splits.train.labels.tolist() == [0, 0, 1, 1]
    assert splits.train.image(3).size == (16, 16)


def test_splits_and_any_order_of_columns(tmp_path):
    rows = "Split,Label,Path\ntrain,cat,cat/0.jpg\ntrain,dog,dog/0.jpg\nvalidation,dog,dog/1.jpg\ntest,cat,cat/2.jpg\n"
    splits = open_data(table(tmp_path, rows, "utf-8-sig"))
    assert [len(source) for source in (splits.train, splits.val, splits.test)] == [2, 1, 1]


def test_numbers_are_classes_in_their_order(tmp_path):
    splits = open_data(DataConfig(table(tmp_path, "path,label\ncat/0.jpg,10\ncat/1.jpg,9\ndog/0.jpg,0\n"), val_share=0))
    assert splits.class_names == ("0", "9", "10")
    assert splits.train.labels.tolist() == [2, 1, 0]


def test_columns_by_other_names(tmp_path):
    text = "id,Image,species,split\n1,cat/0.jpg,cat,train\n2,dog/0.jpg,dog,train\n"
    text += ",cat/1.jpg,cat,test\n,dog/1.jpg,dog,test\n"
    path = table(tmp_path, text)
    splits = open_data(DataConfig(path, image_column="image", label_column="species", val_share=0))
    assert [len(splits.train), len(splits.test)] == [2, 2]
    assert splits.class_names == ("cat", "dog")
    assert splits.notes == ("passed over 1 column (id) of data.csv",)
    with pytest.raises(DataError, match=r"needed are path, label\[, split\]; name other columns with image_column"):
        open_data(path)
    with pytest.raises(DataError, match=r"has the columns id, image, species, split; needed are image, kind"):
        open_data(DataConfig(path, image_column="image", label_column="kind"))


def test_quoted_paths_may_hold_commas(tmp_path):
    write(tmp_path, {"a, b.jpg": by_class(1)["cat/0.jpg"]})
    splits = open_data(DataConfig(table(tmp_path, 'path,label\n"a, b.jpg",x\ncat/1.jpg,y\n'), val_share=0))
    assert np.array_equal(splits.train.labels, [0, 1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\ncat/0.jpg,cat\nnone.jpg,cat\n", "1 files do not exist (line 3: none.jpg); paths are relative to"),
        ("path,label\ncat/0.jpg,cat\n,dog\ncat/1.jpg\n", "2 rows are empty or incomplete (line 3, line 4)"),
        ("path,label\ncat/0.jpg,cat,train\n", "1 rows are empty or incomplete (line 2); every row needs path, label"),
        (
            "path,class,category\ncat/0.jpg,cat,x\n",
            "line 1: has the columns path, class, category; needed are path, label[",
        ),
        ("cat/0.jpg,cat\ndog/0.jpg,dog\n", "write the names of the columns into the first line"),
        (
            "path,label,split\ncat/0.jpg,cat,holdout\n",
            "1 splits are unknown (line 2: 'holdout'); write train, val or test",
        ),
        ("path,label\n", "lists no images"),
        ("", "has the columns nothing"),
        ('path,label\n"cat/0.jpg,cat\n', "is not CSV"),
    ],
)
def test_faults_are_named_by_line(tmp_path, text, message):
    with pytest.raises(DataError, match=re.escape(message)):
        open_data(table(tmp_path, text))


def test_another_encoding(tmp_path):
    with pytest.raises(DataError, match="is not UTF-8 text"):
        open_data(table(tmp_path, "path,label\ncat/0.jpg,Käse\n", "latin-1"))
