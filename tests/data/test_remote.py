"""Shards on a server: fetched once and kept if they are few, streamed if they are many."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from effnets.data import DataConfig, open_data, open_evaluation_data, remote
from effnets.data.augmentation import Augmentation
from effnets.data.loader import EpochLoader
from effnets.data.sampling import some_images
from effnets.data.transforms import TrainTransform
from effnets.errors import ArgumentError, DataError
from effnets.spec.specs import PreprocessSpec
from tests.support.data_sets import kept, pack, picture
from tests.support.shard_server import serving

SHARDS, EACH = 12, 4
TRANSFORM = TrainTransform(PreprocessSpec(input_size=8), 8, Augmentation())


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFNETS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(remote, "_PAUSE", 0.001)
    return tmp_path / "home" / "shards"


@pytest.fixture
def streaming(monkeypatch):
    """Room for a few shards only."""
    monkeypatch.setenv("EFFNETS_SHARDS_GIB", str(40_000 / 2**30))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Shards of four images each, classes by turns."""
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


def train(data):
    return open_data(DataConfig(data, val_share=0)).train


def held(home):
    return sorted(path.name[17:] for path in home.iterdir() if path.suffix == ".tar")


def test_few_shards_are_fetched_once_and_kept(server, home):
    source = train(pattern(server))
    assert (len(source), source.class_names) == (SHARDS * EACH, ("0", "1"))
    assert source.labels.tolist() == [0, 1] * (SHARDS * EACH // 2)
    assert source.shards is None
    assert source.read(5) == picture(101)
    assert source.name(5) == f"{server.address}part-01.tar/01-1.jpg"
    assert server.asked == {f"part-{shard:02}.tar": 1 for shard in range(SHARDS)}
    assert train(pattern(server)).read(5) == picture(101)
    assert set(server.asked.values()) == {1}
    assert held(home) == sorted(server.files)


@pytest.mark.usefixtures("streaming")
def test_many_shards_are_listed_once_and_read_on_demand(server, home):
    source = train(pattern(server))
    assert source.shards.tolist() == sorted([*range(SHARDS)] * EACH)
    assert server.asked == {f"part-{shard:02}.tar": 1 for shard in range(SHARDS)}
    assert 0 < len(held(home)) < SHARDS
    again = train(pattern(server))
    assert set(server.asked.values()) == {1}
    assert [again.read(index) for index in (1, 47)] == [picture(1), picture(1103)]
    assert (server.asked["part-00.tar"], server.asked["part-11.tar"]) == (1, 2)
    assert pickle.loads(pickle.dumps(again)).read(47) == picture(1103)
    assert len(np.unique(source.shards[some_images(source, 3, 10)])) == 3


def test_progress_of_listing_shards(server):
    calls = []
    open_data(pattern(server, 3), progress=lambda what, share: calls.append((what, share)))
    listing = [(f"reading shard {number + 1} of 4", number / 4) for number in range(4)]
    assert calls[:4] == listing
    assert len(server.asked) == 4
    calls.clear()
    open_evaluation_data(pattern(server, 3), progress=lambda what, share: calls.append((what, share)))
    assert calls[:4] == listing


def test_the_limit_is_checked(server, monkeypatch):
    monkeypatch.setenv("EFFNETS_SHARDS_GIB", "lots")
    with pytest.raises(ArgumentError, match="EFFNETS_SHARDS_GIB is 'lots'; give the disk space"):
        train(pattern(server))


def same(one, other):
    return len(one) == len(other) and all(
        a.number == b.number and a.indices.equal(b.indices) and a.images.equal(b.images) and a.labels.equal(b.labels)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_streamed_epoch(server, home, workers):
    source = train(pattern(server))
    server.asked.clear()
    loader = EpochLoader(source, TRANSFORM, batch_size=4, seed=3, workers=workers)
    whole = list(loader.batches(1))
    assert [batch.number for batch in whole] == list(range(SHARDS))
    indices = np.concatenate([batch.indices for batch in whole])
    if not workers:
        assert np.array_equal(np.sort(indices), np.arange(SHARDS * EACH))
        assert set(server.asked.values()) == {1}  # what is kept is not fetched
    assert len(np.unique(indices)) > 0.9 * SHARDS * EACH
    assert not np.array_equal(indices, np.sort(indices))
    assert all(np.array_equal(batch.labels, source.labels[batch.indices]) for batch in whole)
    assert same(list(loader.batches(1)), whole)
    assert not same(list(loader.batches(2)), whole)
    assert same(list(loader.batches(1, 7)), whole[7:])
    assert list(loader.batches(1, SHARDS)) == []
    loader.close()
    assert len(held(home)) < SHARDS
    assert not [path for path in kept(home) if path.is_dir()]


@pytest.mark.usefixtures("streaming")
def test_processes_share_a_streamed_epoch(server):
    source = train(pattern(server))
    parts = [
        list(EpochLoader(source, TRANSFORM, batch_size=4, seed=3, rank=rank, world_size=2).batches(0))
        for rank in range(2)
    ]
    assert [[batch.number for batch in part] for part in parts] == [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]
    indices = np.concatenate([batch.indices for part in parts for batch in part])
    assert np.array_equal(np.sort(indices), np.arange(SHARDS * EACH))
    resumed = EpochLoader(source, TRANSFORM, batch_size=4, seed=3, rank=1, world_size=2).batches(0, 4)
    assert same(list(resumed), parts[1][2:])


@pytest.mark.usefixtures("streaming")
def test_a_streamed_subset(server):
    source = train(pattern(server)).subset(np.arange(2, 38))
    loader = EpochLoader(source, TRANSFORM, batch_size=4)
    batches = list(loader.batches(0))
    assert np.array_equal(np.sort(np.concatenate([batch.indices for batch in batches])), np.arange(36))
    assert all(np.array_equal(batch.labels, source.labels[batch.indices]) for batch in batches)


@pytest.mark.usefixtures("streaming")
def test_whole_shards_validate(server):
    splits = open_data(DataConfig(pattern(server), val_share=0.2), seed=1)
    assert [len(splits.train), len(splits.val)] == [10 * EACH, 2 * EACH]
    assert not set(splits.train.shards) & set(splits.val.shards)
    assert "2 of 12 files are taken from training for validation, whatever their classes" in splits.notes
    assert "streamed images: not checked for corrupt ones or for duplicates between splits" in splits.notes


def test_splits_by_their_names(files):
    with serving({"train-0.tar": files["part-00.tar"], "val-0.tar": files["part-01.tar"]}) as server:
        splits = open_data(f"{server.address}{{train,val}}-0.tar")
        assert [len(splits.train), len(splits.val)] == [EACH, EACH]
        data = open_evaluation_data(f"{server.address}{{train,val}}-0.tar")
        assert (data.split, data.source.read(1)) == ("val", picture(101))


def test_a_transfer_that_is_cut_is_repeated(server):
    server.cuts, server.refusals = [700, 800], [503]
    assert train(f"{server.address}part-00.tar").read(3) == picture(3)
    assert server.asked["part-00.tar"] == 4


def test_transfers_that_are_always_cut_are_given_up(server, home):
    server.cuts = [100] * 5
    with pytest.raises(DataError, match=r"part-00.tar: cannot be fetched \(.*100 bytes read.*, 5 times\); check"):
        train(f"{server.address}part-00.tar")
    assert kept(home) == []


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
            train(f"{server.address}{name}")
        assert kept(home) == []


def test_no_server():
    with pytest.raises(DataError, match=r"cannot be fetched \(.*refused.*, 5 times\)"):
        train("http://127.0.0.1:9/part-00.tar")


@pytest.mark.usefixtures("streaming")
def test_a_shard_that_changes_is_noticed(server, files):
    source = train(pattern(server))
    server.files["part-11.tar"] = files["part-11.tar"] + bytes(512)
    with pytest.raises(DataError, match=r"part-11.tar: has changed since its samples were listed .*; remove .*\.json"):
        source.read(47)


@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_server_that_goes_away_ends_the_epoch_plainly(files, workers):
    with serving(files) as server:
        source = train(pattern(server))
    loader = EpochLoader(source, TRANSFORM, batch_size=4, workers=workers)
    with pytest.raises(
        DataError, match=r"^http\S+ cannot be fetched \([^\n]*\); check the address and the network[^\n]*$"
    ):
        list(loader.batches(0))


@pytest.mark.usefixtures("streaming")
def test_balanced_classes_are_refused(server):
    with pytest.raises(ArgumentError, match="set balance to weights"):
        EpochLoader(train(pattern(server)), TRANSFORM, batch_size=4, order="balanced")


def test_a_disk_that_refuses_is_named(server, home):
    home.parent.mkdir(parents=True)
    home.write_text("no folder")
    with pytest.raises(DataError, match=r"shards\S* cannot be written \(.*\); free space there, lower EFFNETS_SH"):
        train(f"{server.address}part-00.tar")


def test_no_server_but_the_hub_gets_the_token(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    train(pattern(server, 1))
    assert server.tokens == [None, None]


def test_litter_and_samples_without_a_label(tmp_path):
    content = {f"{n}.jpg": picture(n) for n in range(4)} | {
        f"{n}.cls": label for n, label in enumerate((b"3", b"", b"7", b"-1"))
    }
    content |= {"._0.jpg": b"\0\5\26\7", "__MACOSX/._0.cls": b"\0\5\26\7"}
    name = "set-train-0.tar"
    with serving({name: pack(tmp_path / name, content).read_bytes()}) as server:
        splits = open_data(DataConfig(server.address + name, val_share=0))
        assert (splits.class_names, splits.train.labels.tolist(), splits.train.read(1)) == (
            ("3", "7"),
            [0, 1],
            picture(2),
        )
        assert "left out of all: 2 images without a label, set-train-0.tar/1.jpg first" in splits.notes
        with pytest.raises(
            DataError, match=r"all has 2 images without a label, set-train-0.tar/1\.jpg first; label or"
        ):
            open_data(DataConfig(server.address + name, strict=True))
