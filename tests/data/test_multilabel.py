"""Tables and parquet files of images with any number of labels."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from effnets.data import open_data
from effnets.data.dataset import CachedDataset
from effnets.data.multilabel import rarest_labels
from effnets.data.open import DataConfig, open_evaluation_data
from effnets.errors import ArgumentError, DataError
from tests.support.data_sets import picture, write

FLAGS = "path,Red,round\na.jpg,1,0\nb.jpg,0,1\nc.jpg,,-1\nd.jpg,1,\ne.jpg,0,1\nf.jpg,1,1\n"


def open_table(folder, text, **options):
    write(folder, {f"{name}.jpg": picture(number) for number, name in enumerate("abcdef")})
    (folder / "t.csv").write_text(text)
    return open_data(DataConfig(folder / "t.csv", multilabel=True, val_share=0, **options))


def test_columns_of_0_and_1(tmp_path):
    splits = open_table(tmp_path, FLAGS)
    assert splits.class_names == ("Red", "round")
    expected = [[1, 0], [0, 1], [1, np.nan], [0, 1], [1, 1]]
    np.testing.assert_array_equal(splits.train.targets, np.array(expected, np.float32))
    assert splits.notes[0] == "left out of train: 1 image without a known label, line 4 first".replace("train", "all")


@pytest.mark.parametrize("lists", ["red|round", "red;round", '"[""red"", ""round""]"', '"red, round"'])
def test_one_column_of_lists(tmp_path, lists):
    splits = open_table(tmp_path, f"path,tags,width\na.jpg,{lists},3\nb.jpg,red,4\nc.jpg,,5\nd.jpg,round,6\n")
    assert splits.class_names == ("red", "round")
    np.testing.assert_array_equal(splits.train.targets, [[1, 1], [1, 0], [0, 0], [0, 1]])
    assert any("passed over 1 column (width)" in note for note in splits.notes)


def test_a_named_column_of_lists(tmp_path):
    splits = open_table(tmp_path, "path,kind,x\na.jpg,red|b,1\nb.jpg,-1,0\nc.jpg,b,0\n", label_column="Kind")
    np.testing.assert_array_equal(splits.train.targets, [[1, 1], [1, 0]])


def test_targets_follow_the_images(tmp_path):
    train = open_table(tmp_path, FLAGS).train
    cached = CachedDataset(train, 16)
    for some in (train.subset([4, 0]), train.with_channels(1).subset([4, 0]), cached.subset([4, 0])):
        np.testing.assert_array_equal(some.targets, [[1, 1], [1, 0]])
    changed = train.subset(range(5))
    assert changed.digest() == train.digest()
    changed.targets[0, 0] = np.nan
    assert changed.digest() != train.digest()


def test_the_rarest_label_decides_the_draw():
    targets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, np.nan, 0], [1, 1, 1]], np.float32)
    assert rarest_labels(targets).tolist() == [0, 1, 0, 0, 2]


def test_validation_has_every_label(tmp_path):
    names = [f"{number}.jpg" for number in range(40)]
    write(tmp_path, {name: picture(number) for number, name in enumerate(names)})
    rows = [f"{name},{int(number % 2)},{int(number in (3, 6))}" for number, name in enumerate(names)]
    (tmp_path / "t.csv").write_text("\n".join(["path,often,seldom", *rows]))
    splits = open_data(DataConfig(tmp_path / "t.csv", multilabel=True))
    assert (splits.train.targets == 1).any(axis=0).all()
    assert (splits.val.targets == 1).any(axis=0).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,red\na.jpg,1\nb.jpg,2\n", r"column red has 0 and 1, and 1 other values \(line 3: '2'\); write 1, 0"),
        ("path,width\na.jpg,30\nb.jpg,40\nc.jpg,50\n", None),
        ("path\na.jpg\n", r"line 1: has the columns path, and no label among them"),
        ("path,red,red\na.jpg,1,0\n", r"line 1: 1 label \(red\) twice"),
        (
            "where,red\na.jpg,1\n",
            r"needed are path, and a column of 0 and 1 for each label; name the one of the images",
        ),
        (
            "path,red,round\na.jpg,1,0\nb.jpg,0,0\n",
            r"no image to train on has 1 label \(round\); remove what nobody has",
        ),
        ("path,tags\na.jpg,[red\n", r"t\.csv, line 2: tags is '\[red', no list in JSON; write red\|round"),
        ("path,tags,split\na.jpg,red,train\nb.jpg,blue,test\n", r"test has 1 class \(blue\) that train lacks"),
        ("path,red,round\na.jpg,,\nb.jpg,-1,\n", r"nothing is known of any image; write 1 and 0"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, message):
    if message is None:
        assert open_table(tmp_path, text).class_names == ("30", "40", "50")  # the only column: lists of one
        return
    with pytest.raises(DataError, match=message):
        open_table(tmp_path, text)


def test_a_wrong_label_column_and_strictness(tmp_path):
    with pytest.raises(DataError, match=r"has the columns path, Red, round, and 0 called colour; name the one"):
        open_table(tmp_path, FLAGS, label_column="colour")
    with pytest.raises(DataError, match=r"1 image without a known label, line 4 first; label or remove them"):
        open_table(tmp_path, FLAGS, strict=True)
    with pytest.raises(ArgumentError, match=r"class_names is given, but the labels of .* have names"):
        open_table(tmp_path, FLAGS, class_names=["a", "b"])


def test_other_kinds_of_data_are_refused(tmp_path):
    write(tmp_path, {"cat/a.jpg": picture(0), "dog/b.jpg": picture(1)})
    with pytest.raises(
        DataError, match=r"several labels are read from a \.csv or \.tsv table, or from \.parquet files"
    ):
        open_data(DataConfig(tmp_path, multilabel=True))
    with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist"):
        open_data(DataConfig(tmp_path / "none.csv", multilabel=True))


def write_parquet(path, labels, kind, feature=None):
    images = [{"bytes": picture(number), "path": f"{number}.jpg"} for number in range(len(labels))]
    table = pa.table({"image": images, "labels": pa.array(labels, kind)})
    if feature is not None:
        info = {"info": {"features": {"image": {"_type": "Image"}, "labels": feature}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path)


def test_parquet_with_lists_of_names(tmp_path):
    write_parquet(tmp_path / "p.parquet", [["b", "a"], [], None, ["b"]], pa.list_(pa.string()))
    splits = open_data(DataConfig(tmp_path / "p.parquet", multilabel=True, val_share=0))
    assert splits.class_names == ("a", "b")
    np.testing.assert_array_equal(splits.train.targets, [[1, 1], [0, 0], [0, 1]])


def test_parquet_with_numbers_of_declared_names(tmp_path):
    feature = {"feature": {"names": ["one", "two"], "_type": "ClassLabel"}, "_type": "Sequence"}
    write_parquet(tmp_path / "train-0.parquet", [[1], [0, 1]], pa.list_(pa.int64()), feature)
    write_parquet(tmp_path / "test-0.parquet", [[], [1]], pa.list_(pa.int64()), feature)
    opened = open_evaluation_data(DataConfig(tmp_path, multilabel=True))
    assert (opened.split, opened.source.class_names) == ("test", ("one", "two"))
    assert "test has no image with 1 label (one), which is not measured there" in opened.notes
    np.testing.assert_array_equal(opened.source.targets, [[0, 0], [0, 1]])


def test_parquet_without_lists(tmp_path):
    write_parquet(tmp_path / "p.parquet", ["a", "b"], pa.string())
    with pytest.raises(DataError, match=r"the column labels has 'a', no list of labels; name one of lists"):
        open_data(DataConfig(tmp_path / "p.parquet", multilabel=True))


def test_unseen_classes_come_last(tmp_path):
    files = {f"train/{name}/{n}.jpg": picture(n) for n, name in enumerate("bbcc")}
    files |= {f"test/{name}/{n}.jpg": picture(9 + n) for n, name in enumerate("aadd")}
    write(tmp_path, files)
    with pytest.raises(DataError, match=r"test has 2 classes \(a, d\) that train lacks"):
        open_data(tmp_path)
    splits = open_data(DataConfig(tmp_path, unseen_classes=True, val_share=0))
    assert splits.class_names == ("b", "c", "a", "d")
    assert splits.test.labels.tolist() == [2, 2, 3, 3]
