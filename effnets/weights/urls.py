"""Files by URL, kept in effnets' own cache: fetched whole, compared, and only then given their name."""

from __future__ import annotations

import glob
import os
import uuid
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from effnets.errors import WeightsError
from effnets.spec.specs import RemoteFile
from effnets.utils.paths import home_dir
from effnets.weights.hashing import find_problem, hash_file, is_intact, remember, sweep
from effnets.weights.retry import Patience

__all__ = ["fetch_from_url"]

_TRIES = 2


def fetch_from_url(remote: RemoteFile) -> tuple[Path, str]:
    """The file in the cache, fetched if it is not there, and its sha256.

    The sha256 is taken on arrival and kept beside the file. It must be the pinned one, and begin as the file's name
    says; where there is neither, the first arrival decides.

    Raises:
        WeightsError: what came is not what the pin or the name says, twice; nothing of it stays.
        Exception: what the client and the disk raise (`effnets.weights.retry.explain`).
    """
    path = _place(remote)
    if sha256 := _cached(path, remote):
        return path, sha256
    path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(path.with_name(f"{path.name}.lock")):
        if sha256 := _cached(path, remote):  # another process was faster
            return path, sha256
        return path, _download(path, remote)


def _place(remote: RemoteFile) -> Path:
    url = urlsplit(remote.source)
    return home_dir() / "files" / str(url.hostname) / url.path.lstrip("/")


def _cached(path: Path, remote: RemoteFile) -> str | None:
    """The sha256 of the file if it is there and intact; one that is not is removed."""
    try:
        sha256 = _note(path).read_text(encoding="ascii").strip() if path.is_file() else ""
    except (OSError, ValueError):
        sha256 = ""
    if not sha256:
        return None
    if is_intact(path, sha256) and find_problem(path, remote) is None:
        return sha256
    path.unlink(missing_ok=True)
    return None


def _download(path: Path, remote: RemoteFile) -> str:
    patience = Patience()
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        for _ in range(_TRIES):
            patience.run(lambda: _receive(remote, temporary))
            if (problem := find_problem(temporary, remote)) is None:
                sha256 = hash_file(temporary)
                # The note first: without its file it says nothing, and a file without its note is fetched again.
                _note(path).write_text(f"{sha256}\n", encoding="ascii")
                temporary.replace(path)
                remember(path, sha256)
                sweep(path.parent, f".{glob.escape(path.name)}.*")
                return sha256
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    raise WeightsError(
        f"{remote.label}: {remote.source}: refused: {problem} ({_TRIES} tries). Somebody on "
        "the way changes the file, or it is another one than the pin is for (scripts/pin_weights.py); nothing is kept"
    )


def _receive(remote: RemoteFile, temporary: Path) -> None:
    with temporary.open("wb") as file:
        http_get(remote.source, file, headers={"Accept-Encoding": "identity"}, displayed_filename=remote.file)
        file.flush()
        os.fsync(file.fileno())


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
