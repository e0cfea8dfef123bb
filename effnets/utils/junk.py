"""Files and folders that systems and programs leave behind among others."""

from __future__ import annotations

from pathlib import PurePosixPath

# Of Windows, macOS, Synology and QNAP servers, Linux file systems, and Python; in lower case. The others are hidden.
_NAMES = frozenset({
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "recycler"),
    *("system volume information", "__macosx", "icon\r", "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle"),
    *("@recently-snapshot", "lost+found", "__pycache__"),
})  # fmt: skip


def is_junk(name: str) -> bool:
    """Return whether a file or folder is hidden, or one that systems and programs leave behind."""
    return (name.startswith((".", "~$")) and name not in (".", "..")) or name.lower() in _NAMES


def in_junk(path: str) -> bool:
    """Return whether a relative path with slashes is junk, or within it."""
    return any(map(is_junk, PurePosixPath(path).parts))
