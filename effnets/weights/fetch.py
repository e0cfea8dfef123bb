"""Find weights in the package, the user's folder or a cache, or download them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from effnets.errors import DownloadError, EffnetsError, MissingFileError, WeightsError
from effnets.spec.specs import RemoteFile, WeightsSpec
from effnets.utils.paths import packaged_weights_dir
from effnets.weights.hashing import find_problem, hash_file

FOLDER_VARIABLE = "EFFNETS_WEIGHTS_DIR"

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".h5")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedFile:
    """A verified weights file on this machine.

    Attributes:
        path: of the file.
        source: where it comes from: ``hf-hub:org/repo@commit/file``, a URL, ``package:file``, or a path in the user's
            folder.
        sha256: of the file; None for a file of the user's folder without a pin.
        dialect: of its parameter names; ``auto`` for a file of the user's folder.
    """

    path: Path
    source: str
    sha256: str | None
    dialect: str = "auto"


def fetch(weights: WeightsSpec) -> FetchedFile:
    """Return the file of `weights`; download it if necessary.

    The folder that ``EFFNETS_WEIGHTS_DIR`` names comes first: ``model.tag.safetensors`` (or ``.pth``, ``.bin``, …) in
    it, or ``org/repo/file``. Then the cache, huggingface_hub's for the Hub and effnets' own for URLs; then the network.
    Every file is verified against the pin, the hash that the Hub announces, or the prefix in the file's name.
    Weights that are part of the package are read from there.

    Raises:
        DownloadError: if the file is not cached and cannot be downloaded; says why and how to fix it.
        WeightsError: if it is not the published file.
        MissingFileError: if ``EFFNETS_WEIGHTS_DIR`` is not a folder, or the package is incomplete.
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
    """Return path, source and sha256 of a file of a repository or a URL, from the cache or the network.

    With `refresh` the Hub is asked for the newest commit of the branch, even if an older one is cached.

    Raises:
        DownloadError, WeightsError: as `fetch`.
    """
    # Imported here because huggingface_hub is slow to import and a folder of files does not need it.
    from effnets.weights.download import commit_of, explain, fetch_from_hub, fetch_from_url

    try:
        if remote.repo is None:
            path, sha256 = fetch_from_url(remote)
            return path, remote.source, sha256
        path, sha256 = fetch_from_hub(remote, refresh=refresh)
        return path, f"{remote.source}@{commit_of(path)}/{remote.file}", sha256
    except EffnetsError:
        raise
    except Exception as error:  # the HTTP client has many kinds
        raise explain(error, remote) from None


def folder_of_files() -> Path | None:
    """Return the folder that ``EFFNETS_WEIGHTS_DIR`` names; None if it is unset.

    Raises:
        MissingFileError: if it is not a folder.
    """
    if not (named := os.environ.get(FOLDER_VARIABLE)):
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder, and {FOLDER_VARIABLE} names it; correct or unset it")
    return folder


def _from_package(weights: WeightsSpec) -> FetchedFile:
    """Return the file in the package. It is small, so it is hashed each time."""
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
    """Return the paths that the file may have in the user's folder."""
    folder = folder_of_files()
    if folder is None:
        return []
    suffixes = dict.fromkeys((PurePosixPath(weights.file).suffix, *_SUFFIXES))
    names = [f"{weights.name}{suffix}" for suffix in suffixes]
    names.append(f"{weights.repo}/{weights.file}" if weights.repo else weights.file)
    return [folder / name for name in names]


def _from_folder(path: Path, weights: WeightsSpec) -> FetchedFile:
    """Return the user's own copy. With the published suffix it must match the pin; with another it is a conversion."""
    is_copy = path.suffix == PurePosixPath(weights.file).suffix
    if is_copy and (problem := find_problem(path, weights.remote)):
        raise WeightsError(f"{path}: refused: {problem}; replace it, or take it out of {FOLDER_VARIABLE}")
    return FetchedFile(path=path, source=str(path), sha256=weights.sha256 if is_copy else None)
