"""Fetch a saved network from the Hub: its config, table and weights, all of one commit."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from effnets.errors import DownloadError, MissingFileError
from effnets.spec.specs import HUB_SCHEME, RemoteFile, split_repository
from effnets.weights.download import cached_path, commit_of, is_known_absent
from effnets.weights.fetch import fetch_remote, folder_of_files
from effnets.weights.folder import CONFIG, TABLE, WEIGHTS, SavedModel, files_beside, read_folder


def fetch_repository(name: str, *, with_weights: bool = True, refresh: bool = False) -> SavedModel:
    """Return the network of ``hf-hub:user/repo`` or ``hf-hub:user/repo@revision``; download what is not cached.

    A folder ``user/repo`` in the one that ``EFFNETS_WEIGHTS_DIR`` names comes first, unless a revision is given. Then
    the cache: its files are used without a request, even if the branch has moved on; `refresh` asks the Hub for its
    newest commit.

    Raises:
        ArgumentError: if the name is not one of a repository.
        DownloadError, WeightsError: as `effnets.weights.fetch.fetch`.
        MissingFileError, ConfigError: as `effnets.weights.folder.read_folder`.
    """
    source, revision = split_repository(name)
    own = folder_of_files()
    if own is not None and revision is None:
        folder = own / source.removeprefix(HUB_SCHEME)
        # An incomplete folder is skipped, as with published weights: the cache may have everything.
        with suppress(MissingFileError):
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
    stale = f"'effnets prefetch {name}' asks for the newest commit"
    remote = replace(remote, revision=commit_of(config), if_gone=stale)
    for file in files_beside(config):
        _fetch_beside(replace(remote, file=file), optional=file != TABLE)
    saved = replace(read_folder(config.parent, with_weights=False), source=name)
    if not with_weights:
        return saved
    path, weights_source, sha256 = _fetch_weights(remote)
    return replace(saved, weights=path, weights_source=weights_source, weights_sha256=sha256)


def _fetch_beside(remote: RemoteFile, *, optional: bool) -> None:
    """Fetch a file into the snapshot; the commit may lack an `optional` one, which the cache then records."""
    if optional and is_known_absent(remote):
        return
    try:
        fetch_remote(remote)
    except DownloadError:
        if not (optional and is_known_absent(remote)):
            raise


def _fetch_weights(remote: RemoteFile) -> tuple[Path, str, str]:
    """Return path, source and sha256 of the first weights file that the commit has, or else that the cache has."""
    failure: DownloadError | None = None
    for file in WEIGHTS:
        candidate = replace(remote, file=file)
        if is_known_absent(candidate) or (failure is not None and cached_path(candidate) is None):
            continue
        try:
            return fetch_remote(candidate)
        except DownloadError as error:
            if not is_known_absent(candidate):
                failure = error
    raise failure or DownloadError(
        f"{remote.label}: holds no weights that are read here, which are {' or '.join(WEIGHTS)}, in one piece; "
        f"{remote.if_gone}"
    )
