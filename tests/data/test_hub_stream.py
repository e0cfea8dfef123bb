"""A data set of the Hub read as it is needed, by the Hub's own client, from a Hub on this machine."""

from __future__ import annotations

import re

import huggingface_hub
import numpy as np
import pytest

from effnets.data import DataConfig, download, open_data, open_evaluation_data
from effnets.data.augmentation import Augmentation
from effnets.data.loader import EpochLoader
from effnets.data.sampling import SHARDS_AT_ONCE, shuffled_order
from effnets.data.transforms import TrainTransform
from effnets.errors import ArgumentError, DataError, ImageError
from effnets.spec.specs import PreprocessSpec
from tests.support.data_hub import COMMIT, NEXT_COMMIT, make_the_hub, serving_hub, table
from tests.support.data_sets import picture as picture_of_size

datasets = pytest.importorskip("datasets")

FILES, EACH = 20, 8
NAMES = ["cat", "dog"]


def picture(seed, size=200):
    """Large enough for parquet not to repeat it in its statistics."""
    return picture_of_size(seed, size)


def train_name(number):
    return f"data/train-{number:05}-of-{FILES:05}.parquet"


@pytest.fixture(scope="module")
def files():
    """Training files of eight pictures each, classes by turns; a file to validate by; pictures without labels."""
    made = {
        train_name(number): table([picture(100 * number + row) for row in range(EACH)], [0, 1] * (EACH // 2), NAMES)
        for number in range(FILES)
    }
    made["data/validation-00000-of-00001.parquet"] = table([picture(9000 + row) for row in range(4)], [1, 0] * 2, NAMES)
    made["data/test-00000-of-00001.parquet"] = table([picture(9100 + row) for row in range(3)], [-1] * 3, NAMES)
    return made


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFNETS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(download, "_PAUSE", 0.001)
    return tmp_path / "home" / "shards"


@pytest.fixture
def hub(files, monkeypatch):
    with serving_hub(files) as hub:
        make_the_hub(hub, monkeypatch)
        yield hub


def expected(index):
    return picture(100 * (index // EACH) + index % EACH)


def held(home):
    return [path for path in home.iterdir() if path.suffix == ".parquet" and not path.name.startswith(".")]


def limit_to(monkeypatch, count, files):
    """Room for so many files, as they come and as they are kept, of whichever is larger."""
    size = max(len(content) for content in files.values())
    monkeypatch.setenv("EFFNETS_SHARDS_GIB", str((count + 0.9) * size / 2**30))


def test_pictures_come_as_they_are(hub, home):
    splits = open_data("hf-stream:org/set")
    assert splits.class_names == ("cat", "dog")
    assert [len(splits.train), len(splits.val), splits.test] == [FILES * EACH, 4, None]
    assert splits.train.labels.tolist() == [0, 1] * (FILES * EACH // 2)
    assert splits.train.shards.tolist() == sorted(list(range(FILES)) * EACH)
    assert splits.revision == COMMIT
    assert "passed over test: its pictures have no labels" in splits.notes
    assert "pictures on a server: neither broken ones nor duplicates between splits were looked for" in splits.notes
    # Nothing but footers and labels has been asked for.
    assert not hub.whole
    assert list(home.glob("*.parquet")) == []
    assert splits.train.read(13) == expected(13)
    assert splits.val.read(2) == picture(9002)
    assert hub.whole == {train_name(1): 1, "data/validation-00000-of-00001.parquet": 1}
    assert splits.train.name(13) == f"{hub.address}/datasets/org/set/resolve/{COMMIT}/{train_name(1)}, row 5"
    assert splits.train.sizes().tolist() == [len(expected(index)) for index in range(len(splits.train))]


def test_labels_are_noted(hub):
    first = open_data("hf-stream:org/set").train
    hub.sent.clear()
    told = []
    again = open_data("hf-stream:org/set", progress=lambda what, share: told.append((what, share))).train
    assert again.labels.tolist() == first.labels.tolist()
    assert hub.sent["ranges"] < 100_000  # one footer, which says what the columns are
    assert told[1] == ("reading the labels of file 2 of 22", 1 / 22)


def test_of_large_files_little_is_read_for_labels(monkeypatch):
    large = {"data/train-0.parquet": table([picture(seed, 300) for seed in range(48)], [0, 1] * 24, NAMES)}
    with serving_hub(large) as hub:
        make_the_hub(hub, monkeypatch)
        assert open_data(DataConfig("hf-stream:org/set", val_share=0)).train.labels.tolist() == [0, 1] * 24
        assert 4 * hub.sent["ranges"] < len(large["data/train-0.parquet"])
        assert not hub.whole


def test_a_cache_smaller_than_the_data(hub, files, home, monkeypatch):
    limit_to(monkeypatch, 11, files)
    source = open_data("hf-stream:org/set").train
    for epoch in (0, 1):
        for index in shuffled_order(len(source), 3, epoch, source.shards).tolist():
            assert source.read(index) == expected(index)
            assert sum(path.stat().st_size for path in held(home)) <= source._cache.limit
    assert len(held(home)) < FILES
    assert hub.whole.total() <= 2 * FILES  # each file once in an epoch
    assert not list(home.glob(".*"))


@pytest.mark.usefixtures("hub")
def test_a_cache_too_small_is_refused(files, monkeypatch):
    limit_to(monkeypatch, 2 * SHARDS_AT_ONCE - 1, files)
    with pytest.raises(
        DataError, match=r"may hold .* GiB of shards, but 8 of these take .*; set EFFNETS_SHARDS_GIB to"
    ):
        open_data("hf-stream:org/set")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_go_on_from_any_position(files, monkeypatch, workers):
    limit_to(monkeypatch, 11, files)
    source = open_data("hf-stream:org/set").train
    transform = TrainTransform(PreprocessSpec(input_size=8), 8, Augmentation())

    def batches(workers, start=0):
        return list(EpochLoader(source, transform, batch_size=7, seed=3, workers=workers).batches(1, start))

    whole = batches(0)
    assert len(whole) == 22
    for one, other in zip(whole[9:], batches(workers, 9), strict=True):
        assert one.indices.tolist() == other.indices.tolist()
        assert one.images.equal(other.images)
        assert np.array_equal(one.labels, source.labels[one.indices])


def test_a_transfer_that_is_cut_goes_on(hub, files):
    source = open_data("hf-stream:org/set").train
    hub.cuts, hub.refusals = [700, 800], [503]
    assert source.read(20) == expected(20)
    assert (hub.whole[train_name(2)], hub.resumed) == (2, 2)
    assert hub.sent["whole"] == len(files[train_name(2)])


def test_transfers_that_are_always_cut_leave_nothing(hub, home):
    source = open_data("hf-stream:org/set").train
    hub.cuts = [100] * 5
    with pytest.raises(
        DataError, match=r"train-00002-of-00020.parquet: cannot be fetched \(cut after 100 of .* 5 times"
    ):
        source.read(20)
    assert [path for path in home.iterdir() if path.suffix != ".json"] == []
    assert source.read(20) == expected(20)


def test_a_damaged_file_is_named_by_its_address(hub, files, home):
    source = open_data("hf-stream:org/set").train
    hub.files[train_name(2)] = files[train_name(2)][:-900] + bytes(900)
    with pytest.raises(
        DataError,
        match=rf"^{hub.address}/datasets/org/set/resolve/a+/data/train-00002\S+: cannot be read as parquet \(",
    ):
        source.read(20)
    assert [path for path in home.iterdir() if path.suffix != ".json"] == []


def test_rows_without_a_picture_and_other_columns(monkeypatch):
    few = {"data/train-0.parquet": table([picture(0), None, picture(2)], [0, 1, 1], NAMES)}
    with serving_hub(few) as hub:
        make_the_hub(hub, monkeypatch)
        source = open_data(DataConfig("hf-stream:org/set", val_share=0)).train
        assert source.sizes().tolist() == [len(picture(0)), 0, len(picture(2))]
        with pytest.raises(ImageError, match=r"train-0.parquet, row 1 has no bytes"):
            source.read(1)
        with pytest.raises(DataError, match="has the columns photo, kind; name the right one with label_column"):
            open_data(DataConfig("hf-stream:org/set", label_column="label"))
        with pytest.raises(DataError, match="has the columns photo, kind; name the right one with image_column"):
            open_data(DataConfig("hf-stream:org/set", image_column="image"))


def test_what_is_measured(hub):
    data = open_evaluation_data("hf-stream:org/set")
    assert (data.split, len(data.source), data.source.read(0)) == ("val", 4, picture(9000))
    assert not [path for path in hub.whole if "train" in path]


def test_revisions(hub):
    hub.commit = NEXT_COMMIT
    assert open_data("hf-stream:org/set").revision == NEXT_COMMIT
    pinned = open_data(f"hf-stream:org/set@{COMMIT}")
    assert pinned.revision == COMMIT
    assert f"/resolve/{COMMIT}/" in pinned.train.urls[0]


def test_one_of_several_configurations(monkeypatch):
    card = "---\nconfigs:\n- {config_name: small, data_files: s/*}\n- {config_name: large, data_files: l/*}\n---\n"
    files = {f"{name}/some.parquet": table([picture(seed)] * 4, [0, 1] * 2, NAMES) for seed, name in enumerate("sl")}
    with serving_hub({"README.md": card.encode(), **files}) as hub:
        make_the_hub(hub, monkeypatch)
        with pytest.raises(DataError, match=r"cannot be had \(Config name is missing"):
            open_data("hf-stream:org/set")
        for seed, name in enumerate(("small", "large")):
            data = open_data(DataConfig(f"hf-stream:org/set/{name}", val_share=0)).train
            assert (len(data), data.read(3)) == (4, picture(seed))


def test_a_private_data_set(hub, monkeypatch):
    hub.token = "hf_good"
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert open_data("hf-stream:org/set").train.read(3) == expected(3)
    assert hub.turned_away == 0
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(DataError, match=r"hf-stream:org/set: cannot be had \(.*; check the name"):
        open_data("hf-stream:org/set")


def test_what_cannot_be_streamed(monkeypatch):
    with serving_hub({"data/train-0.tar": b"tar", "data/train-1.tar": b"tar"}) as hub:
        make_the_hub(hub, monkeypatch)
        with pytest.raises(
            DataError, match=r"is not in parquet \(train-0.tar\); try …@refs/convert/parquet.*hf-dataset"
        ):
            open_data("hf-stream:org/set")
        with pytest.raises(DataError, match=r"hf-stream:nobody/nothing: cannot be had .*check the name"):
            open_data("hf-stream:nobody/nothing")
    for name in ("hf-stream:", "hf-stream:a//b", "hf-stream:a/b/c/d"):
        with pytest.raises(DataError, match=re.escape(f"{name}: names no data set; write hf-stream:user/name")):
            open_data(name)


@pytest.mark.usefixtures("hub")
def test_classes_in_turn_are_refused():
    source = open_data("hf-stream:org/set").train
    with pytest.raises(ArgumentError, match="set balance to weights"):
        EpochLoader(source, TrainTransform(PreprocessSpec(input_size=8), 8), batch_size=4, order="balanced")
