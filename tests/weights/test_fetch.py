"""Fetching published weights with the real client, from a Hub on this machine that misbehaves on purpose."""

from __future__ import annotations

import hashlib
import os
import random
import time
from pathlib import Path

import pytest

from tests.support.clients import Machine, finish, wait_for
from tests.support.faulty_hub import COMMIT, TOKEN, Fault, serve

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = f"net-{SHA256[:8]}.pth"


@pytest.fixture
def hub():
    with serve() as server:
        server.files = {"org/repo/model.safetensors": CONTENT, f"files/{NAME}": CONTENT}
        yield server


@pytest.fixture
def machine(hub, tmp_path):
    return Machine(tmp_path, hub.url)


def spec(hub, kind: str) -> dict:
    """What to ask for: a file of the Hub, or one by URL whose name states its hash."""
    if kind == "hub":
        return {"source": "hf-hub:org/repo"}
    return {"source": f"{hub.url}/files/{NAME}", "sha256_prefix": SHA256[:8]}


both = pytest.mark.parametrize("kind", ["hub", "url"])


def assert_good(answer: dict) -> None:
    assert "error" not in answer, answer
    assert Path(answer["path"]).read_bytes() == CONTENT
    assert answer["sha256"] == SHA256
    assert answer["seconds"] < 60


def assert_refused(answer: dict, error: str, *parts: str) -> None:
    assert answer.get("error") == error, answer
    for part in parts:
        assert part in answer["message"]
    assert "\n" not in answer["message"]
    assert answer["seconds"] < 60


@both
def test_once_fetched_it_costs_no_request_and_no_hash(hub, machine, kind):
    first = machine.fetch(**spec(hub, kind))
    assert_good(first)
    expected = f"hf-hub:org/repo@{COMMIT}/model.safetensors" if kind == "hub" else spec(hub, kind)["source"]
    assert first["source"] == expected
    asked = len(hub.requests)
    assert sum("/files/" in request or "/resolve/" in request for request in hub.requests) <= 3
    assert list((machine.home / "verified").iterdir())
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        assert_good(machine.fetch(environment, **spec(hub, kind)))
    assert len(hub.requests) == asked


PASSING = {
    "500": Fault(500, 1),
    "503": Fault(503, 1),
    "429": Fault(429, 1, headers={"Retry-After": "1"}),
    "head-500": Fault(500, 1, "HEAD"),
    "head-429": Fault(429, 1, "HEAD", {"Retry-After": "1"}),
    "cut": Fault("cut", 1),
    "flip": Fault("flip", 1),
    "short": Fault("short", 1),
    "stall": Fault("stall", 1),
}


@both
@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_is_not_noticed(hub, machine, kind, fault):
    if kind == "url" and fault.startswith("head"):
        pytest.skip("a URL is not asked with HEAD")
    if kind == "url" and fault == "short":
        pytest.skip("a URL announces no other length than the one it sends")
    passing = PASSING[fault]
    hub.faults = [Fault(passing.kind, passing.times, passing.method, passing.headers)]
    assert_good(machine.fetch(**spec(hub, kind)))
    assert hub.faults[0].times == 0


LASTING = {
    "500": (Fault(500), "DownloadError", "the server answers 500"),
    "cut": (Fault("cut"), "DownloadError", "check the connection and try again"),
    "flip": (Fault("flip"), "WeightsError", "refused: its sha256 is"),
    "short": (Fault("short"), "DownloadError", "file should be of size 300000 but has size 150000"),
    "stall": (Fault("stall"), "DownloadError", "ReadTimeout"),
}


@both
@pytest.mark.parametrize("fault", LASTING)
def test_a_fault_that_lasts_is_one_error_and_leaves_nothing(hub, machine, kind, fault):
    lasting, error, message = LASTING[fault]
    if fault == "short" and kind == "url":
        error, message = "WeightsError", "the file's name says"
    hub.faults = [Fault(lasting.kind, headers=lasting.headers)]
    assert_refused(machine.fetch(**spec(hub, kind)), error, "m.t: http://127.0.0.1", message)
    assert machine.leftovers() == []
    hub.faults = []
    assert_good(machine.fetch(**spec(hub, kind)))


def test_a_pin_that_the_hub_s_file_does_not_have(machine):
    pin = "0" * 64
    assert_refused(machine.fetch(sha256=pin), "WeightsError", f"its sha256 is {SHA256}, and the pin says {pin}")
    assert machine.leftovers() == []
    assert_good(machine.fetch(sha256=SHA256))


def test_missing_things(hub, machine):
    stale = "scripts/check_sources.py"
    assert_refused(machine.fetch(source="hf-hub:org/gone"), "DownloadError", "no such repository (404)", stale)
    assert_refused(machine.fetch(file="gone.bin"), "DownloadError", "no such file there (404)", stale)
    assert_refused(machine.fetch(source=f"{hub.url}/gone.pth"), "DownloadError", "no such file there (404)", stale)
    assert_good(machine.fetch())


