"""The folder of parts: every chunk once, and nothing before all are there."""

from __future__ import annotations

import pyarrow.dataset
import pytest

from effnets.bulk.parts import PartFolder
from effnets.bulk.table import prediction_columns
from effnets.errors import ArgumentError, DataError

COLUMNS = prediction_columns(1)
SETTINGS = {"model": "m", "topk": 1}


def rows(*names, error=None):
    prediction = {"index": 1, "label": "cat", "probability": 0.5}
    return [{"path": name, **({"error": error} if error else {"predictions": [prediction]})} for name in names]


@pytest.fixture(params=["local", "store"])
def folder(request, tmp_path):
    if request.param == "local":
        return PartFolder(f"{tmp_path}/out/")
    return PartFolder(f"memory://{tmp_path.name}-{request.node.name}/out")


def test_the_folder_appears_with_all_parts_whole(folder):
    assert folder.begin(SETTINGS, resume=False) == set()
    folder.write(1, rows("c", error="c is damaged"), COLUMNS)
    folder.write(0, rows("a", "b"), COLUMNS)
    folder.write(0, rows("a", "b"), COLUMNS)  # as by a worker that was thought to be lost
    assert folder.count_rows([0, 1]) == {0: (2, 0), 1: (1, 1)}
    assert not folder.is_complete()
    folder.finish({0: 2, 1: 1})
    assert folder.is_complete()
    if not folder.target.startswith("memory"):
        table = pyarrow.dataset.dataset(folder.target).to_table().to_pylist()
        assert [row["path"] for row in table] == ["a", "b", "c"]
        assert table[2] == {
            "path": "c", "error": "c is damaged", "index_1": None, "label_1": None, "probability_1": None,
        }  # fmt: skip


def test_a_run_continues_with_the_same_settings_only(folder):
    folder.begin(SETTINGS, resume=False)
    folder.write(3, rows("a"), COLUMNS)
    with pytest.raises(ArgumentError, match=r"interrupted run; continue it with --resume"):
        folder.begin(SETTINGS, resume=False)
    with pytest.raises(ArgumentError, match="run with topk 1, now 2"):
        folder.begin({**SETTINGS, "topk": 2}, resume=True)
    assert folder.begin(SETTINGS, resume=True) == {3}


def test_a_missing_part_or_row_is_an_error(folder):
    folder.begin(SETTINGS, resume=False)
    folder.write(0, rows("a"), COLUMNS)
    with pytest.raises(DataError, match=r"has 1 parts of 2, and differs at number 1; on several machines"):
        folder.finish({0: 1, 1: 1})
    with pytest.raises(DataError, match=r"part-0000000.parquet: has 1 rows for 2 images"):
        folder.finish({0: 2})
    assert not folder.is_complete()


def test_what_is_there_is_not_written_over(folder):
    folder.begin(SETTINGS, resume=False)
    folder.write(0, rows("a"), COLUMNS)
    folder.finish({0: 1})
    with pytest.raises(ArgumentError, match="exists; name another folder"):
        folder.begin(SETTINGS, resume=False)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArgumentError, match="cannot be written there"):
        PartFolder(f"{tmp_path}/file/out").begin(SETTINGS, resume=False)


def test_a_damaged_part_is_named(tmp_path):
    folder = PartFolder(str(tmp_path / "out"))
    folder.begin(SETTINGS, resume=False)
    folder.write(0, rows("a"), COLUMNS)
    part = tmp_path / "out.part" / "part-0000000.parquet"
    part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(DataError, match=r"part-0000000\.parquet: is damaged \(.*\); delete it, and continue"):
        folder.count_rows(folder.begin(SETTINGS, resume=True))


def test_nothing_is_left_of_a_run_without_parts(folder):
    folder.begin(SETTINGS, resume=False)
    folder.remove_if_empty()
    assert folder.begin(SETTINGS, resume=False) == set()
    folder.write(0, rows("a"), COLUMNS)
    folder.remove_if_empty()
    assert folder.begin(SETTINGS, resume=True) == {0}
