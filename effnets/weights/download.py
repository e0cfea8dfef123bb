"""Download files from the Hub or from URLs into a cache, verify their hashes, and explain what failed."""

from __future__ import annotations

import errno
import glob
import os
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from filelock import FileLock
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get

from effnets.errors import DownloadError, WeightsError
from effnets.spec.specs import RemoteFile
from effnets.utils.paths import home_dir
from effnets.weights.hashing import GIT_SHA1, find_problem, hash_file, is_intact, note, recall, remember, sweep

T = TypeVar("T")

_SHA256 = re.compile("[0-9a-f]{64}")
_SHA1 = re.compile("[0-9a-f]{40}")
_PAUSE = 1.0
_WRONG_LENGTH = "Consistency check failed: "


def fetch_from_hub(remote: RemoteFile, *, refresh: bool = False) -> tuple[Path, str]:
    """Return the file in huggingface_hub's cache and its sha256; download it if it is not cached.

    A cached file that was verified before needs neither a request nor a hash. With `refresh` the Hub is asked for
    the newest commit of the branch in any case.

    Raises:
        WeightsError: if the file arrives twice without the hash that was announced or pinned; it is removed.
        Exception: from huggingface_hub, its HTTP client or the disk; `explain` turns it into a DownloadError.
    """
    if (path := cached_path(remote)) is not None:
        announced = _announced_hash(path, remote)
        if problem := find_problem(path, remote, announced):
            _remove(path, problem)
        elif not refresh or constants.HF_HUB_OFFLINE:
            return path, _sha256(path, remote, announced)
    if refresh:
        # hf_hub_download settles for an older commit when the Hub does not answer. It also records a missing file.
        with suppress(RemoteEntryNotFoundError):
            get_hf_file_metadata(hf_hub_url(str(remote.repo), remote.file, revision=remote.revision))
    return _try_twice(lambda: _download_from_hub(remote))


def fetch_from_url(remote: RemoteFile) -> tuple[Path, str]:
    """Return the file in the cache of effnets and its sha256; download it if it is not cached.

    The sha256 is computed on arrival and kept beside the file. It must be the pinned one and start with the prefix in
    the file's name; without either, the first download is trusted.

    Raises:
        WeightsError: if the file arrives twice with another hash; it is removed.
        Exception: from the HTTP client or the disk; `explain` turns it into a DownloadError.
    """
    url = urlsplit(remote.source)
    path = home_dir() / "files" / str(url.hostname) / url.path.lstrip("/")
    if sha256 := _cached_sha256(path, remote):
        return path, sha256
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        # Another process may have downloaded it in the meantime.
        sha256 = _cached_sha256(path, remote) or _try_twice(lambda: _download_from_url(path, remote))
    return path, sha256


def cached_path(remote: RemoteFile) -> Path | None:
    """Return the path of the file in the Hub's cache, verified or not; None if it is not cached."""
    cached = try_to_load_from_cache(str(remote.repo), remote.file, revision=remote.revision)
    return Path(cached) if isinstance(cached, str) else None


def is_known_absent(remote: RemoteFile) -> bool:
    """Return whether the cache records that the repository does not have the file at that commit."""
    cached = try_to_load_from_cache(str(remote.repo), remote.file, revision=remote.revision)
    return cached is not None and not isinstance(cached, str)


def commit_of(path: Path) -> str:
    """Return the commit that a file in the Hub's cache belongs to: the name of its snapshot folder."""
    parts = path.parts
    return parts[len(parts) - parts[::-1].index("snapshots")]


def _try_twice(download: Callable[[], T]) -> T:
    """Run `download`, and once more after a server error, a wrong length or a wrong hash; the client retries the rest.

    The client resumes broken transfers, retries failed connections and waits as long as `Retry-After` asks.
    """
    try:
        return download()
    except (WeightsError, OSError) as error:
        failed = isinstance(error, HfHubHTTPError) and error.response.status_code >= 500
        if not (failed or isinstance(error, WeightsError) or _WRONG_LENGTH in str(error)):
            raise
    time.sleep(_PAUSE)
    return download()


def _download_from_hub(remote: RemoteFile) -> tuple[Path, str]:
    path = Path(hf_hub_download(str(remote.repo), remote.file, revision=remote.revision))
    sweep(path.parents[len(Path(remote.file).parts) + 1] / "blobs", "*.incomplete")
    try:
        announced = _announced_hash(path, remote, required=True)
    except Exception:
        _remove(path, "its hash is unknown")
        raise
    if problem := find_problem(path, remote, announced):
        _remove(path, problem)
        raise _refusal(remote, problem)
    return path, _sha256(path, remote, announced)


def _download_from_url(path: Path, remote: RemoteFile) -> str:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            http_get(remote.source, file, headers={"Accept-Encoding": "identity"}, displayed_filename=remote.file)
            file.flush()
            os.fsync(file.fileno())
        if problem := find_problem(temporary, remote):
            raise _refusal(remote, problem)
        sha256 = hash_file(temporary)
        # The note first: alone it has no meaning, and a file without a note is downloaded again.
        _hash_note(path).write_text(f"{sha256}\n", encoding="ascii")
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    remember(path, sha256)
    sweep(path.parent, f".{glob.escape(path.name)}.*")
    return sha256


