"""A file that lies elsewhere → a file on this machine: from a folder of files, a cache, or the network."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from effnets.errors import DownloadError, EffnetsError, MissingFileError, WeightsError
from effnets.spec.specs import RemoteFile, WeightsSpec
from effnets.utils.paths import packaged_weights_dir
from effnets.weights.hashing import find_problem, hash_file

__all__ = ["FOLDER_VARIABLE", "FetchedFile", "fetch", "fetch_remote", "folder_of_files"]

FOLDER_VARIABLE = "EFFNETS_WEIGHTS_DIR"

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".h5")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedFile:
    """A file of weights, here and intact.

    Attributes:
        path: where it lies.
        source: where it is from: ``hf-hub:org/repo@commit/file``, a URL, ``package:file``, or the path in the user's
            folder.
        sha256: of the file; None for one of the user's folder that nothing is known of.
        dialect: whose names it has; ``auto`` where that is not known, as of one in the user's folder.
    """

    path: Path
    source: str
    sha256: str | None
    dialect: str = "auto"


def fetch(weights: WeightsSpec) -> FetchedFile:
    """The file of `weights`, fetched if it is not here yet.

    The folder that ``EFFNETS_WEIGHTS_DIR`` names comes first: ``model.tag.safetensors`` (or ``.pth``, ``.bin``, …) in
    it, or ``org/repo/file``. Then the cache, huggingface_hub's for the Hub and effnets' own for URLs; then the network.
    Every file is compared with what is known of it: the pin, the hash that the Hub announces, or the file's name.
    Weights that come with this package are neither looked for nor fetched.

    Raises:
        DownloadError: it is not here and cannot be fetched; says why and what helps.
        WeightsError: it is not the file that was published.
        MissingFileError: ``EFFNETS_WEIGHTS_DIR`` names no folder, or the package is not whole.
    """
    if weights.packaged:
        return _from_package(weights)
    looked_for = _names_in_folder(weights)
    for path in looked_for:
        if path.is_file():
            return _from_folder(path, weights)
    try:
        path, source, sha256 = fetch_remote(weights.remote)
    except DownloadError as error:
        if not looked_for:
            raise
        raise DownloadError(f"{error} (not in {FOLDER_VARIABLE} either: {looked_for[0]}, {looked_for[-1]})") from None
    return FetchedFile(path=path, source=source, sha256=sha256, dialect=weights.dialect)


def fetch_remote(remote: RemoteFile, *, refresh: bool = False) -> tuple[Path, str, str]:
    """A file of a repository or a URL, from the cache or the network: where it lies now, its source, its sha256.

    With `refresh` the Hub is asked for the newest state of the branch, whatever is cached.

    Raises:
        DownloadError, WeightsError: as `fetch`.
    """
    # Here, since they take a while to import and a folder of files does without.
    from effnets.weights.hub import commit_of, fetch_from_hub
    from effnets.weights.retry import explain
    from effnets.weights.urls import fetch_from_url

    try:
        if remote.repo is None:
            path, sha256 = fetch_from_url(remote)
            return path, remote.source, sha256
        path, sha256 = fetch_from_hub(remote, refresh=refresh)
        return path, f"{remote.source}@{commit_of(path)}/{remote.file}", sha256
    except EffnetsError:
        raise
    except Exception as error:  # of a client's many kinds
        raise explain(error, remote) from None


def folder_of_files() -> Path | None:
    """The user's folder of files, which comes before every cache; None if there is none.

    Raises:
        MissingFileError: ``EFFNETS_WEIGHTS_DIR`` names no folder.
    """
    if not (named := os.environ.get(FOLDER_VARIABLE)):
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder, and {FOLDER_VARIABLE} names it; correct or unset it")
    return folder


def _from_package(weights: WeightsSpec) -> FetchedFile:
    """The file that comes with this package. Hashed each time: it is small, and there is nothing to remember it by."""
    path = packaged_weights_dir() / weights.file
    if not path.is_file():
        raise MissingFileError(
            f"{path}: no such file: effnets is installed without its weights {weights.name}; reinstall it"
        )
    sha256 = hash_file(path)
    if sha256 != weights.sha256:
        raise WeightsError(
            f"{path}: is not the file that effnets came with (its sha256 is {sha256}, and the pin says "
            f"{weights.sha256}); reinstall effnets"
        )
    return FetchedFile(path=path, source=weights.source, sha256=sha256, dialect=weights.dialect)


def _names_in_folder(weights: WeightsSpec) -> list[Path]:
    """Where the file may lie in the user's folder, if there is one."""
    folder = folder_of_files()
    if folder is None:
        return []
    suffixes = dict.fromkeys((PurePosixPath(weights.file).suffix, *_SUFFIXES))
    names = [f"{weights.name}{suffix}" for suffix in suffixes]
    names.append(f"{weights.repo}/{weights.file}" if weights.repo else weights.file)
    return [folder / name for name in names]


def _from_folder(path: Path, weights: WeightsSpec) -> FetchedFile:
    """The user's own copy, which must be the pinned file if it has its name; a conversion is another file."""
    is_copy = path.suffix == PurePosixPath(weights.file).suffix
    if is_copy and (problem := find_problem(path, weights.remote)):
        raise WeightsError(f"{path}: refused: {problem}; replace it, or take it out of {FOLDER_VARIABLE}")
    return FetchedFile(path=path, source=str(path), sha256=weights.sha256 if is_copy else None)
