"""The user's token for the Hub, shown to the Hub and to nobody else. Free of torch."""

from __future__ import annotations

from http.client import HTTPMessage
from typing import IO
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

__all__ = ["hub_opener", "is_hub", "request_of"]

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
