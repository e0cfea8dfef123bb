"""A user's network on the Hub: its config, table and weights, all of one commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from effnets.errors import DownloadError
from effnets.remote import HUB_SCHEME, RemoteFile, split_repository
from effnets.weights.fetch import fetch_remote, folder_of_files
from effnets.weights.folder import CONFIG, TABLE, WEIGHTS, SavedModel, files_beside, read_folder

__all__ = ["fetch_repository"]


def fetch_repository(name: str, *, with_weights: bool = True, refresh: bool = False) -> SavedModel:
    """The network of ``hf-hub:user/repo`` or ``hf-hub:user/repo@revision``, fetched if it is not here yet.

    A folder ``user/repo`` in the one that ``EFFNETS_WEIGHTS_DIR`` names comes first, unless a revision is asked for.
    Then the cache: what lies there is taken as it is, without a request, also if the branch has moved on; `refresh`
    asks the Hub for its newest commit.

    Raises:
        ArgumentError: the name is none of a repository.
        DownloadError, WeightsError: as `effnets.weights.fetch.fetch`.
        MissingFileError, ConfigError: as `effnets.weights.folder.read_folder`.
    """
    source, revision = split_repository(name)
    own = folder_of_files()
    if own is not None and revision is None:
        folder = own / source.removeprefix(HUB_SCHEME)
        if (folder / CONFIG).is_file() or (folder / TABLE).is_file():
            return read_folder(folder, with_weights=with_weights)
    remote = RemoteFile(
        label=name,
        source=source,
        file=CONFIG,
        revision=revision,
        if_gone=f"check the name; {CONFIG} is what save_pretrained, timm and transformers write",
    )
    config, _, _ = fetch_remote(remote, refresh=refresh)
    # From here on by commit: a branch may move between two requests.
    remote = replace(remote, revision=_commit(config))
    for file in files_beside(config):
        _fetch_first(remote, (file,), optional=file != TABLE)
    saved = replace(read_folder(config.parent, with_weights=False), source=name)
    if not with_weights:
        return saved
    fetched = _fetch_first(replace(remote, if_gone="it holds no weights that are read here"), WEIGHTS)
    assert fetched is not None
    path, weights_source, sha256 = fetched
    return replace(saved, weights=path, weights_source=weights_source, weights_sha256=sha256)


def _fetch_first(remote: RemoteFile, files: Sequence[str], *, optional: bool = False) -> tuple[Path, str, str] | None:
    """The first of `files` that the commit has; None if it has none and they are `optional`.

    That a commit lacks a file is remembered, and costs no second request.
    """
    from effnets.weights.hub import is_known_absent

    for file in files:
        candidate = replace(remote, file=file)
        is_last = file == files[-1] and not optional
        if is_known_absent(candidate) and not is_last:
            continue
        try:
            return fetch_remote(candidate)
        except DownloadError:
            if is_last or not is_known_absent(candidate):
                raise
    return None


def _commit(path: Path) -> str:
    from effnets.weights.hub import commit_of

    return commit_of(path)
