from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnets.data import DataConfig, open_data
from effnets.data.tar import expand_braces
from effnets.errors import ArgumentError, DataError, MissingFileError
from tests.support.data_sets import pack, picture


def shards(folder, names, label=str, ending="cls", each=4):
    for position, name in enumerate(names):
        files = {}
        for number in range(each):
            files[f"{number:04}.jpg"] = picture(100 * position + number)
            files[f"{number:04}.{ending}"] = label(number % 2).encode()
        pack(folder / name, files)


def test_shards_by_a_pattern(tmp_path):
    shards(tmp_path, ["part-00.tar", "part-01.tar"])
    source = open_data(DataConfig(f"{tmp_path}/part-{{00..01}}.tar", val_share=0)).train
    assert source.class_names == ("0", "1")
    assert source.labels.tolist() == [0, 1] * 4
    assert source.read(5) == picture(101)
    assert source.name(5) == f"{tmp_path}/part-01.tar/0001.jpg"


@pytest.mark.parametrize("key", ["label", "cls", "class"])
def test_labels_in_json(tmp_path, key):
    shards(tmp_path, ["0.tar"], lambda number: json.dumps({key: ["cat", "dog"][number], "width": 16}), "json")
    source = open_data(DataConfig(tmp_path / "0.tar", val_share=0)).train
    assert source.class_names == ("cat", "dog")
    assert source.labels.tolist() == [0, 1, 0, 1]


def test_labels_under_another_key(tmp_path):
    shards(tmp_path, ["0.tar"], lambda number: json.dumps({"label": 7, "species": ["cat", "dog"][number]}), "json")
    assert open_data(DataConfig(tmp_path / "0.tar", label_column="species", val_share=0)).class_names == ("cat", "dog")
    with pytest.raises(DataError, match=r"0000\.json has no class; it needs one of the keys breed"):
        open_data(DataConfig(tmp_path / "0.tar", label_column="breed"))
    with pytest.raises(ArgumentError, match=r"image_column is 'jpg', but .*0.tar is shards without columns; leave it"):
        open_data(DataConfig(tmp_path / "0.tar", image_column="jpg"))
    shards(tmp_path, ["1.tar"])
    with pytest.raises(DataError, match=r"0000\.cls is not JSON and cannot have species; leave label_column out"):
        open_data(DataConfig(tmp_path / "1.tar", label_column="species"))


def test_names_of_numbers_lie_beside(tmp_path):
    shards(tmp_path, ["0.tar"])
    (tmp_path / "classnames.txt").write_text("cat\ndog\nbird\n")
    splits = open_data(DataConfig(tmp_path, val_share=0))
    assert splits.class_names == ("cat", "dog", "bird")
    assert splits.notes == ("train has no image of 1 class (bird)",)
    (tmp_path / "classnames.txt").write_text("cat\n")
    with pytest.raises(
        DataError, match=r"2 labels are outside of the 1 declared classes, 1 \(0.tar/0001.jpg\) first; number"
    ):
        open_data(tmp_path)


def test_shards_of_several_splits(tmp_path):
    shards(tmp_path, ["train-0.tar", "train-1.tar", "validation-0.tar", "test-0.tar"])
    splits = open_data(tmp_path)
    assert [len(source) for source in (splits.train, splits.val, splits.test)] == [8, 4, 4]
    only = open_data(DataConfig(f"{tmp_path}/train-{{0..1}}.tar", val_share=0.25))
    assert [len(only.train), len(only.val)] == [6, 2]


def test_faults_are_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"part-0.tar does not exist, one of 2 shards"):
        open_data(f"{tmp_path}/part-{{0..1}}.tar")
    pack(tmp_path / "lonely.tar", {"1.jpg": picture(1), "1.cls": b"0", "2.jpg": picture(2)})
    with pytest.raises(DataError, match=r"1 sample \(2\) without an image or without .cls or .json"):
        open_data(tmp_path / "lonely.tar")
    pack(tmp_path / "double.tar", {"1.left.jpg": picture(1), "1.right.jpg": picture(2), "1.cls": b"0"})
    with pytest.raises(DataError, match="1 has several images"):
        open_data(tmp_path / "double.tar")
    pack(tmp_path / "other.tar", {"1.jpg": picture(1), "1.json": b'{"caption": "a cat"}'})
    with pytest.raises(DataError, match=r"1\.json has no class; it needs one of the keys label"):
        open_data(tmp_path / "other.tar")


def test_braces():
    assert expand_braces("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand_braces("{8..11}") == ["8", "9", "10", "11"]
    assert expand_braces("{train,val}-{0..1}") == ["train-0", "train-1", "val-0", "val-1"]
    assert expand_braces("plain.tar") == ["plain.tar"]
    assert expand_braces("{t-{0..1},v}.{tar,x}") == ["t-0.tar", "t-0.x", "t-1.tar", "t-1.x", "v.tar", "v.x"]
    for pattern in ("a}.tar", "{a.tar", "{a,{b}.tar"):
        with pytest.raises(DataError, match="braces do not pair"):
            expand_braces(pattern)
    with pytest.raises(DataError, match="braces do not pair"):
        expand_braces("a-{0..1.tar")


@given(st.integers(0, 500), st.integers(0, 40), st.integers(1, 5))
def test_ranges_are_whole(first, more, width):
    names = expand_braces(f"s-{{{first:0{width}}..{first + more:0{width}}}}.tar")
    assert [int(name[2:-4]) for name in names] == list(range(first, first + more + 1))
