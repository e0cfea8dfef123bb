"""A file that lies elsewhere, and what is known of it before it is fetched. Free of torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from effnets.errors import ArgumentError

HUB_SCHEME = "hf-hub:"
REPOSITORY = re.compile(rf"{HUB_SCHEME}[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
# Of path segments none of which begins with a dot: a revision becomes a path in the cache.
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file in a repository of the Hub, or at a URL.

    Attributes:
        label: what messages call that which the user asked for: ``mixnet_m.ft_in1k``, ``hf-hub:user/repo``.
        source: ``hf-hub:org/repo``, or the URL of the file.
        file: its path in the repository; of a URL, the last part.
        revision: branch, tag or commit of the repository; None: ``main``.
        sha256: of the file, where it is pinned. sha256_prefix: its beginning, as the file's name states it.
        if_gone: what to do where there is no such file, as half a sentence.
    """

    label: str
    source: str
    file: str
    revision: str | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None
    if_gone: str = "check the name"

    @property
    def repo(self) -> str | None:
        """``organisation/repository`` on the Hub; None for a URL."""
        return self.source.removeprefix(HUB_SCHEME) if self.source.startswith(HUB_SCHEME) else None

    def url(self, endpoint: str = "https://huggingface.co") -> str:
        """Where a browser finds the file; `endpoint` is the Hub, or a mirror of it."""
        if self.repo is None:
            return self.source
        return f"{endpoint.rstrip('/')}/{self.repo}/resolve/{self.revision or 'main'}/{self.file}"


def split_repository(name: str) -> tuple[str, str | None]:
    """``hf-hub:user/repo@revision`` → ``hf-hub:user/repo`` and the revision; None where none is named.

    Raises:
        ArgumentError: it is written in another way.
    """
    source, at, revision = name.partition("@")
    if not REPOSITORY.fullmatch(source) or (at and not _REVISION.fullmatch(revision)):
        raise ArgumentError(f"{name!r} names no repository; write {HUB_SCHEME}user/repository, or …@revision")
    return source, revision or None
