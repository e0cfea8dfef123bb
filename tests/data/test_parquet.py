from __future__ import annotations

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from effnets.data import DataConfig, open_data, open_evaluation_data, parquet
from effnets.errors import DataError
from tests.support import SHARED, needs_shared
from tests.support.data_sets import picture

LABELS = [0, 1, 2, 1, 0, 2, 1, 0, 2, 0]


def table(path, labels=LABELS, names=None, column="image", rows=3, seed=0):
    images = [{"bytes": picture(seed + number), "path": None} for number in range(len(labels))]
    content = pa.table(
        {column: pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()})), "label": pa.array(labels)}
    )
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        content = content.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(content, path, row_group_size=rows)
    return path


def test_rows_in_any_order(tmp_path):
    source = open_data(DataConfig(table(tmp_path / "data.parquet"), val_share=0)).train
    assert source.labels.tolist() == LABELS
    for index in (9, 0, 5, 3, 3, 8):
        assert source.read(index) == picture(index)
    assert source.sizes().tolist() == [len(picture(number)) for number in range(10)]
    assert source.name(7) == f"{tmp_path / 'data.parquet'}, row 7"


def test_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "CACHE_BYTES", 2000)
    source = open_data(DataConfig(table(tmp_path / "data.parquet", rows=1), val_share=0)).train
    for index in range(10):
        assert source.read(index) == picture(index)
    assert sum(rows.nbytes for rows in source._cache.values()) <= 2000 or len(source._cache) == 1
    assert pickle.loads(pickle.dumps(source)).read(4) == picture(4)


def test_a_folder_as_the_hub_has_it(tmp_path):
    (tmp_path / "data").mkdir()
    names = ["cat", "dog", "bird"]
    table(tmp_path / "data" / "train-00000-of-00002.parquet", names=names)
    table(tmp_path / "data" / "train-00001-of-00002.parquet", names=names, seed=20)
    table(tmp_path / "data" / "test-00000-of-00001.parquet", [2, 2], names=names, seed=40)
    splits = open_data(DataConfig(tmp_path, val_share=0.2))
    assert splits.class_names == ("cat", "dog", "bird")
    assert [len(source) for source in (splits.train, splits.val, splits.test)] == [16, 4, 2]
    everything = open_data(DataConfig(tmp_path, val_share=0)).train
    assert everything.read(13) == picture(23)
    assert everything.name(13).endswith("train-00001-of-00002.parquet, row 3")


def test_texts_are_names(tmp_path):
    splits = open_data(DataConfig(table(tmp_path / "x.parquet", ["b", "a", "b", "c"]), val_share=0))
    assert splits.class_names == ("a", "b", "c")
    assert splits.train.labels.tolist() == [1, 0, 1, 2]


def test_names_in_a_file_beside(tmp_path):
    (tmp_path / "classnames.txt").write_text("cat\ndog\nbird\n", encoding="utf-8")
    assert open_data(table(tmp_path / "x.parquet")).class_names == ("cat", "dog", "bird")
    (tmp_path / "classnames.txt").write_text("cat\ncat\nbird\n", encoding="utf-8")
    with pytest.raises(DataError, match="a name twice"):
        open_data(tmp_path / "x.parquet")


def test_damage_is_named(tmp_path):
    whole = table(tmp_path / "data.parquet").read_bytes()
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut.parquet: cannot be read as parquet .*copy or download it again"):
        open_data(cut)
    spoilt = bytearray(whole)
    spoilt[100:400] = bytes(300)
    (tmp_path / "spoilt.parquet").write_bytes(spoilt)
    with pytest.raises(DataError, match="cannot be read"):
        open_data(DataConfig(tmp_path / "spoilt.parquet", corrupt_limit=0, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"column": "photo"}, "has the columns photo, label, none named image or img; name it with image_column"),
        (
            {"labels": [0, -2, 1], "names": ["a", "b"]},
            r"1 labels are outside of the 2 declared classes, -2 \(row 1\) first",
        ),
    ],
)
def test_other_layouts(tmp_path, arguments, message):
    with pytest.raises(DataError, match=message):
        open_data(table(tmp_path / "data.parquet", **arguments))


def test_columns_may_be_named(tmp_path):
    path = table(tmp_path / "data.parquet", column="photo")
    assert len(open_data(DataConfig(path, image_column="photo", val_share=0)).train) == 10


def test_files_of_no_split_beside_others(tmp_path):
    table(tmp_path / "train.parquet")
    table(tmp_path / "more.parquet")
    with pytest.raises(DataError, match="its name belongs to no split"):
        open_data(tmp_path)


@needs_shared
def test_cifar():
    data = open_evaluation_data(DataConfig(SHARED / "data" / "cifar10", check="none"))
    assert (data.split, len(data.source), len(data.source.class_names)) == ("test", 10_000, 10)
    assert np.bincount(data.source.labels).tolist() == [1000] * 10
    assert data.source.image(9_999).size == (32, 32)
