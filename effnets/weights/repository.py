"""A user's network on the Hub: its config, table and weights, all of one commit."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from effnets.errors import DownloadError, MissingFileError
from effnets.spec.specs import HUB_SCHEME, RemoteFile, split_repository
from effnets.weights.fetch import fetch_remote, folder_of_files
from effnets.weights.folder import CONFIG, TABLE, WEIGHTS, SavedModel, files_beside, read_folder
from effnets.weights.hub import commit_of, is_cached, is_known_absent

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
        # One that is there in part is none, as with published weights: the cache may have it whole.
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
    """Fetch a file into the snapshot; where it is `optional` the commit may lack it, which is remembered."""
    if optional and is_known_absent(remote):
        return
    try:
        fetch_remote(remote)
    except DownloadError:
        if not (optional and is_known_absent(remote)):
            raise


def _fetch_weights(remote: RemoteFile) -> tuple[Path, str, str]:
    """The first of the files that may hold weights and that the commit has, or else that the cache has."""
    failure: DownloadError | None = None
    for file in WEIGHTS:
        candidate = replace(remote, file=file)
        if is_known_absent(candidate) or (failure is not None and not is_cached(candidate)):
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
