"""Files of vectors, and the journal that they are made from: nothing is lost, repeated or half there."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from effnets.bulk.journal import Journal
from effnets.bulk.vectors import read_vectors, write_vectors
from effnets.errors import ArgumentError, MissingFileError
from effnets.inference.image import PhotoResult

SETTINGS = {"model": "m", "stage": None}
ROWS = [{"path": "a.jpg"}, {"path": "b.jpg", "error": "b.jpg is empty"}, {"path": "c\udcff.jpg"}]
VALUES = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
SUFFIXES = (".parquet", ".npy", ".safetensors")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_there_and_back(tmp_path, suffix):
    path = tmp_path / f"v{suffix}"
    write_vectors(path, lambda: iter(ROWS), VALUES, SETTINGS)
    found = read_vectors(path)
    np.testing.assert_array_equal(found.values, VALUES)
    assert found.paths == ["a.jpg", "c\\xff.jpg" if suffix == ".parquet" else "c\udcff.jpg"]
    assert found.settings == SETTINGS


def test_what_other_programs_read(tmp_path):
    for suffix in SUFFIXES:
        write_vectors(tmp_path / f"v{suffix}", lambda: iter(ROWS), VALUES, SETTINGS)
    table = pq.read_table(tmp_path / "v.parquet").to_pydict()
    assert table["path"][:2] == ["a.jpg", "b.jpg"]
    assert table["error"] == [None, "b.jpg is empty", None]
    assert table["vector"] == [[1, 2, 3], None, [4, 5, 6]]
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), VALUES)
    assert json.loads((tmp_path / "v.npy.paths.json").read_text())["paths"] == ["a.jpg", "c\udcff.jpg"]
    tensors = load_file(tmp_path / "v.safetensors")
    np.testing.assert_array_equal(tensors["embeddings"], VALUES)
    assert json.loads(tensors["paths"].tobytes()) == ["a.jpg", "c\udcff.jpg"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_none_at_all(tmp_path, suffix):
    path = tmp_path / f"v{suffix}"
    write_vectors(path, lambda: iter(ROWS[1:2]), VALUES[:0], SETTINGS)
    assert read_vectors(path).paths == []
    assert len(read_vectors(path).values) == 0


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"v\.txt: is no file of vectors; name what effnets embed wrote"):
        read_vectors(tmp_path / "v.txt")
    with pytest.raises(MissingFileError, match=r"v\.npy does not exist; make it with effnets embed"):
        read_vectors(tmp_path / "v.npy")
    np.save(tmp_path / "v.npy", VALUES)
    with pytest.raises(MissingFileError, match=r"v\.npy\.paths\.json does not exist"):
        read_vectors(tmp_path / "v.npy")
    (tmp_path / "v.npy.paths.json").write_text(json.dumps({"paths": ["a"], "settings": {}}))
    with pytest.raises(ArgumentError, match="paths and vectors do not belong together; embed the photos again"):
        read_vectors(tmp_path / "v.npy")
    for name in ("v.parquet", "v.safetensors"):
        (tmp_path / name).write_bytes(b"something else altogether")
        with pytest.raises(ArgumentError, match=f"{name}: is not from effnets embed, or damaged"):
            read_vectors(tmp_path / name)


def begin(target, **options):
    return Journal(target, SETTINGS, vector_size=3, **options)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_journal_becomes_the_file(tmp_path, suffix):
    target = tmp_path / f"v{suffix}"
    with begin(target) as journal:
        journal.write(ROWS[0], VALUES[0])
        journal.write(ROWS[1])
        journal.write(ROWS[2], VALUES[1])
        journal.finish()
    np.testing.assert_array_equal(read_vectors(target).values, VALUES)
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.parametrize("kill", ["before the row", "within the row", "within the vector", "vectors lost"])
def test_whatever_a_kill_leaves(tmp_path, kill):
    """Killed at any point of writing the third photo, or with vectors that never reached the disk."""
    target = tmp_path / "v.npy"
    with begin(target) as journal:
        journal.write({"path": "a"}, VALUES[0])
        journal.write({"path": "b", "error": "unreadable"})
        journal.write({"path": "c"}, VALUES[1])
    vectors, rows = journal.vectors_path, journal.path
    lines = rows.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    if kill == "before the row":
        rows.write_bytes(b"".join(lines[:-1]))
    elif kill == "within the row":
        rows.write_bytes(b"".join(lines)[:-3])
    elif kill == "within the vector":
        rows.write_bytes(b"".join(lines[:-1]))
        vectors.write_bytes(vectors.read_bytes()[:-2])
    else:
        vectors.write_bytes(b"")
    with begin(target, resume=True) as journal:
        pending = [photo.path for photo in journal.pending(map(PhotoResult, "abcd"))]
        assert pending == (["a", "b", "c", "d"] if kill == "vectors lost" else ["c", "d"])
        for path in pending:
            journal.write({"path": path}, VALUES[1] if path != "a" else VALUES[0])
        journal.finish()
    found = read_vectors(target)
    assert found.paths == (["a", "b", "c", "d"] if kill == "vectors lost" else ["a", "c", "d"])
    np.testing.assert_array_equal(found.values[-2:], VALUES[[1, 1]])
    np.testing.assert_array_equal(found.values[0], VALUES[0])


def test_a_journal_of_vectors_wants_their_suffixes(tmp_path):
    with pytest.raises(ArgumentError, match=r"v\.csv: the name must end in \.parquet, \.npy or \.safetensors"):
        begin(tmp_path / "v.csv")


def test_nothing_is_left_of_a_run_without_rows(tmp_path):
    with begin(tmp_path / "v.npy"):
        pass
    assert not list(tmp_path.iterdir())