def test_private_repositories_want_a_good_token(hub, machine):
    hub.private = {"org/repo"}
    for token in ({}, {"HF_TOKEN": "hf_expired"}):
        assert_refused(machine.fetch(token), "DownloadError", "access is refused (401)", "HF_TOKEN", "hf auth login")
    assert_good(machine.fetch({"HF_TOKEN": TOKEN}))


@both
def test_offline_without_a_cache(hub, machine, kind, tmp_path):
    offline = {"HF_HUB_OFFLINE": "1", "EFFNETS_WEIGHTS_DIR": str(tmp_path)}
    answer = machine.fetch(offline, **spec(hub, kind))
    assert_refused(answer, "DownloadError", "HF_HUB_OFFLINE is set", "effnets prefetch m.t", "EFFNETS_WEIGHTS_DIR")
    assert str(tmp_path / "m.t") in answer["message"]
    assert hub.requests == []


def test_nobody_answers(machine):
    machine.endpoint = "http://127.0.0.1:9"
    assert_refused(machine.fetch(), "DownloadError", "ConnectError", "HF_ENDPOINT")


@both
def test_a_cache_folder_that_cannot_be_written(hub, machine, kind, tmp_path):
    # A file in the folder's place: for root, no folder is read-only.
    (tmp_path / "file").touch()
    broken = {"HF_HOME": str(tmp_path / "file" / "hf"), "EFFNETS_HOME": str(tmp_path / "file" / "home")}
    assert_refused(machine.fetch(broken, **spec(hub, kind)), "DownloadError", "the cache cannot be written", "HF_HOME")
    assert_good(machine.fetch(**spec(hub, kind)))


def test_what_cannot_be_remembered_is_hashed_again(machine, tmp_path):
    (tmp_path / "file").touch()
    for _ in range(2):
        assert_good(machine.fetch({"EFFNETS_HOME": str(tmp_path / "file")}))


@both
def test_a_full_disk(hub, machine, kind):
    """The process may write files of 100 kB at most."""
    answer = machine.fetch(limit=100_000, **spec(hub, kind))
    assert_refused(answer, "DownloadError", "no room on the disk", "HF_HOME")
    assert machine.leftovers() == []
    assert_good(machine.fetch(**spec(hub, kind)))


@both
def test_a_killed_process_leaves_nothing_that_is_used(hub, machine, kind):
    hub.faults = [Fault("stall", 1)]
    process = machine.start_fetch({"HF_HUB_DOWNLOAD_TIMEOUT": "30"}, **spec(hub, kind))
    wait_for(lambda: any(request.startswith("GET") for request in hub.requests))
    process.kill()
    process.communicate()
    assert_good(machine.fetch(**spec(hub, kind)))


def test_a_filesystem_without_links(hub, machine):
    """huggingface_hub then keeps the file itself where the link would be, and its hash nowhere."""
    for environment in ({}, {}, {"HF_HUB_OFFLINE": "1"}):
        answer = machine.fetch(environment, linkless=True)
        assert_good(answer)
        assert not Path(answer["path"]).is_symlink()
        asked = len(hub.requests)
        hub.faults = [Fault(500), Fault(500, method="HEAD")]
    assert asked == len(hub.requests)


def test_a_flipped_byte_is_refused_without_links_too(hub, machine):
    hub.faults = [Fault("flip", 1)]
    assert_good(machine.fetch(linkless=True))
    assert len(machine.leftovers()) == 1


def test_lasting_flips_are_refused_without_links_too(hub, machine):
    hub.faults = [Fault("flip")]
    assert_refused(machine.fetch(linkless=True), "WeightsError", "refused: its sha256 is", "the server says")
    assert machine.leftovers() == []


def test_without_hf_xet_the_hub_s_files_come_by_http(hub, machine):
    hub.xet = "a" * 64
    for _ in range(2):
        assert_good(machine.fetch(xetless=True))
    assert sum(request.startswith("GET /org/repo/resolve/") for request in hub.requests) == 1


@pytest.fixture
def lock(machine):
    """Make the caches read-only, until the test ends."""
    machine.obedient = True
    roots = (machine.cache.parent, machine.home)

    def set_mode(mode: int) -> None:
        for root in roots:
            for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
                folder.chmod(mode)

    def lock() -> None:
        for root in roots:
            root.mkdir(parents=True, exist_ok=True)
        set_mode(0o555)
        probe = machine.start("import sys; open(sys.argv[1], 'w')", str(machine.home / "probe"))
        probe.communicate()
        if probe.returncode == 0:
            pytest.skip("permissions bind nobody here")

    yield lock
    set_mode(0o755)


@both
def test_a_read_only_cache_serves_what_it_has(hub, machine, kind, lock):
    assert_good(machine.fetch(**spec(hub, kind)))
    lock()
    asked = len(hub.requests)
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        assert_good(machine.fetch(environment, **spec(hub, kind)))
    assert len(hub.requests) == asked


