"""Journals: every row once, whatever interrupts; tables in one piece."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effnets.bulk.journal import Journal
from effnets.bulk.table import WRITERS
from effnets.errors import ArgumentError, DataError
from effnets.inference.image import PhotoResult
from effnets.inference.labels import Prediction

SETTINGS = {"model": "mixnet_s", "topk": 2}


def photos(*names):
    return [PhotoResult(name) for name in names]


def row(name, label="cat"):
    if label is None:
        return PhotoResult(name, error=f"{name} is empty").to_dict()
    return PhotoResult(name, [Prediction(3, label, 0.75), Prediction(1, "dog", 0.25)]).to_dict()


def names_in(target):
    return [json.loads(line)["path"] for line in target.read_text().splitlines()]


def test_rows_become_a_file_in_one_piece(tmp_path):
    target = tmp_path / "found.jsonl"
    with Journal(target, SETTINGS) as journal:
        journal.write(row("a.jpg"))
        assert not target.exists()
        journal.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["found.jsonl"]
    assert names_in(target) == ["a.jpg"]


def test_a_run_that_another_one_is_at_is_not_called_interrupted(tmp_path):
    with Journal(tmp_path / "found.jsonl", SETTINGS) as journal:
        journal.write(row("a.jpg"))
        with pytest.raises(ArgumentError, match="another run is writing it; wait for its end, or stop it"):
            Journal(tmp_path / "found.jsonl", SETTINGS)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_with_what_to_do(tmp_path):
    target = tmp_path / "found.jsonl"
    with Journal(target, SETTINGS) as journal:
        journal.write(row("a.jpg"))
        with Path("/dev/full").open("wb") as full:
            os.dup2(full.fileno(), journal._file.fileno())
        with pytest.raises(DataError, match=r"jsonl: cannot be written \(No space left .* continue with --resume"):
            journal.write(row("b.jpg"))
    with Journal(target, SETTINGS, resume=True) as journal:
        assert [one["path"] for one in journal.rows()] == ["a.jpg"]


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400), data=st.data())
def test_a_journal_cut_anywhere_continues_with_every_row_once(tmp_path_factory, cut, data):
    folder = tmp_path_factory.mktemp("cut")
    target, every = folder / "found.jsonl", [f"{number}é\udcff.jpg" for number in range(8)]
    with Journal(target, SETTINGS) as journal:
        for photo in journal.pending(photos(*every[:5])):
            journal.write(row(photo.path))
    part = folder / "found.jsonl.part"
    content = part.read_bytes()
    part.write_bytes(content[: max(1, len(content) - cut)])
    later = data.draw(st.permutations(every)) if data.draw(st.booleans()) else every
    with Journal(target, SETTINGS, resume=True) as journal:
        for photo in journal.pending(photos(*later)):
            journal.write(row(photo.path))
        journal.finish()
    assert sorted(names_in(target)) == sorted(every)


def test_files_that_came_and_went(tmp_path):
    target = tmp_path / "found.jsonl"
    with Journal(target, SETTINGS) as journal:
        for photo in journal.pending(photos("b", "c", "c", "d")):
            journal.write(row(photo.path))
    with Journal(target, SETTINGS, resume=True) as journal:
        assert [photo.path for photo in journal.pending(photos("a", "b", "c", "c", "c", "e"))] == ["a", "c", "e"]


@pytest.mark.parametrize("suffix", sorted(WRITERS))
def test_a_table_of_predictions_and_errors(tmp_path, suffix):
    target = tmp_path / f"found{suffix}"
    with Journal(target, SETTINGS) as journal:
        journal.write(row("a, \n.jpg"))
        journal.write(row("b\udcff.jpg", None))
        journal.finish()
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in target.read_text().splitlines()]
        assert rows == [row("a, \n.jpg"), row("b\udcff.jpg", None)]
        return
    if suffix == ".csv":
        with target.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows[1]["path"] == "b\udcff.jpg"
        assert rows[0]["error"] == rows[1]["label_1"] == ""
    else:
        rows = pq.read_table(target).to_pylist()
        assert rows[1]["path"] == "b\\xff.jpg"
        assert rows[0]["error"] is rows[1]["label_1"] is None
    first = rows[0]
    assert (first["path"], first["label_1"], first["label_2"]) == ("a, \n.jpg", "cat", "dog")
    assert (int(first["index_1"]), float(first["probability_2"])) == (3, 0.25)
    assert "is empty" in rows[1]["error"]


def test_many_rows_of_a_parquet_file(tmp_path, monkeypatch):
    monkeypatch.setattr("effnets.bulk.table._GROUP", 7)
    with Journal(tmp_path / "found.parquet", SETTINGS) as journal:
        for number in range(50):
            journal.write(row(str(number)))
        journal.finish()
    file = pq.ParquetFile(tmp_path / "found.parquet")
    assert file.metadata.num_row_groups == 8
    assert file.read().column("path").to_pylist() == [str(number) for number in range(50)]


def test_an_interrupted_run_is_not_overwritten(tmp_path):
    target = tmp_path / "found.csv"
    with Journal(target, SETTINGS) as journal:
        journal.write(row("a"))
    with pytest.raises(ArgumentError, match=r"found.csv.part is of an interrupted run; continue it with --resume"):
        Journal(target, SETTINGS)


def test_other_settings_do_not_continue(tmp_path):
    target = tmp_path / "found.csv"
    with Journal(target, SETTINGS) as journal:
        journal.write(row("a"))
    with pytest.raises(ArgumentError, match="topk 2, now 5; continue it as it was, or delete it"):
        Journal(target, SETTINGS | {"topk": 5}, resume=True)


def test_a_file_that_is_no_journal(tmp_path):
    (tmp_path / "found.csv.part").write_text("a,b\n1,2\n")
    with pytest.raises(ArgumentError, match="is no journal of effnets; move it away"):
        Journal(tmp_path / "found.csv", SETTINGS, resume=True)
    assert (tmp_path / "found.csv.part").read_text() == "a,b\n1,2\n"


def test_two_runs_do_not_write_the_same_file(tmp_path):
    with Journal(tmp_path / "found.csv", SETTINGS) as journal:
        journal.write(row("a"))
        with pytest.raises(ArgumentError, match="another run is writing it; wait for its end"):
            Journal(tmp_path / "found.csv", SETTINGS, resume=True)


def test_a_run_without_rows_leaves_nothing(tmp_path):
    with Journal(tmp_path / "found.csv", SETTINGS):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("found.xlsx", "the name must end in .jsonl, .csv or .parquet"),
        ("gone/found.csv", "there is no folder .*gone; create it first"),
        ("folder.csv", "cannot be written there"),
    ],
)
def test_targets_that_cannot_be_written(tmp_path, name, reason):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ArgumentError, match=reason):
        Journal(tmp_path / name, SETTINGS)
