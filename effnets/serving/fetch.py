"""Fetch images by their address, from the hosts that are allowed and from nowhere else."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import httpx
from starlette.exceptions import HTTPException

from effnets.errors import ArgumentError, ImageError
from effnets.inference.image import PhotoResult
from effnets.serving.replica import EncodedImage

if TYPE_CHECKING:
    from effnets.serving.request import Limits

_HOST = re.compile(r"[\w.:-]+")
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


class Fetcher:
    """Downloads images over HTTP and HTTPS.

    Redirects are not followed. The address of a host is looked up once, checked, and connected to; it must be public,
    or itself be among the hosts.

    Args:
        hosts: ``example.com`` for its ports 80 and 443, or ``example.com:8080`` for this port.

    Raises:
        ArgumentError: if one is not a host.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        self._allowed = set()
        for host in hosts:
            try:
                url = httpx.URL(f"http://{host}")
                name = url.host
            except (httpx.InvalidURL, ValueError):
                url, name = httpx.URL(), ""
            if not _HOST.fullmatch(name) or url.userinfo or url.raw_path != b"/" or url.fragment:
                raise ArgumentError(f"{host!r} is not a host; give its name, or name and port: images.example.com:8080")
            ports = [url.port or 80] if url.port or host.endswith(":80") else _PORTS.values()
            self._allowed |= {(name, port) for port in ports}
        # Without connections kept: one address may serve several hosts, and each has a certificate to check.
        self._client = httpx.AsyncClient(
            trust_env=False, follow_redirects=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def fetch(
        self, addresses: Iterable[str], limits: Limits, take: Callable[[int], None]
    ) -> list[EncodedImage | PhotoResult]:
        """Return the images, or for those that cannot be fetched the error.

        Raises:
            HTTPException: with status 403 if an address is not allowed; nothing is fetched then.
            BusyError: from `take`, if there is no memory for them.
        """
        urls = [self._check(address) for address in addresses]
        return await asyncio.gather(*(self._fetch(url, limits, take) for url in urls))

    def _check(self, address: str) -> httpx.URL:
        try:
            url = httpx.URL(address)
            host = url.host
        except (httpx.InvalidURL, ValueError):  # a ValueError is about what UTF-8 or IDNA cannot hold
            raise HTTPException(403, f"{address!r} is not an address; give one like https://…/photo.jpg") from None
        if url.scheme not in _PORTS or (host, url.port or _PORTS[url.scheme]) not in self._allowed or url.userinfo:
            raise HTTPException(403, f"{address!r} is not fetched: only http and https, from the hosts of --allow-urls")
        return url

    async def _fetch(self, url: httpx.URL, limits: Limits, take: Callable[[int], None]) -> EncodedImage | PhotoResult:
        name = str(url)
        try:
            async with asyncio.timeout(limits.timeout):
                return EncodedImage(name, await self._download(url, limits.body, take))
        except TimeoutError:
            error = f"it did not arrive within {limits.timeout:g} seconds"
        except (ImageError, httpx.HTTPError, OSError) as failure:
            error = str(failure) or type(failure).__name__
        return PhotoResult(
            name, error=f"{name} cannot be fetched: {error}; check the address, or send the image itself"
        )

    async def _download(self, url: httpx.URL, limit: int, take: Callable[[int], None]) -> bytes:
        # The connection goes to the address that was checked, whatever the name stands for a moment later.
        pinned = url.copy_with(host=await self._resolve(url.raw_host.decode("ascii")))
        headers = {"Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity"}
        extensions = {"sni_hostname": url.raw_host.decode("ascii")}
        async with self._client.stream("GET", pinned, headers=headers, extensions=extensions) as response:
            if response.status_code != 200:
                redirect = ", and redirects are not followed" if response.is_redirect else ""
                raise ImageError(f"the answer has status {response.status_code}{redirect}")
            data = bytearray()
            async for chunk in response.aiter_raw():
                if len(data) + len(chunk) > limit:
                    raise ImageError(f"it is larger than {limit / 1e6:g} MB")
                take(len(chunk))
                data += chunk
        if not data:
            raise ImageError("it is empty (0 bytes)")
        return bytes(data)

    async def _resolve(self, host: str) -> str:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        address = str(found[0][4][0])
        if not is_public(address) and not any(address == allowed for allowed, _ in self._allowed):
            raise ImageError(f"the address of {host} is not a public one")
        return address


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the public internet, also if it is an IPv4 address within IPv6."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        translated = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None
        ip = ip.ipv4_mapped or ip.sixtofour or translated or ip
    return ip.is_global and not ip.is_multicast
