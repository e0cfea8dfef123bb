"""Folders are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from effnets.utils.atomic_folder import new_folder


def fill(path, text, error=None):
    with new_folder(path) as folder:
        assert folder.suffix == path.suffix
        (folder / "content.txt").write_text(text)
        if error:
            raise error


def names(folder):
    return sorted(one.name for one in folder.iterdir())


def test_a_folder_is_made_and_replaced(tmp_path):
    path = tmp_path / "some.folder"
    fill(path, "first")
    (path / "more.txt").write_text("of the first")
    fill(path, "second")
    assert (path / "content.txt").read_text() == "second"
    assert (names(path), names(tmp_path)) == (["content.txt"], ["some.folder"])


def test_a_link_stays(tmp_path):
    link, target = tmp_path / "link.folder", tmp_path / "target.folder"
    fill(target, "first")
    link.symlink_to(target)
    fill(link, "second")
    assert link.is_symlink()
    assert (target / "content.txt").read_text() == "second"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(error, tmp_path):
    path = tmp_path / "some.folder"
    fill(path, "first")
    with pytest.raises(error):
        fill(path, "second", error)
    assert (path / "content.txt").read_text() == "first"
    assert names(tmp_path) == ["some.folder"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failing_rename_leaves_what_was_there(failing, tmp_path, monkeypatch):
    path, plain, calls = tmp_path / "some.folder", Path.rename, []
    fill(path, "first")

    def rename(self, target):
        calls.append(target)
        if len(calls) == failing:
            raise PermissionError("not allowed")
        return plain(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(PermissionError, match="not allowed"):
        fill(path, "second")
    assert (path / "content.txt").read_text() == "first"
    assert names(tmp_path) == ["some.folder"]
