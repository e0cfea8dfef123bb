"""Published weights → a file on this machine: from a folder of files, a cache, or the network."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from effnets.errors import DownloadError, EffnetsError, MissingFileError, WeightsError
from effnets.weights.integrity import expected_hash, hash_file, is_intact, mismatch
from effnets.weights_spec import HUB_SCHEME, WeightsSpec

__all__ = ["FOLDER_VARIABLE", "FetchedFile", "fetch"]

FOLDER_VARIABLE = "EFFNETS_WEIGHTS_DIR"

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".h5")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedFile:
    """A file of published weights, here and intact.

    Attributes:
        path: where it lies.
        source: where it is from: ``hf-hub:org/repo@commit/file``, a URL, or the path in the user's folder.
        sha256: of the file; None for one of the user's folder that nothing is known of.
        dialect: whose names it has; ``auto`` for one of the user's folder, which may have been converted.
    """

    path: Path
    source: str
    sha256: str | None
    dialect: str


def fetch(weights: WeightsSpec) -> FetchedFile:
    """The file of `weights`, fetched if it is not here yet.

    The folder that ``EFFNETS_WEIGHTS_DIR`` names comes first: ``model.tag.safetensors`` (or ``.pth``, ``.bin``, …) in
    it, or ``org/repo/file``. Then the cache, huggingface_hub's for the Hub and effnets' own for URLs; then the network.
    Every file is compared with what is known of it: the pin, the sha256 that the Hub announces, or the file's name.

    Raises:
        DownloadError: it is not here and cannot be fetched; says why and what helps.
        WeightsError: it is not the file that was published.
        MissingFileError: ``EFFNETS_WEIGHTS_DIR`` names no folder.
    """
    looked_for = _names_in_folder(weights)
    for path in looked_for:
        if path.is_file():
            return _from_folder(path, weights)
    # Here, since it takes a while to import and a folder of files does without.
    from effnets.weights.network import explain

    try:
        return _from_hub(weights) if weights.repo else _from_url(weights)
    except EffnetsError:
        raise
    except Exception as error:  # of a client's many kinds
        problem = explain(error, weights)
    if looked_for:
        problem = DownloadError(f"{problem} (not in {FOLDER_VARIABLE} either: {looked_for[0]}, {looked_for[-1]})")
    raise problem


def _from_hub(weights: WeightsSpec) -> FetchedFile:
    from effnets.weights.hub import commit_of, fetch_from_hub

    path, sha256 = fetch_from_hub(weights)
    source = f"{HUB_SCHEME}{weights.repo}@{commit_of(path)}/{weights.file}"
    return FetchedFile(path=path, source=source, sha256=sha256, dialect=weights.dialect)


def _from_url(weights: WeightsSpec) -> FetchedFile:
    from effnets.weights.urls import fetch_from_url

    path, sha256 = fetch_from_url(weights)
    return FetchedFile(path=path, source=weights.source, sha256=sha256, dialect=weights.dialect)


def _names_in_folder(weights: WeightsSpec) -> list[Path]:
    """Where the file may lie in the user's folder, if there is one."""
    if not (named := os.environ.get(FOLDER_VARIABLE)):
        return []
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder, and {FOLDER_VARIABLE} names it; correct or unset it")
    suffixes = dict.fromkeys((PurePosixPath(weights.file).suffix, *_SUFFIXES))
    names = [f"{weights.name}{suffix}" for suffix in suffixes]
    if weights.repo is not None:
        names.append(f"{weights.repo}/{weights.file}")
    else:
        names.append(weights.file)
    return [folder / name for name in names]


def _from_folder(path: Path, weights: WeightsSpec) -> FetchedFile:
    """The user's own copy, which must be the pinned file if it has its name; a conversion is another file."""
    expected = expected_hash(weights) if path.suffix == PurePosixPath(weights.file).suffix else None
    if expected is not None and not is_intact(path, expected):
        raise WeightsError(
            f"{path}: refused: {mismatch(weights, None, hash_file(path))}; replace it, or take it out of "
            f"{FOLDER_VARIABLE}"
        )
    return FetchedFile(path=path, source=str(path), sha256=weights.sha256 if expected else None, dialect="auto")
