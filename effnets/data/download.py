"""The user's token for the Hub, shown to the Hub and to nobody else. Free of torch."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from effnets._version import __version__
from effnets.errors import DataError

_PORTS = {"http": 80, "https": 443}


def is_hub(url: str) -> bool:
    """Whether an address is of the Hub, or of the mirror that ``HF_ENDPOINT`` names: its scheme, host and port."""
    from huggingface_hub import constants

    try:
        return _origin(url) == _origin(constants.ENDPOINT)
    except ValueError:  # no address at all, of which asking for it tells
        return False


def request_of(url: str, headers: dict[str, str]) -> Request:
    """A request with these headers, and the user's token if it goes to the Hub and the user has one."""
    return _authorised(Request(url, headers=headers))


def hub_opener() -> OpenerDirector:
    """What carries out such requests: where the server sends on to another address, that decides about the token."""
    return build_opener(_Redirects)


class _Redirects(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        return None if request is None else _authorised(request)


def _authorised(request: Request) -> Request:
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    if is_hub(request.full_url) and (token := build_hf_headers().get("authorization")):
        request.add_unredirected_header("Authorization", token)  # a usual one would go along to any server
    return request


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


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
