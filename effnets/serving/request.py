"""Read the images of a request, and never more of it than the limits allow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeAlias

from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from effnets.inference.image import PhotoResult
from effnets.serving.fetch import Fetcher
from effnets.serving.pool import BusyError
from effnets.serving.replica import EncodedImage

_BODY = "body"  # what an image without a file name is called
_LARGEST_BODIES = 16  # that are in memory at a time; of smaller ones as many as take the same room
_LINGER = 1.0  # seconds, at most, that a client may go on sending after its body became too large

Take: TypeAlias = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What clients may ask for.

    Attributes:
        body: bytes of a request, and of the images fetched for it.
        images: in a request.
        pixels: of an image.
        queue: images waiting and in work, of all requests.
        timeout: seconds for a request to arrive, and again for its answer.
    """

    body: int
    images: int
    pixels: int
    queue: int
    timeout: float


class RequestReader:
    """Reads the images of requests; what all of them hold in memory is bounded.

    Args:
        fetcher: of images by their address; None refuses these.
    """

    def __init__(self, limits: Limits, fetcher: Fetcher | None) -> None:
        self._limits = limits
        self._fetcher = fetcher
        self._held = 0

    @contextmanager
    def memory(self) -> Iterator[Take]:
        """Yield the function that `read` reports every byte to, for one request; they are released at the end."""
        size = 0

        def take(more: int) -> None:
            nonlocal size
            if self._held + more > _LARGEST_BODIES * self._limits.body:
                raise BusyError("the server is busy: it has no memory for another body; ask again later")
            self._held += more
            size += more

        try:
            yield take
        finally:
            self._held -= size

    async def read(self, request: Request, take: Take) -> list[EncodedImage | PhotoResult]:
        """Return the images of a request, or for those that did not come the error.

        Raises:
            HTTPException: with status 400, 403, 408, 413 or 415, and a sentence for the client.
            BusyError: if there is no memory for the request.
            ClientDisconnect: if the client has gone.
        """
        if (encoding := request.headers.get("content-encoding", "identity").lower()) != "identity":
            raise HTTPException(415, f"a body in Content-Encoding {encoding} is not read here; send it as it is")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        body = self._stream(request, take)
        addresses: list[str] = []
        images: list[EncodedImage] = []
        try:
            async with asyncio.timeout(self._limits.timeout):
                if kind == "multipart/form-data":
                    images = await self._read_form(request, body)
                elif kind == "application/json":
                    addresses = self._read_addresses(await _join(body))
                elif kind == "application/octet-stream" or (kind.startswith("image/") and kind != "image/svg+xml"):
                    images = [EncodedImage(_BODY, await _join(body))]
                else:
                    raise HTTPException(
                        415,
                        f"{kind or 'a body without Content-Type'} is not read here; send image/jpeg, image/png or the "
                        "like, application/octet-stream, or multipart/form-data with a file for each image",
                    )
        except TimeoutError:
            message = f"the body did not arrive within {self._limits.timeout:g} seconds; send fewer or smaller images"
            raise HTTPException(408, message, {"Connection": "close"}) from None
        if self._fetcher is not None and addresses:
            return await self._fetcher.fetch(addresses, self._limits, take)
        return [
            image if image.data else PhotoResult(image.name, error=f"{image.name} is empty (0 bytes); send it again")
            for image in images
        ]

    async def _stream(self, request: Request, take: Take) -> AsyncIterator[bytes]:
        limit, size = self._limits.body, 0
        announced = request.headers.get("content-length", "0")
        too_large = not announced.isdecimal() or int(announced) > limit
        stream = request.stream()
        while not too_large and (chunk := await anext(stream, None)) is not None:
            size += len(chunk)
            too_large = size > limit
            if not too_large:
                take(len(chunk))
                yield chunk
        if too_large:
            # Most clients read the answer only after they have sent everything.
            if "expect" not in request.headers:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(_LINGER, self._limits.timeout / 2)):
                        async for _ in stream:
                            pass
            message = f"the body is larger than {limit / 1e6:g} MB; send fewer or smaller images"
            raise HTTPException(413, message, {"Connection": "close"})

    async def _read_form(self, request: Request, body: AsyncIterator[bytes]) -> list[EncodedImage]:
        limit = self._limits.images
        parser = _InMemoryParser(request.headers, body, max_files=limit, max_fields=limit)  # type: ignore[arg-type]
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if error.message.startswith("Too many"):
                raise self._too_many() from None
            raise HTTPException(400, f"the form cannot be read: {error.message}") from None
        except (LookupError, ValueError) as error:  # about an unknown charset, or a header that is not text
            raise HTTPException(400, f"the form cannot be read: {error}") from None
        if not parser.complete:
            raise HTTPException(400, "the form is cut short: its last boundary is missing; send it again")
        images = []
        for name, value in form.multi_items():
            if isinstance(value, str):
                raise HTTPException(
                    400, f"the field {name!r} is not a file; give it a file name: curl -F {name}=@photo.jpg"
                )
            images.append(EncodedImage(value.filename or _BODY, await value.read()))
            await value.close()
        if not images:
            raise HTTPException(400, "the form has no file; add one for each image: curl -F image=@photo.jpg")
        return images

    def _read_addresses(self, body: bytes) -> list[str]:
        if self._fetcher is None:
            raise HTTPException(403, "images are not fetched by their address here; send the images themselves")
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            asked = None
        addresses = None
        if isinstance(asked, dict) and len(asked) == 1:
            addresses = [asked["url"]] if "url" in asked else asked.get("urls")
        if not isinstance(addresses, list) or not addresses or not all(isinstance(one, str) for one in addresses):
            raise HTTPException(400, 'the JSON must be {"url": "https://…"} or {"urls": ["https://…", …]}')
        if len(addresses) > self._limits.images:
            raise self._too_many()
        return addresses

    def _too_many(self) -> HTTPException:
        return HTTPException(413, f"the request has more than {self._limits.images} images; send several requests")


class _InMemoryParser(MultiPartParser):
    """Starlette's parser, which would write files above 1 MB to a disk that a container may not have.

    Of a form that is cut short it returns the parts that are whole; then `complete` is false.
    """

    spool_max_size = 1 << 40
    complete = False

    def on_end(self) -> None:
        """Note the last boundary."""
        self.complete = True
        super().on_end()


async def _join(body: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in body])
