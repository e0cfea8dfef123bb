"""Files of the Hub, through huggingface_hub and its cache, every one compared with the hash that is announced."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from huggingface_hub import (
    _CACHED_NO_EXIST,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import RemoteEntryNotFoundError

from effnets.errors import WeightsError
from effnets.spec.specs import RemoteFile
from effnets.weights.hashing import GIT_SHA1, find_problem, hash_file, note, recall, sweep
from effnets.weights.retry import Patience

__all__ = ["commit_of", "fetch_from_hub", "is_cached", "is_known_absent"]

_TRIES = 2
_SHA256 = re.compile("[0-9a-f]{64}")
_SHA1 = re.compile("[0-9a-f]{40}")


def fetch_from_hub(remote: RemoteFile, *, refresh: bool = False) -> tuple[Path, str]:
    """The file in the cache, fetched if it is not there, and its sha256.

    A file that was found intact before costs neither a request nor a hash; with `refresh` the Hub is asked all the
    same whether its branch has a newer one.

    Raises:
        WeightsError: what came is not what was announced or pinned, twice; nothing of it stays in the cache.
        Exception: what huggingface_hub raises, its client and the disk (`effnets.weights.retry.explain`).
    """
    assert remote.repo is not None
    cached = try_to_load_from_cache(remote.repo, remote.file, revision=remote.revision)
    if isinstance(cached, str):
        path = Path(cached)
        announced = _announced_before(path, remote)
        if problem := find_problem(path, remote, announced):
            _remove(path, problem)
        elif not refresh or constants.HF_HUB_OFFLINE:
            return path, _sha256(path, remote, announced)
    patience = Patience()
    for _ in range(_TRIES):
        path, announced = _download(remote, patience)
        if (problem := find_problem(path, remote, announced)) is None:
            return path, _sha256(path, remote, announced)
        _remove(path, problem)
    raise WeightsError(
        f"{remote.label}: {remote.url(constants.ENDPOINT)}: refused: {problem} ({_TRIES} tries). Somebody on the way "
        "changes the file, or it is another one than the pin is for (scripts/pin_weights.py); nothing is kept"
    )


def is_cached(remote: RemoteFile) -> bool:
    """Whether the file is here, intact or not."""
    return isinstance(try_to_load_from_cache(str(remote.repo), remote.file, revision=remote.revision), str)


def is_known_absent(remote: RemoteFile) -> bool:
    """Whether the cache remembers that the repository has no such file at that commit."""
    return try_to_load_from_cache(str(remote.repo), remote.file, revision=remote.revision) is _CACHED_NO_EXIST


def commit_of(path: Path) -> str:
    """The commit that a file in the Hub's cache belongs to: the name of its snapshot's folder."""
    parts = path.parts
    return parts[len(parts) - parts[::-1].index("snapshots")]


def _download(remote: RemoteFile, patience: Patience) -> tuple[Path, str | None]:
    """The file as it arrived, and the hash that the Hub announces for it, where it does."""
    repo = str(remote.repo)
    url = hf_hub_url(repo, remote.file, revision=remote.revision)
    metadata = None
    with suppress(RemoteEntryNotFoundError):  # the next line raises it too, and notes it in the cache
        metadata = patience.run(lambda: get_hf_file_metadata(url))
    path = Path(patience.run(lambda: hf_hub_download(repo, remote.file, revision=remote.revision)))
    etag = (metadata.etag or "") if metadata else ""
    if not path.is_symlink():
        note(remote, commit_of(path), etag)
    sweep(path.parents[len(Path(remote.file).parts) + 1] / "blobs", f"{etag}*.incomplete")
    return path, _announced(etag)


def _announced_before(path: Path, remote: RemoteFile) -> str | None:
    """The hash that was announced for a cached file: the cache calls its blob so, and links to it.

    On a filesystem without links the cache keeps the hash nowhere, and we do. Of a file that somebody else put there
    the Hub is asked once, if it can be.
    """
    if path.is_symlink():
        return _announced(path.readlink().name)
    commit = commit_of(path)
    etag = recall(remote, commit)
    if etag is None and not constants.HF_HUB_OFFLINE:
        url = hf_hub_url(str(remote.repo), remote.file, revision=commit)
        with suppress(Exception):  # whatever it is, the file is here
            etag = Patience().run(lambda: get_hf_file_metadata(url)).etag or ""
            note(remote, commit, etag)
    return _announced(etag or "")


def _announced(etag: str) -> str | None:
    """The hash that an ETag states: the Hub's are a sha256, of small files git's sha1. The cache names its blobs so."""
    if _SHA256.fullmatch(etag):
        return etag
    return f"{GIT_SHA1}{etag}" if _SHA1.fullmatch(etag) else None


def _sha256(path: Path, remote: RemoteFile, announced: str | None) -> str:
    known = announced if announced and _SHA256.fullmatch(announced) else remote.sha256
    return known or hash_file(path)


def _remove(path: Path, problem: str) -> None:
    """Take a file out of the cache: the link, the blob, and the one in the store that repositories share."""
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
