"""Labels as people write them, in every kind of table."""

from __future__ import annotations

import csv
import json
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from effnets.data import DataConfig, open_data, open_evaluation_data
from effnets.errors import DataError
from tests.support.data_sets import pack, picture, write

NAN = float("nan")


def as_csv(folder, labels):
    write(folder, {f"{n}.jpg": picture(n) for n in range(len(labels))})
    with (folder / "data.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *((f"{n}.jpg", label) for n, label in enumerate(labels))])
    return folder / "data.csv"


def as_parquet(folder, labels):
    folder.mkdir(exist_ok=True)
    images = pa.array([{"bytes": picture(n), "path": None} for n in range(len(labels))])
    pq.write_table(pa.table({"image": images, "label": pa.array(labels, from_pandas=False)}), folder / "data.parquet")
    return folder / "data.parquet"


def as_shard(folder, labels):
    folder.mkdir(exist_ok=True)
    files = {f"{n}.jpg": picture(n) for n in range(len(labels))}
    files |= {f"{n}.json": json.dumps({"label": label}).encode() for n, label in enumerate(labels)}
    return pack(folder / "data.tar", files)


KINDS = {"csv": as_csv, "parquet": as_parquet, "shard": as_shard}


def found(data):
    """The class of every image in its order, and the notes."""
    splits = open_data(DataConfig(data, val_share=0))
    measured = open_evaluation_data(data).source
    assert [splits.train.read(i) for i in range(len(splits.train))] == [measured.read(i) for i in range(len(measured))]
    return [splits.class_names[label] for label in splits.train.labels], splits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("labels", "names"),  # None: left out
    [
        (["a", "b", None, "a", ""], ["a", "b", None, "a", None]),
        ([1, 0, -1, 1], ["1", "0", None, "1"]),
        ([3.0, 2.0, NAN, 3.0], ["3", "2", None, "3"]),
        (["3", "2", "-1", "3.0"], ["3", "2", None, "3"]),
        (["a", "b", "NaN", "None"], ["a", "b", None, None]),
        ([True, False, None, True], ["true", "false", None, "true"]),
        (["none", "NA", "1e3", "nan "], ["none", "NA", "1e3", None]),
        (["007", "7", "10", "-1"], ["007", "7", "10", None]),
    ],
)
def test_unlabeled_images_are_left_out(tmp_path, kind, labels, names):
    data = KINDS[kind](tmp_path / "set", labels)
    read, splits = found(data)
    kept = [number for number, name in enumerate(names) if name is not None]
    assert read == [names[number] for number in kept]
    assert [splits.train.read(i) for i in range(len(kept))] == [picture(number) for number in kept]
    absent = len(labels) - len(kept)
    (note,) = [note for note in splits.notes if "without a label" in note]
    assert note.startswith(f"left out of all: {absent} image{'s' * (absent > 1)} without a label, ")
    with pytest.raises(
        DataError, match=r"all has \d images? without a label, .* first; label or remove them, or leave"
    ):
        open_data(DataConfig(data, strict=True))
    with pytest.raises(DataError, match="without a label"):
        open_evaluation_data(DataConfig(data, strict=True))


@pytest.mark.parametrize(("kind", "place"), [("csv", "line 4"), ("parquet", "row 2"), ("shard", "data.tar/2.jpg")])
def test_the_place_of_a_label_is_given(tmp_path, kind, place):
    _, splits = found(KINDS[kind](tmp_path / "set", ["a", "b", None]))
    assert splits.notes == (f"left out of all: 1 image without a label, {place} first",)


def test_text_and_numbers_are_one_class_or_an_error(tmp_path):
    assert found(as_shard(tmp_path / "a", [3, "3", 3.0, "4"]))[0] == ["3", "3", "3", "4"]
    with pytest.raises(
        DataError, match=r"texts and numbers, such as 'cat' \(line 2\) and '3' \(line 3\); write a name"
    ):
        open_data(as_csv(tmp_path / "b", ["cat", 3]))
    with pytest.raises(DataError, match=r"such as 'cat' \(data.tar/1.jpg\) and '3' \(data.tar/0.jpg\)"):
        open_data(as_shard(tmp_path / "c", [3, "cat"]))
    with pytest.raises(DataError, match=r"such as 'cat' \(row 0\) and '3' \(row 1\)"):
        open_data(as_parquet(tmp_path / "d", ["cat", "3"]))
    # Of single characters, some are digits.
    assert found(as_csv(tmp_path / "e", ["A", 3, "b"]))[0] == ["A", "3", "b"]


def test_numbers_that_are_not_whole_stay(tmp_path):
    assert found(as_parquet(tmp_path / "a", [1.0, 2.5]))[0] == ["1", "2.5"]


def test_true_and_false_of_pandas(tmp_path):
    names, splits = found(as_csv(tmp_path, ["True", "False", "True"]))
    assert (names, splits.class_names) == (["true", "false", "true"], ("false", "true"))


@pytest.mark.parametrize("kind", KINDS)
def test_composed_and_decomposed_labels_are_one_class(tmp_path, kind):
    forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD", "NFC")]
    names, splits = found(KINDS[kind](tmp_path / "set", [*forms, "tea"]))
    assert (names, splits.class_names) == ([forms[0]] * 3 + ["tea"], (forms[0], "tea"))


@pytest.mark.parametrize("kind", KINDS)
def test_no_label_at_all(tmp_path, kind):
    with pytest.raises(DataError, match="its images have no labels; name the right column with label_column"):
        open_data(KINDS[kind](tmp_path / "set", [-1, -1]))


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_any_characters(tmp_path, kind):
    names = ["a/b", 'say "yes"', "b, c", "two\nlines", "🐈", "é", "1e3", "nan_", "<b>"]
    assert found(KINDS[kind](tmp_path / "set", names))[0] == names


def test_a_split_without_labels_beside_others(tmp_path):
    write(tmp_path, {f"{n}.jpg": picture(n) for n in range(4)})
    rows = ["path,label,split", "0.jpg,a,Training", "1.jpg,b,Training", "2.jpg,,Testing", "3.jpg,-1,Testing"]
    (tmp_path / "data.csv").write_text("\n".join(rows))
    splits = open_data(DataConfig(tmp_path / "data.csv", val_share=0, strict=True))
    assert (len(splits.train), splits.test) == (2, None)
    assert splits.notes == ("passed over test: its images have no labels",)


def test_declared_names_of_numbers_in_any_form(tmp_path):
    for number, labels in enumerate(([1.0, 0.0, NAN], ["1", "0", "-1"], [True, False, None])):
        data = as_parquet(tmp_path / str(number), labels)
        (data.parent / "classnames.txt").write_text("\ufeffcat\ncafe\u0301\n", encoding="utf-8")
        if number < 2:
            assert found(data)[0] == ["caf\u00e9", "cat"]
        else:
            with pytest.raises(DataError, match="labels must be their numbers"):
                open_data(data)


def test_litter_among_parquet_files(tmp_path):
    as_parquet(tmp_path, ["a", "b"]).rename(tmp_path / "train.parquet")
    (tmp_path / "._train.parquet").write_bytes(b"\0\5\26\7")
    (tmp_path / ".~lock.parquet").write_bytes(b"")
    assert len(open_data(DataConfig(tmp_path, val_share=0)).train) == 2


def test_splits_of_parquet_files_by_other_names(tmp_path):
    for split, count in (("training-0", 4), ("dev-0", 2), ("my-testset-0", 3)):
        as_parquet(tmp_path, ["a", "b", "a", "b"][:count]).rename(tmp_path / f"{split}.parquet")
    splits = open_data(tmp_path)
    assert [len(one) for one in (splits.train, splits.val, splits.test)] == [4, 2, 3]


def test_splits_of_shards_by_other_names(tmp_path):
    for split, count in (("imagenet1k-train-0", 4), ("imagenet1k-validation-0", 2)):
        as_shard(tmp_path, ["a", "b", "a", "b"][:count]).rename(tmp_path / f"{split}.tar")
    splits = open_data(tmp_path)
    assert [len(splits.train), len(splits.val), splits.test] == [4, 2, None]
