"""Files fetched by their address, going on where a transfer breaks off. Free of torch."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from typing import BinaryIO
from urllib.error import HTTPError, URLError

from effnets import __version__
from effnets.errors import DataError
from effnets.train.data.hub_access import hub_opener, is_hub, request_of

__all__ = ["download", "is_url"]

_TRIES = 5
_PAUSE = 0.5  # seconds before the second try; twice as long before each further one
_TIMEOUT = 30.0  # seconds that a server may be silent
_CHUNK = 1 << 20
_REFUSED = frozenset({401, 403})
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
# The range asked for lies behind the end: the file is shorter than what came, or came whole from a server that named no
# length and broke off behind it.
_NOTHING_THERE = 416


def is_url(name: str) -> bool:
    """Whether a data set is named by an address."""
    return name.startswith(("http://", "https://"))


def download(url: str, file: BinaryIO, expect: Callable[[int], object]) -> None:
    """Replace the content of `file` by what lies at `url`.

    A transfer that is cut goes on where it stopped if the server can do that, else from its beginning; five tries in
    all. The user's token for the Hub is shown to the Hub alone.

    Args:
        url: begins with http:// or https://.
        file: open for writing.
        expect: told how many bytes are to come, before they do, where the server says so.

    Raises:
        DataError: the server refuses, or cannot be reached.
        OSError: the file cannot be written.
    """
    transfer, reason = _Transfer(url, file, expect), ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE * 2 ** (attempt - 1))
        try:
            return transfer.go_on()
        except HTTPError as error:
            reason = f"HTTP {error.code}, {error.reason}"
            if error.code in _REFUSED and is_hub(url):
                raise DataError(
                    f"{url}: access is refused ({reason}); it is private, gated or gone: set HF_TOKEN, or run "
                    "'hf auth login'"
                ) from error
            if error.code == _NOTHING_THERE:
                transfer.begin_anew()
            elif error.code not in _PASSING:
                raise _failed(url, reason) from error
        except URLError as error:
            reason = str(error.reason)
        except (ConnectionError, TimeoutError, HTTPException, ssl.SSLError) as error:
            reason = str(error) or type(error).__name__
    raise _failed(url, f"{reason}, {_TRIES} times")


class _Transfer:
    """What has arrived, and by what the server knows that it is still the same."""

    def __init__(self, url: str, file: BinaryIO, expect: Callable[[int], object]) -> None:
        self.url, self.file, self.expect = url, file, expect
        self.validator: str | None = None
        self.opener = hub_opener()
        self._begin()

    def go_on(self) -> None:
        """Fetch what is missing."""
        headers = {"User-Agent": f"effnets/{__version__}"}
        if self.validator is None:
            self._begin()
        elif have := self.file.tell():
            headers |= {"Range": f"bytes={have}-", "If-Range": self.validator}
        with self.opener.open(request_of(self.url, headers), timeout=_TIMEOUT) as response:
            if response.status != 206:
                self._begin()
            elif not (response.headers.get("Content-Range") or "").startswith(f"bytes {self.file.tell()}-"):
                self.begin_anew()
                raise ConnectionError("the server sent another part than it was asked for")
            self.validator = _validator(response)
            self._receive(response)

    def begin_anew(self) -> None:
        """Ask for the whole next time."""
        self.validator = None

    def _begin(self) -> None:
        self.file.seek(0)
        self.file.truncate()

    def _receive(self, response: HTTPResponse) -> None:
        length = response.headers.get("Content-Length")
        if length is not None:
            self.expect(int(length))
        received = 0
        while chunk := response.read(_CHUNK):
            self.file.write(chunk)
            received += len(chunk)
        if length is not None and received != int(length):
            raise ConnectionError(f"cut after {received:,} of {int(length):,} bytes")


def _validator(response: HTTPResponse) -> str | None:
    """A strong ETag, or the time of the last change; see RFC 9110, section 13.1.5."""
    etag: str | None = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _failed(url: str, reason: str) -> DataError:
    return DataError(f"{url}: cannot be fetched ({reason}); check the address and the network, and start again")
