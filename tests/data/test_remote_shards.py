"""Shards on a server: fetched whole, kept within bounds, read in an order that needs few of them at a time."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re

import numpy as np
import pytest

from effnets.data import DataConfig, download, open_data, open_evaluation_data, shard_cache
from effnets.data.augmentation import Augmentation
from effnets.data.loader import EpochLoader
from effnets.data.sampling import SHARDS_AT_ONCE, shuffled_order, some_images
from effnets.data.shard_cache import ShardCache
from effnets.data.transforms import TrainTransform
from effnets.errors import ArgumentError, DataError
from effnets.spec.specs import PreprocessSpec
from tests.support.data_sets import pack, picture
from tests.support.shard_server import serving

SHARDS, EACH = 24, 4


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFNETS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download, "_PAUSE", 0.001)
    return tmp_path / "home" / "shards"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Shards of four pictures each, classes by turns."""
    folder = tmp_path_factory.mktemp("shards")
    made = {}
    for shard in range(SHARDS):
        content = {}
        for number in range(EACH):
            content[f"{shard:02}-{number}.jpg"] = picture(100 * shard + number)
            content[f"{shard:02}-{number}.cls"] = str(number % 2).encode()
        name = f"part-{shard:02}.tar"
        made[name] = pack(folder / name, content).read_bytes()
    return made


@pytest.fixture
def server(files):
    with serving(files) as server:
        yield server


def pattern(server, last=SHARDS - 1):
    return f"{server.address}part-{{00..{last:02}}}.tar"


def held(folder):
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix == ".tar")


def limit_to(monkeypatch, shards, files):
    size = len(files["part-00.tar"])
    monkeypatch.setenv("EFFNETS_SHARDS_GIB", str((shards + 0.9) * size / 2**30))