def _refusal(remote: RemoteFile, problem: str) -> WeightsError:
    return WeightsError(
        f"{remote.label}: {remote.url(constants.ENDPOINT)}: refused: {problem} (2 tries). Either the file is changed "
        "on its way, or the pin belongs to another version of it (scripts/pin_weights.py); nothing is kept"
    )


def _cached_sha256(path: Path, remote: RemoteFile) -> str | None:
    """Return the sha256 of a file downloaded from a URL; None if it is not cached. Remove a damaged one."""
    try:
        sha256 = _hash_note(path).read_text(encoding="ascii").strip() if path.is_file() else ""
    except (OSError, ValueError):
        sha256 = ""
    if not sha256:
        return None
    if is_intact(path, sha256) and find_problem(path, remote) is None:
        return sha256
    path.unlink(missing_ok=True)
    return None


def _hash_note(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _announced_hash(path: Path, remote: RemoteFile, *, required: bool = False) -> str | None:
    """Return the hash that the Hub announced for a cached file: the name of the blob that the cache links to.

    On a filesystem without links the cache does not keep the hash, so effnets does. If it has no record, the Hub is
    asked once; a failure is an error only if `required`.
    """
    if path.is_symlink():
        return _parse_etag(path.readlink().name)
    commit = commit_of(path)
    etag = recall(remote, commit)
    if etag is None and not constants.HF_HUB_OFFLINE:
        url = hf_hub_url(str(remote.repo), remote.file, revision=commit)
        try:
            etag = get_hf_file_metadata(url, retry_on_errors=required).etag or ""
            note(remote, commit, etag)
        except Exception:
            if required:
                raise
    return _parse_etag(etag or "")


def _parse_etag(etag: str) -> str | None:
    """Return the hash in an ETag: a sha256, or git's sha1 for small files; None for another kind."""
    if _SHA256.fullmatch(etag):
        return etag
    return f"{GIT_SHA1}{etag}" if _SHA1.fullmatch(etag) else None


def _sha256(path: Path, remote: RemoteFile, announced: str | None) -> str:
    known = announced if announced and _SHA256.fullmatch(announced) else remote.sha256
    return known or hash_file(path)


def _remove(path: Path, problem: str) -> None:
    """Remove a file from the Hub's cache: the link, the blob, and the blob that repositories share."""
    links = [path]
    while links[-1].is_symlink():
        links.append(links[-1].parent / links[-1].readlink())
    try:
        for link in links:
            link.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(
            f"{path}: damaged ({problem}), and cannot be removed ({error.strerror}); remove it yourself"
        ) from None


def explain(error: Exception, remote: RemoteFile) -> DownloadError:
    """Return a DownloadError that says in one sentence what failed and how to fix it."""
    chain = _chain(error)
    where = f"{remote.label}: {remote.url(constants.ENDPOINT)}"
    if isinstance(error, OSError) and error.errno is not None:
        return _explain_disk(error, where)
    for link in chain:
        if isinstance(link, OfflineModeIsEnabled):
            return DownloadError(
                f"{where} is not cached, and HF_HUB_OFFLINE is set; run 'effnets prefetch {remote.label}' with "
                "network, or put the file into a folder that EFFNETS_WEIGHTS_DIR names"
            )
        status = link.response.status_code if isinstance(link, HfHubHTTPError) else None
        if status in (401, 403):
            return DownloadError(
                f"{where}: access is refused ({status}); the repository is private, gated or gone, or your token has "
                "expired: set HF_TOKEN, or run 'hf auth login'"
            )
        if isinstance(link, RevisionNotFoundError):
            return DownloadError(f"{where}: the repository has no such revision (404); {remote.if_gone}")
        if isinstance(link, RepositoryNotFoundError):
            return DownloadError(
                f"{where}: no such repository (404), or a private one: set HF_TOKEN for that; otherwise "
                f"{remote.if_gone}"
            )
        if status == 404:
            return DownloadError(f"{where}: no such file there (404); {remote.if_gone}")
        if status is not None:
            return DownloadError(f"{where}: the server answers {status}; try again later")
    mirror = "; set HF_ENDPOINT to use a mirror of the Hub" if remote.repo else ""
    return DownloadError(f"{where}: {_reason(chain)}; check the connection and try again{mirror}")


def _explain_disk(error: OSError, where: str) -> DownloadError:
    place = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        reason, advice = "no room on the disk", "make room, or name another folder"
    else:
        reason, advice = "the cache cannot be written", "make it writable, or name another folder"
    return DownloadError(
        f"{where}: {reason}{place} ({error.strerror}); {advice}: HF_HOME for the Hub's files, EFFNETS_HOME for others"
    )


def _reason(chain: list[BaseException]) -> str:
    """Return the error below huggingface_hub's general one, on one line."""
    error = next((link for link in chain if not isinstance(link, LocalEntryNotFoundError)), chain[0])
    text = " ".join(str(error).split())
    if text.startswith(_WRONG_LENGTH):
        return text.removeprefix(_WRONG_LENGTH).partition(" This is usually")[0]
    return f"{type(error).__name__}: {text}"


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and its causes, the nearest first."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain
