"""The user's token: shown to the Hub, and not to any other server, whoever sends the client there."""

from __future__ import annotations

import io

import huggingface_hub
import pytest

from effnets.data import download
from effnets.data.download import download as fetch
from effnets.data.download import is_hub
from effnets.errors import DataError
from tests.support.shard_server import serving

TOKEN = "Bearer hf_secret"


@pytest.fixture(autouse=True)
def token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(download, "_PAUSE", 0.001)


@pytest.fixture
def servers(monkeypatch):
    with serving({"shard.tar": b"content of the Hub's"}) as hub, serving({"shard.tar": b"content"}) as other:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address.rstrip("/"))
        yield hub, other


def content(url):
    file = io.BytesIO()
    fetch(url, file, lambda _size: None)
    return file.getvalue()


def test_the_hub_is_shown_the_token_also_where_a_transfer_goes_on(servers):
    hub, other = servers
    hub.cuts = [5]
    assert content(f"{hub.address}shard.tar") == b"content of the Hub's"
    assert (hub.tokens, hub.resumed) == ([TOKEN, TOKEN], 1)
    assert other.tokens == []


def test_no_other_server_is(servers):
    hub, other = servers
    assert content(f"{other.address}shard.tar") == b"content"
    assert (other.tokens, hub.tokens) == ([None], [])


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_server_that_the_hub_sends_on_to_is_not(servers, status):
    hub, other = servers
    hub.redirects["shard.tar"] = (status, f"{other.address}shard.tar")
    other.cuts = [3]
    assert content(f"{hub.address}shard.tar") == b"content"
    assert hub.tokens == [TOKEN, TOKEN]
    assert other.tokens == [None, None]
    assert other.resumed == 1


def test_within_the_hub_it_goes_along(servers):
    hub, other = servers
    hub.redirects = {"old.tar": (307, "/shard.tar"), "far.tar": (302, f"{other.address}back.tar")}
    other.redirects = {"back.tar": (302, f"{hub.address}shard.tar")}
    assert content(f"{hub.address}old.tar") == b"content of the Hub's"
    assert hub.tokens == [TOKEN, TOKEN]
    assert content(f"{other.address}back.tar") == b"content of the Hub's"
    assert other.tokens == [None]
    assert hub.tokens[2:] == [TOKEN]
    assert content(f"{hub.address}far.tar") == b"content of the Hub's"
    assert (other.tokens, hub.tokens[3:]) == ([None, None], [TOKEN, TOKEN])


def test_without_a_token_or_leave_to_show_it_there_is_none(servers, monkeypatch):
    hub, _ = servers
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    content(f"{hub.address}shard.tar")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/nowhere")
    content(f"{hub.address}shard.tar")
    assert hub.tokens == [None, None]


@pytest.mark.parametrize("status", [401, 403])
def test_refusals_say_what_to_do(servers, status):
    hub, other = servers
    hub.refusals, other.refusals = [status], [status]
    with pytest.raises(
        DataError, match=rf"shard.tar: access is refused \(HTTP {status}.*set HF_TOKEN, or run 'hf auth"
    ):
        content(f"{hub.address}shard.tar")
    with pytest.raises(DataError, match=rf"shard.tar: cannot be fetched \(HTTP {status}"):
        content(f"{other.address}shard.tar")


def test_which_addresses_are_the_hubs(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://huggingface.co")
    for address in ("https://huggingface.co/a", "https://HuggingFace.co:443/a", "https://user@huggingface.co/a"):
        assert is_hub(address)
    for address in (
        "http://huggingface.co/a",
        "https://huggingface.co:8443/a",
        "https://huggingface.co.example.org/a",
        "https://cdn.huggingface.co/a",
        "https://huggingface.co@example.org/a",
        "https://example.org/https://huggingface.co/a",
        "https://huggingface.co:port/a",
    ):
        assert not is_hub(address)
