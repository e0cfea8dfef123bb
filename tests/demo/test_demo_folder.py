"""Where the demo writes."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from effnets.demo.folder import make_folder, writing
from effnets.errors import ArgumentError, MissingFileError


def test_a_new_or_empty_folder_is_taken_as_it_is(tmp_path):
    new, empty = tmp_path / "a" / "new", tmp_path / "empty"
    empty.mkdir()
    assert make_folder(new) == new
    assert new.is_dir()
    assert make_folder(empty) == empty


def test_one_that_holds_something_is_left_alone(tmp_path):
    wanted = tmp_path / "demo"
    for name in ("demo", "demo-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
    assert make_folder(wanted) == tmp_path / "demo-3"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["demo", "demo-2", "demo-3", "mine.txt", "mine.txt"]


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(ArgumentError, match=r"demo: is a file; name a folder, --output DIR"):
        make_folder(tmp_path / "demo")
    with pytest.raises(ArgumentError, match=r"inner: cannot be written \(Not a directory\); name another folder"):
        make_folder(tmp_path / "demo" / "inner")
    assert (tmp_path / "demo").read_text() == "mine"


@pytest.mark.parametrize("wanted", [".", ".."])
def test_a_folder_without_a_name_of_its_own_gets_no_number(wanted, tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(ArgumentError, match=rf"^{re.escape(wanted)}: holds something already; name a folder"):
        make_folder(Path(wanted))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="for root, no folder is read-only")
def test_a_folder_that_is_read_only_is_refused(tmp_path):
    (tmp_path / "empty").mkdir(mode=0o500)
    for path in (tmp_path / "empty", tmp_path / "empty" / "inner"):
        with pytest.raises(ArgumentError, match=r"cannot be written \(Permission denied\); name another folder"):
            make_folder(path)


def test_what_the_disk_refuses_is_said_with_the_folder(tmp_path):
    with (
        pytest.raises(ArgumentError, match=r"out: cannot be written \(No space left on device\); name another folder"),
        writing(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_errors_that_say_what_they_mean_stay(tmp_path):
    with pytest.raises(MissingFileError, match=r"^photo\.jpg is gone$"), writing(tmp_path):
        raise MissingFileError("photo.jpg is gone")