def test_pictures_come_as_they_are(server):
    source = open_data(DataConfig(pattern(server), val_share=0)).train
    assert (len(source), source.class_names) == (SHARDS * EACH, ("0", "1"))
    assert source.labels.tolist() == [0, 1] * (SHARDS * EACH // 2)
    assert source.read(5) == picture(101)
    assert source.name(5) == f"{server.address}part-01.tar/01-1.jpg"
    assert server.asked == {f"part-{shard:02}.tar": 1 for shard in range(SHARDS)}
    again = open_data(DataConfig(pattern(server), val_share=0)).train
    assert again.read(5) == picture(101)
    assert set(server.asked.values()) == {1}  # all of it is known and here


def test_it_is_told_how_far_looking_into_shards_is(server):
    told = []
    open_data(pattern(server, 3), progress=lambda what, share: told.append((what, share)))
    assert told == [(f"looking into shard {number + 1} of 4", number / 4) for number in range(4)]
    assert len(server.asked) == 4
    open_evaluation_data(pattern(server, 3), progress=lambda what, share: told.append((what, share)))
    assert told[4:] == told[:4]


def test_a_cache_smaller_than_the_data(server, files, home, monkeypatch):
    limit_to(monkeypatch, 10, files)
    source = open_data(DataConfig(pattern(server), val_share=0)).train
    server.asked.clear()
    for epoch in (0, 1):
        for index in shuffled_order(len(source), 3, epoch, source.shards):
            assert source.read(int(index)) == picture(100 * (index // EACH) + index % EACH)
            assert len([path for path in home.iterdir() if path.suffix == ".tar"]) <= 10
    # Each shard once in an epoch, as its pictures come one after the other; what is left from before is not fetched.
    assert max(server.asked.values()) <= 2
    assert server.asked.total() <= 2 * SHARDS


def test_a_cache_too_small_is_refused(server, files, monkeypatch):
    limit_to(monkeypatch, 2 * SHARDS_AT_ONCE - 2, files)
    with pytest.raises(
        DataError, match=r"may hold .* GiB of shards, but 8 of these take .*; set EFFNETS_SHARDS_GIB to"
    ):
        open_data(pattern(server))
    monkeypatch.setenv("EFFNETS_SHARDS_GIB", "lots")
    with pytest.raises(ArgumentError, match="EFFNETS_SHARDS_GIB is 'lots'; give the room"):
        open_data(pattern(server))


def test_orders_keep_to_few_shards(server):
    source = open_data(DataConfig(pattern(server), val_share=0)).train
    orders = [shuffled_order(len(source), 3, epoch, source.shards) for epoch in (0, 1)]
    assert all(np.array_equal(np.sort(order), np.arange(len(source))) for order in orders)
    assert not np.array_equal(*orders)
    assert np.array_equal(orders[0], shuffled_order(len(source), 3, 0, source.shards))
    for turn in np.split(source.shards[orders[0]], SHARDS // SHARDS_AT_ONCE):
        assert len(np.unique(turn)) == SHARDS_AT_ONCE
    assert len(np.unique(source.shards[some_images(source, 3, 10)])) <= SHARDS_AT_ONCE


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_go_on_from_any_position(server, files, monkeypatch, workers):
    limit_to(monkeypatch, 10, files)
    source = open_data(DataConfig(pattern(server), val_share=0)).train
    transform = TrainTransform(PreprocessSpec(input_size=8), 8, Augmentation())

    def batches(workers, start=0):
        return list(EpochLoader(source, transform, batch_size=5, seed=3, workers=workers).batches(1, start))

    whole = batches(0)
    assert len(whole) == 19
    for one, other in zip(whole[7:], batches(workers, 7), strict=True):
        assert one.indices.tolist() == other.indices.tolist()
        assert one.images.equal(other.images)


def test_whole_shards_validate(server):
    splits = open_data(DataConfig(pattern(server), val_share=0.2), seed=1)
    assert [len(splits.train), len(splits.val)] == [19 * EACH, 5 * EACH]
    assert not set(splits.train.shards) & set(splits.val.shards)
    assert "5 of 24 shards are taken from training to validate by, whatever classes these hold" in splits.notes
    assert "pictures on a server: neither broken ones nor duplicates between splits were looked for" in splits.notes
    alone = open_data(DataConfig(f"{server.address}part-03.tar", val_share=0.2))
    assert (alone.val, alone.train.read(0)) == (None, picture(300))


def test_splits_by_their_names(files):
    with serving({"train-0.tar": files["part-00.tar"], "val-0.tar": files["part-01.tar"]}) as server:
        splits = open_data(f"{server.address}{{train,val}}-0.tar")
        assert [len(splits.train), len(splits.val)] == [EACH, EACH]
        data = open_evaluation_data(f"{server.address}{{train,val}}-0.tar")
        assert (data.split, data.source.read(1)) == ("val", picture(101))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_transfer_that_is_cut_goes_on(server, files, ranges):
    server.ranges, server.cuts, server.refusals = ranges, [700, 800], [503]
    source = open_data(DataConfig(f"{server.address}part-00.tar", val_share=0)).train
    assert source.read(3) == picture(3)
    assert server.asked["part-00.tar"] == 4
    assert server.resumed == (2 if ranges else 0)
    assert server.sent == len(files["part-00.tar"]) + (0 if ranges else 1500)


def test_another_part_than_was_asked_for_is_not_taken(server):
    server.cuts, server.misplaced = [700], 1
    source = open_data(DataConfig(f"{server.address}part-00.tar", val_share=0)).train
    assert source.read(3) == picture(3)
    assert (server.asked["part-00.tar"], server.resumed) == (3, 1)


def test_a_range_behind_the_end_starts_anew(server):
    server.cuts, server.refusals = [700], [0, 416]
    source = open_data(DataConfig(f"{server.address}part-00.tar", val_share=0)).train
    assert source.read(3) == picture(3)
    assert (server.asked["part-00.tar"], server.resumed) == (3, 0)


def test_transfers_that_are_always_cut_are_given_up(server, home):
    server.cuts = [100] * 5
    with pytest.raises(
        DataError, match=r"part-00.tar: cannot be fetched \(cut after 100 of .* bytes, 5 times\); check"
    ):
        open_data(f"{server.address}part-00.tar")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.tar", None, r"gone.tar: cannot be fetched \(HTTP 404, Not Found\); check the address"),
        ("cut.tar", "half", r"http://127\S+cut.tar: is cut short after .* bytes; copy or download it again"),
        ("text.tar", b"<html>Sign in</html>", r"http://127\S+text.tar: cannot be read as a tar archive"),
    ],
)
def test_faults_are_named_by_address(files, home, name, content, message):
    whole = files["part-00.tar"]
    content = whole[: len(whole) // 2] if content == "half" else content
    with serving({} if content is None else {name: content}) as server:
        with pytest.raises(DataError, match=message):
            open_data(f"{server.address}{name}")
        assert not [path for path in home.iterdir() if path.suffix in (".tar", ".json", ".partial")]


def test_no_server():
    with pytest.raises(DataError, match=r"cannot be fetched \(.*refused.*, 5 times\)"):
        open_data("http://127.0.0.1:9/part-00.tar")


def test_a_shard_that_changes_is_noticed(server, files):
    source = open_data(DataConfig(f"{server.address}part-00.tar", val_share=0)).train
    source._cache.forget(f"{server.address}part-00.tar")
    server.files["part-00.tar"] = files["part-00.tar"] + bytes(512)
    with pytest.raises(
        DataError, match=r"part-00.tar: has changed since its samples were found .*; remove .*\.json and"
    ):
        source.read(0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_server_that_goes_away_ends_the_epoch_plainly(files, workers):
    with serving(files) as server:
        source = open_data(DataConfig(f"{server.address}part-{{00..03}}.tar", val_share=0)).train
    for shard in range(4):
        source._cache.forget(source.archives[shard])
    loader = EpochLoader(source, TrainTransform(PreprocessSpec(input_size=8), 8), batch_size=4, workers=workers)
    with pytest.raises(
        DataError, match=r"^http\S+ cannot be fetched \([^\n]*\); check the address and the network[^\n]*$"
    ):
        list(loader.batches(0))


def test_classes_in_turn_are_refused(server):
    source = open_data(DataConfig(pattern(server), val_share=0)).train
    with pytest.raises(ArgumentError, match="set balance to weights"):
        EpochLoader(source, TrainTransform(PreprocessSpec(input_size=8), 8), batch_size=4, order="balanced")


def test_a_disk_that_refuses_is_named(server, home):
    home.parent.mkdir(parents=True)
    home.write_text("no folder")
    with pytest.raises(
        DataError, match=r"shards: cannot be written \(.*\); make room, lower EFFNETS_SHARDS_GIB, or name"
    ):
        open_data(f"{server.address}part-00.tar")


def read_all(cache, urls, sizes):
    sizes.put([len(cache.open(url).read()) for url in urls])


def test_processes_share_what_is_fetched(server, files, home):
    cache = ShardCache(folder=home, limit=1 << 30)
    urls = [server.address + name for name in sorted(files)]
    context = multiprocessing.get_context("fork")
    queues = [context.SimpleQueue() for _ in range(3)]
    processes = [context.Process(target=read_all, args=(cache, urls, queue)) for queue in queues]
    for process in processes:
        process.start()
    for process, queue in zip(processes, queues, strict=True):
        assert queue.get() == [len(files[name]) for name in sorted(files)]
        process.join()
    assert set(server.asked.values()) == {1}
    assert pickle.loads(pickle.dumps(cache)) == cache


def test_what_was_needed_last_stays(server, files, home):
    size = len(files["part-00.tar"])
    cache = ShardCache(folder=home, limit=3 * size + size // 2)
    urls = [f"{server.address}part-{shard:02}.tar" for shard in range(5)]
    for moment, url in enumerate(urls[:3]):
        cache.open(url).close()
        os.utime(cache.path(url), (1000 + moment, 1000 + moment))
    cache.open(urls[0]).close()
    cache.open(urls[3]).close()
    cache.open(urls[4]).close()
    assert [cache.path(url).exists() for url in urls] == [True, False, False, True, True]
    assert held(home) <= cache.limit
    assert re.fullmatch(r"[0-9a-f]{16}-part-00\.tar", cache.path(urls[0]).name)
    assert shard_cache.default_cache().limit == 16 << 30
