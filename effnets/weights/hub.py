"""Files of the Hub, through huggingface_hub and its cache, every one compared with the sha256 that is announced."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

from effnets.errors import WeightsError
from effnets.weights.integrity import expected_hash, hash_file, is_intact, mismatch
from effnets.weights.network import Patience
from effnets.weights_spec import WeightsSpec

__all__ = ["commit_of", "fetch_from_hub"]

_TRIES = 2
_SHA256 = re.compile("[0-9a-f]{64}")


def fetch_from_hub(weights: WeightsSpec) -> tuple[Path, str]:
    """The file in the cache, fetched if it is not there, and its sha256.

    A file that was found intact before costs neither a request nor a hash.

    Raises:
        WeightsError: what came is not what was announced or pinned, twice; nothing of it stays in the cache.
        Exception: what huggingface_hub raises, its client and the disk (`effnets.weights.network.explain`).
    """
    assert weights.repo is not None
    cached = try_to_load_from_cache(weights.repo, weights.file, revision=weights.revision)
    if isinstance(cached, str):
        path = Path(cached)
        announced = _blob_hash(path)
        if (problem := _problem(path, weights, announced)) is None:
            return path, announced or weights.sha256 or hash_file(path)
        _remove(path, problem)
    patience = Patience()
    for _ in range(_TRIES):
        path, announced = _download(weights, patience)
        if (problem := _problem(path, weights, announced)) is None:
            return path, announced or weights.sha256 or hash_file(path)
        _remove(path, problem)
    raise WeightsError(
        f"{weights.name}: {weights.url(constants.ENDPOINT)}: refused: {problem} ({_TRIES} tries). Somebody on the way "
        "changes the file, or it is another one than the pin is for (scripts/pin_weights.py); nothing is kept"
    )


def commit_of(path: Path) -> str:
    """The commit that a file in the Hub's cache belongs to: the name of its snapshot's folder."""
    parts = path.parts
    return parts[len(parts) - parts[::-1].index("snapshots")]


def _download(weights: WeightsSpec, patience: Patience) -> tuple[Path, str | None]:
    """The file as it arrived, and the sha256 that the Hub announces for it, where it does."""
    repo = str(weights.repo)
    url = hf_hub_url(repo, weights.file, revision=weights.revision)
    metadata = patience.run(lambda: get_hf_file_metadata(url))
    path = patience.run(lambda: hf_hub_download(repo, weights.file, revision=weights.revision))
    etag = metadata.etag or ""
    return Path(path), etag if _SHA256.fullmatch(etag) else None


def _blob_hash(path: Path) -> str | None:
    """The sha256 that the Hub announced for a cached file: the cache calls the blob by it, and links to the blob."""
    name = path.readlink().name if path.is_symlink() else ""
    return name if _SHA256.fullmatch(name) else None


def _problem(path: Path, weights: WeightsSpec, announced: str | None) -> str | None:
    """What is wrong with the file; None if nothing is, or nobody knows what it should be."""
    for expected in dict.fromkeys((announced, expected_hash(weights, announced))):
        if expected is not None and not is_intact(path, expected):
            return mismatch(weights, announced, hash_file(path))
    return None


def _remove(path: Path, problem: str) -> None:
    """Take a file out of the cache: the link and what it links to."""
    blob = path.parent / path.readlink() if path.is_symlink() else None
    try:
        path.unlink(missing_ok=True)
        if blob is not None:
            blob.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(
            f"{path}: damaged ({problem}), and cannot be removed ({error.strerror}); remove it yourself"
        ) from None
