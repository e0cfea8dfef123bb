from __future__ import annotations

import pytest

from effnets.utils.junk import in_junk, is_junk


@pytest.mark.parametrize(
    "name",
    [
        *(".DS_Store", "._a.jpg", ".ipynb_checkpoints", ".git", "~$table.csv", "Thumbs.db", "THUMBS.DB", "ehthumbs.db"),
        *("desktop.ini", "Desktop.ini", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"),
        *("lost+found", "#recycle", "__pycache__", "Icon\r"),
    ],
)
def test_what_systems_leave_behind(name):
    assert is_junk(name)
    assert in_junk(f"cat/{name}")
    assert in_junk(f"{name}/cat/1.jpg")


@pytest.mark.parametrize("name", [".", "..", "cat", "thumbs", "_a.jpg", "#1", "@home", "$5", "~", "lost", "recycling"])
def test_names_of_people(name):
    assert not is_junk(name)
    assert not in_junk(f"{name}/./1.jpg")
