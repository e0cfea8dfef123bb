"""A file is whole, or what was there before is."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import nullcontext
from pathlib import Path

import pytest

from effnets.utils.atomic_file import write_whole


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "a file"
    for data in (b"first", memoryview(b"second"), b""):
        write_whole(path, data, read_back=True)
        assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_written_over(tmp_path):
    path, partial = tmp_path / "file", tmp_path / ".file.partial"
    partial.write_bytes(b"half of something longer")
    write_whole(path, b"new", partial=partial)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.mkdir()
    (path / "kept").write_bytes(b"old")
    with pytest.raises(OSError, match=r"[Dd]irectory"):
        write_whole(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert (path / "kept").read_bytes() == b"old"


@pytest.mark.parametrize(("number", "fatal"), [(errno.EINVAL, False), (errno.EACCES, False), (errno.EIO, True)])
def test_a_file_system_without_confirmation_of_names_is_no_failure(tmp_path, monkeypatch, number, fatal):
    path, sync = tmp_path / "file", os.fsync

    def sync_files_alone(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        sync(handle)

    monkeypatch.setattr(os, "fsync", sync_files_alone)
    with pytest.raises(OSError, match=os.strerror(number)) if fatal else nullcontext():
        write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_gives_back_something_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda _: b"nww")
        with pytest.raises(OSError, match="the disk does not hold what was written to it"):
            write_whole(path, b"new", read_back=True)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    folder, link = tmp_path / "disk", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(Path("disk") / "file")
    for data in (b"made", b"replaced"):
        write_whole(link, data, read_back=True)
        assert link.is_symlink()
        assert [(entry.name, entry.read_bytes()) for entry in folder.iterdir()] == [("file", data)]
    assert {entry.name for entry in tmp_path.iterdir()} == {"disk", "link"}


def test_a_link_in_a_folder_of_the_program_is_replaced(tmp_path):
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.write_bytes(b"old")
    copy.symlink_to(original)
    write_whole(copy, b"new", partial=tmp_path / ".copy.partial")
    assert not copy.is_symlink()
    assert (original.read_bytes(), copy.read_bytes()) == (b"old", b"new")


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("partial", [False, True])
def test_a_pipe_is_refused(tmp_path, linked, partial):
    pipe = path = tmp_path / "pipe"
    os.mkfifo(pipe)
    if linked:
        path = tmp_path / "link"
        path.symlink_to(pipe)
    if linked and partial:
        write_whole(path, b"new", partial=tmp_path / ".partial")  # the link goes, and the pipe is left alone
    else:
        with pytest.raises(OSError, match="it is a pipe or a device, not a file"):
            write_whole(path, b"new", partial=tmp_path / ".partial" if partial else None)
    assert pipe.is_fifo()
    assert {entry.name for entry in tmp_path.iterdir()} == {pipe.name, path.name}


def test_links_in_a_circle_are_refused(tmp_path):
    path = tmp_path / "file"
    path.symlink_to(path)
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        write_whole(path, b"new")
    assert path.is_symlink()