@both
def test_a_read_only_cache_without_the_file(hub, machine, kind, lock):
    lock()
    assert_refused(machine.fetch(**spec(hub, kind)), "DownloadError", "the cache cannot be written", "HF_HOME")
    assert machine.leftovers() == []


@both
def test_a_read_only_cache_with_a_damaged_file(hub, machine, kind, lock):
    path = Path(machine.fetch(**spec(hub, kind))["path"]).resolve()
    path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    os.utime(path, ns=(1, 1))
    lock()
    error, message = ("WeightsError", "remove it yourself") if kind == "hub" else ("DownloadError", "EFFNETS_HOME")
    assert_refused(machine.fetch(**spec(hub, kind)), error, "cannot be", message)


@both
def test_what_a_killed_process_left_goes_with_the_next_fetch(hub, machine, kind):
    """After a day: until then it may be another process's that is still fetching, and no lock tells on every disk."""
    hub.faults = [Fault("stall", 1)]
    process = machine.start_fetch({"HF_HUB_DOWNLOAD_TIMEOUT": "30"}, **spec(hub, kind))
    wait_for(lambda: any(request.startswith(("GET /org/repo/resolve/", "GET /files/")) for request in hub.requests))
    process.kill()
    process.communicate()
    (old,) = (machine.folder / name for name in machine.leftovers())
    young = old.with_name(old.name.replace(SHA256, SHA256 + ".0") if kind == "hub" else old.name + "0")
    young.touch()
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    assert_good(machine.fetch(**spec(hub, kind)))
    assert not old.exists()
    assert young.exists()


def test_what_is_damaged_in_a_cache_without_links_is_fetched_again(machine):
    path = Path(machine.fetch(linkless=True)["path"])
    path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    os.utime(path, ns=(1, 1))
    assert_good(machine.fetch(linkless=True))


def test_what_is_damaged_in_the_store_of_all_repositories_is_fetched_again(hub, machine):
    """huggingface_hub 2 links a repository's blobs to ones that they share, by the hash in Xet's storage."""
    hub.xet = "a" * 64
    blob = Path(machine.fetch(xetless=True)["path"]).resolve()
    store = machine.cache / "blobs"
    shared = store / "aa" / hub.xet
    shared.parent.mkdir(parents=True)
    (store / ".huggingface-shared-blobs").write_text("1\n")
    shared.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    blob.unlink()
    blob.symlink_to(Path("..", "..", "blobs", "aa", hub.xet))
    assert_good(machine.fetch(xetless=True))


@both
def test_two_processes_at_once_fetch_once(hub, machine, kind):
    hub.slowness = 2.0
    processes = [machine.start_fetch({"HF_HUB_DOWNLOAD_TIMEOUT": "30"}, **spec(hub, kind)) for _ in range(2)]
    for process in processes:
        assert_good(finish(process))
    asked = [request for request in hub.requests if "/files/" in request or "/resolve/" in request]
    assert sum(request.startswith("GET") for request in asked) == 1, hub.requests


@both
def test_what_is_damaged_in_the_cache_is_fetched_again(hub, machine, kind):
    path = Path(machine.fetch(**spec(hub, kind))["path"]).resolve()
    path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    os.utime(path, ns=(1, 1))
    assert_good(machine.fetch(**spec(hub, kind)))


def test_what_another_program_fetched_is_hashed_once(hub, machine):
    path = Path(machine.fetch()["path"]).resolve()
    markers = list((machine.home / "verified").iterdir())
    for marker in markers:
        marker.unlink()
    asked = len(hub.requests)
    assert_good(machine.fetch())
    assert list((machine.home / "verified").iterdir()) == markers
    for marker in markers:
        marker.unlink()
    path.write_bytes(b"0" + CONTENT[1:])
    offline = machine.fetch({"HF_HUB_OFFLINE": "1"})
    assert_refused(offline, "DownloadError", "HF_HUB_OFFLINE is set")
    assert len(hub.requests) == asked
    assert_good(machine.fetch())


def test_a_folder_of_files_comes_first(hub, machine, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    variable = {"EFFNETS_WEIGHTS_DIR": str(folder)}
    assert_good(machine.fetch(variable))
    asked = len(hub.requests)
    for name in ("org/repo/model.safetensors", "m.t.safetensors"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CONTENT)
        assert machine.fetch(variable)["source"] == str(path)
    assert len(hub.requests) == asked
    assert_refused(machine.fetch(variable, sha256="0" * 64), "WeightsError", "m.t.safetensors: refused: its sha256 is")
    assert path.is_file()
    missing = {"EFFNETS_WEIGHTS_DIR": str(folder / "gone")}
    assert_refused(machine.fetch(missing), "MissingFileError", "gone: no such folder, and EFFNETS_WEIGHTS_DIR names it")
