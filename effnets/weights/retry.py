"""How long to bear with a server, and what to tell the user when it is of no use.

huggingface_hub repeats requests by rules of its own, some of them without end: a `Retry-After` of an hour is waited
for, a connection that is cut again and again is opened again and again. So its client gets hooks for the time of a
download, and the decisions are made here: at most `_TRIES` of anything, and under a minute of waiting for nothing.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from huggingface_hub import constants
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

from effnets.errors import DownloadError
from effnets.spec.specs import RemoteFile

T = TypeVar("T")

_TRIES = 3
_PAUSE = 1.0
_LONGEST_PAUSE = 20.0
_PASSING = (408, 429, 500, 502, 503, 504)
# A line that brings less than this for so long is as good as none.
_CRAWL_BYTES, _CRAWL_SECONDS = 64 * 1024, 20.0


class _PassingError(Exception):
    """The server cannot now, and may soon; `pause` is how long it asks to wait."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class _CrawlError(Exception):
    """The server sends next to nothing."""


class Patience:
    """Runs what asks a server, again after faults that pass; the tries count over all that one object runs."""

    def __init__(self) -> None:
        self._failures = 0
        self._pauses_left = _LONGEST_PAUSE
        self._requested: set[str] = set()
        self._thread = threading.get_ident()

    def run(self, action: Callable[[], T]) -> T:
        """The result of `action`.

        Raises:
            Exception: what it raised last, where repeating is no use or has been of none.
        """
        while True:
            try:
                with self._hooked():
                    return action()
            except (HTTPError, OSError, _PassingError) as error:
                self._failures += 1
                pause = self._pause_after(error)
                if pause is None or self._failures >= _TRIES:
                    raise
            self._pauses_left -= pause
            time.sleep(pause)

    def _pause_after(self, error: Exception) -> float | None:
        """Seconds to wait before the next try; None where there should be none."""
        if isinstance(error, _PassingError):
            pause = _PAUSE if error.pause is None else error.pause
        elif _is_transport_error(error) or _is_wrong_length(error):
            pause = _PAUSE
        else:
            return None
        return pause if pause <= self._pauses_left else None

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        self._requested.clear()
        hooks = get_session().event_hooks
        mine = {"request": self._on_request, "response": self._on_response}
        for event, hook in mine.items():
            hooks[event].append(hook)
        try:
            yield
        finally:
            for event, hook in mine.items():
                hooks[event].remove(hook)

    def _on_request(self, request: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        longest = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
        timeouts = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            step: longest if timeouts.get(step) is None else min(timeouts[step], longest)
            for step in ("connect", "read", "write", "pool")
        }
        if request.method != "GET":
            return
        if str(request.url) in self._requested:  # huggingface_hub picks up what was cut
            self._failures += 1
            if self._failures >= _TRIES:
                raise _CrawlError("the connection was cut again and again")
        self._requested.add(str(request.url))

    def _on_response(self, response: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        if response.status_code in _PASSING:
            asked = response.headers.get("Retry-After", "")
            pause = float(asked) if asked.isdigit() else None
            wish = f", and asks to wait {asked} s" if pause is not None else ""
            raise _PassingError(f"the server answers {response.status_code}{wish}", pause)
        response.iter_raw = _watched(response.iter_raw)


def _watched(read: Callable[..., Iterator[bytes]]) -> Callable[..., Iterator[bytes]]:
    """`read`, giving up when next to nothing comes: a timeout never sees a server that sends a byte a second."""

    def reading(*arguments: Any, **options: Any) -> Iterator[bytes]:
        begin, received = time.monotonic(), 0
        for chunk in read(*arguments, **options):
            received += len(chunk)
            seconds = time.monotonic() - begin
            if seconds > _CRAWL_SECONDS:
                if received < _CRAWL_BYTES:
                    raise _CrawlError(f"the server sent {received:,} bytes in {seconds:.0f} s")
                begin, received = time.monotonic(), 0
            yield chunk

    return reading


def _is_transport_error(error: BaseException) -> bool:
    """Whether the client could not speak with the server, or was cut off."""
    return isinstance(error, HTTPError) and not isinstance(error, HfHubHTTPError)


def _is_wrong_length(error: BaseException) -> bool:
    """Whether huggingface_hub received another number of bytes than announced, for which it has no type."""
    return isinstance(error, OSError) and "Consistency check failed" in str(error)


def explain(error: Exception, remote: RemoteFile) -> DownloadError:
    """What went wrong and what to do, in one sentence, for anything that a client or the disk raises."""
    chain = _chain(error)
    where = f"{remote.label}: {remote.url(constants.ENDPOINT)}"
    for link in chain:
        if isinstance(link, OfflineModeIsEnabled):
            return DownloadError(
                f"{where} is not cached, and HF_HUB_OFFLINE is set; run 'effnets prefetch {remote.label}' with "
                "network, or put the file into a folder that EFFNETS_WEIGHTS_DIR names"
            )
        status = link.response.status_code if isinstance(link, HfHubHTTPError) else None
        if status in (401, 403):
            return DownloadError(
                f"{where}: access is refused ({status}); the repository is private, gated or gone, or your token is no "
                "longer good: set HF_TOKEN, or run 'hf auth login'"
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
        if isinstance(link, _PassingError | _CrawlError) or _is_wrong_length(link) or _is_transport_error(link):
            return DownloadError(f"{where}: {_words(chain)}; {_advice(remote)}")
        if isinstance(link, OSError) and link.errno is not None:
            return _explain_disk(link, where)
    return DownloadError(f"{where}: {_words(chain)}")


def _explain_disk(error: OSError, where: str) -> DownloadError:
    place = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        reason, advice = "no room on the disk", "make room, or name another folder"
    else:
        reason, advice = "the cache cannot be written", "make it writable, or name another folder"
    return DownloadError(
        f"{where}: {reason}{place} ({error.strerror}); {advice}: HF_HOME for the Hub's files, EFFNETS_HOME for others"
    )


def _advice(remote: RemoteFile) -> str:
    mirror = "; a mirror of the Hub is named with HF_ENDPOINT" if remote.repo else ""
    return f"check the connection and try again{mirror}"


def _words(chain: list[BaseException]) -> str:
    """The reasons in a chain of errors, on one line."""
    reasons = []
    for link in chain:
        text = " ".join(str(link).split()) or type(link).__name__
        if "Consistency check failed" in text:
            text = text.partition(" This is usually")[0].replace("Consistency check failed: ", "")
        if isinstance(link, _PassingError | _CrawlError) or _is_wrong_length(link):
            reasons.append(text)
        elif _is_transport_error(link):
            reasons.append(f"{type(link).__name__}: {text}")
    return "; ".join(dict.fromkeys(reasons)) or " ".join(str(chain[0]).split())


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what it came from, the nearest first."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain and len(chain) < 20:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain
