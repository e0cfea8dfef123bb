"""A data set of the Hub that is read as it is needed, by the Hub's own client, from a Hub on this machine."""

from __future__ import annotations

import re

import huggingface_hub
import numpy as np
import pytest

from effnets.data import DataConfig, open_data, open_evaluation_data
from effnets.data.augmentation import Augmentation
from effnets.data.loader import EpochLoader
from effnets.data.transforms import TrainTransform
from effnets.errors import ArgumentError, DataError, ImageError
from effnets.spec.specs import PreprocessSpec
from tests.support.data_hub import COMMIT, NEXT_COMMIT, make_the_hub, serving_hub, table
from tests.support.data_sets import kept, pack
from tests.support.data_sets import picture as picture_of_size
from tests.support.shard_server import serving

datasets = pytest.importorskip("datasets")

FILES, EACH = 8, 8
NAMES = ["cat", "dog"]
TRANSFORM = TrainTransform(PreprocessSpec(input_size=8), 8, Augmentation())


def picture(seed, size=200):
    """Large enough for parquet not to repeat it in its statistics."""
    return picture_of_size(seed, size)


def train_name(number):
    return f"data/train-{number:05}-of-{FILES:05}.parquet"


@pytest.fixture(scope="module")
def files():
    """Training files of eight images each, classes by turns; a file to validate with; images without labels."""
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
    return tmp_path / "home" / "shards"


@pytest.fixture
def streaming(monkeypatch):
    """Room for a few files only."""
    monkeypatch.setenv("EFFNETS_SHARDS_GIB", str(200_000 / 2**30))


@pytest.fixture
def hub(files, monkeypatch):
    with serving_hub(files) as hub:
        make_the_hub(hub, monkeypatch)
        yield hub


def expected(index):
    return picture(100 * (index // EACH) + index % EACH)


@pytest.mark.usefixtures("streaming")
def test_images_come_as_they_are(hub, home):
    splits = open_data("hf-stream:org/set")
    assert splits.class_names == ("cat", "dog")
    assert [len(splits.train), len(splits.val), splits.test] == [FILES * EACH, 4, None]
    assert splits.train.labels.tolist() == [0, 1] * (FILES * EACH // 2)
    assert splits.train.shards.tolist() == sorted(list(range(FILES)) * EACH)
    assert splits.revision == COMMIT
    assert "passed over test: its images have no labels" in splits.notes
    assert "streamed images: not checked for corrupt ones or for duplicates between splits" in splits.notes
    # Only footers and labels have been read.
    assert not hub.whole
    assert not home.exists()
    assert splits.train.read(13) == expected(13)
    assert splits.val.read(2) == picture(9002)
    assert hub.whole == {train_name(1): 1, "data/validation-00000-of-00001.parquet": 1}
    assert splits.train.name(13) == f"{hub.address}/datasets/org/set/resolve/{COMMIT}/{train_name(1)}, row 5"
    assert splits.train.sizes().tolist() == [len(expected(index)) for index in range(len(splits.train))]


def test_few_files_are_fetched_once_and_kept(hub, home):
    source = open_data("hf-stream:org/set").train
    assert source.shards is None
    assert [source.read(index) for index in (0, 63, 20)] == [expected(index) for index in (0, 63, 20)]
    again = open_data("hf-stream:org/set").train
    assert again.read(20) == expected(20)
    assert set(hub.whole.values()) == {1}
    assert len(kept(home)) == FILES + 1


@pytest.mark.usefixtures("hub")
def test_progress_of_reading_labels():
    calls = []
    open_data("hf-stream:org/set", progress=lambda what, share: calls.append((what, share)))
    assert calls[1] == ("reading the labels of file 2 of 10", 1 / 10)


def test_of_large_files_little_is_read_for_labels(monkeypatch):
    large = {"data/train-0.parquet": table([picture(seed, 300) for seed in range(48)], [0, 1] * 24, NAMES)}
    monkeypatch.setenv("EFFNETS_SHARDS_GIB", "1e-9")
    with serving_hub(large) as hub:
        make_the_hub(hub, monkeypatch)
        assert open_data(DataConfig("hf-stream:org/set", val_share=0)).train.labels.tolist() == [0, 1] * 24
        assert 4 * hub.sent["ranges"] < len(large["data/train-0.parquet"])
        assert not hub.whole


@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_streamed_epoch(hub, home, workers):
    source = open_data("hf-stream:org/set").train
    loader = EpochLoader(source, TRANSFORM, batch_size=8, seed=3, workers=workers)
    whole = list(loader.batches(1))
    indices = np.concatenate([batch.indices for batch in whole])
    assert np.array_equal(np.sort(indices), np.arange(FILES * EACH)) or workers
    assert all(np.array_equal(batch.labels, source.labels[batch.indices]) for batch in whole)
    assert set(hub.whole) == {train_name(number) for number in range(FILES)}
    for one, other in zip(whole[3:], loader.batches(1, 3), strict=True):
        assert (one.number, one.indices.tolist()) == (other.number, other.indices.tolist())
        assert one.images.equal(other.images)
    loader.close()
    assert kept(home) == []


@pytest.mark.usefixtures("streaming")
def test_a_damaged_file_is_named_by_its_address(hub, files):
    source = open_data("hf-stream:org/set").train
    hub.files[train_name(2)] = files[train_name(2)][:-900] + bytes(900)
    with pytest.raises(ImageError, match=rf"^{hub.address}/datasets/org/set/resolve/a+/data/train-00002\S+: row group"):
        source.read(20)


def test_rows_without_an_image_and_other_columns(monkeypatch):
    few = {"data/train-0.parquet": table([picture(0), None, picture(2)], [0, 1, 1], NAMES)}
    monkeypatch.setenv("EFFNETS_SHARDS_GIB", "1e-9")
    with serving_hub(few) as hub:
        make_the_hub(hub, monkeypatch)
        source = open_data(DataConfig("hf-stream:org/set", val_share=0)).train
        assert source.sizes().tolist() == [len(picture(0)), 0, len(picture(2))]
        with pytest.raises(ImageError, match=r"train-0.parquet, row 1 has no bytes"):
            source.read(1)
        with pytest.warns(UserWarning, match="left out of its batch: .*train-0.parquet, row 1"):
            (batch,) = EpochLoader(source, TRANSFORM, batch_size=3).batches(0)
        assert sorted(batch.indices.tolist()) == [0, 2]
        with pytest.raises(DataError, match="has the columns photo, kind; name the right one with label_column"):
            open_data(DataConfig("hf-stream:org/set", label_column="label"))
        with pytest.raises(DataError, match="has the columns photo, kind; name the right one with image_column"):
            open_data(DataConfig("hf-stream:org/set", image_column="image"))


@pytest.mark.usefixtures("streaming")
def test_what_is_measured(hub):
    data = open_evaluation_data("hf-stream:org/set")
    assert (data.split, len(data.source), data.source.read(0)) == ("val", 4, picture(9000))
    assert not [path for path in hub.whole if "train" in path]


@pytest.mark.usefixtures("streaming")
def test_revisions(hub):
    hub.commit = NEXT_COMMIT
    assert open_data("hf-stream:org/set").revision == NEXT_COMMIT
    pinned = open_data(f"hf-stream:org/set@{COMMIT}")
    assert pinned.revision == COMMIT
    assert f"/resolve/{COMMIT}/" in pinned.train.name(0)


def test_one_of_several_configurations(monkeypatch):
    card = "---\nconfigs:\n- {config_name: small, data_files: s/*}\n- {config_name: large, data_files: l/*}\n---\n"
    files = {f"{name}/some.parquet": table([picture(seed)] * 4, [0, 1] * 2, NAMES) for seed, name in enumerate("sl")}
    with serving_hub({"README.md": card.encode(), **files}) as hub:
        make_the_hub(hub, monkeypatch)
        with pytest.raises(DataError, match=r"could not be loaded \(Config name is missing"):
            open_data("hf-stream:org/set")
        for seed, name in enumerate(("small", "large")):
            data = open_data(DataConfig(f"hf-stream:org/set/{name}", val_share=0)).train
            assert (len(data), data.read(3)) == (4, picture(seed))


@pytest.mark.usefixtures("streaming")
def test_a_private_data_set(hub, monkeypatch):
    hub.token = "hf_good"
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert open_data("hf-stream:org/set").train.read(3) == expected(3)
    assert hub.turned_away == 0
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(DataError, match=r"hf-stream:org/set: could not be loaded \(.*; check the name"):
        open_data("hf-stream:org/set")


def test_the_token_goes_to_the_hub_alone(files, monkeypatch):
    """Also if the Hub sends on to another server, and for shards that are named by their address on the Hub."""
    name = train_name(0)
    with serving({"elsewhere": files[name]}) as other, serving_hub({name: files[name]}) as hub:
        make_the_hub(hub, monkeypatch)
        hub.token, hub.redirects = "hf_good", {name: f"{other.address}elsewhere"}
        monkeypatch.setenv("HF_TOKEN", "hf_good")
        assert open_data(DataConfig("hf-stream:org/set", val_share=0)).train.read(3) == expected(3)
        assert set(other.tokens) == {None}
        assert hub.turned_away == 0


@pytest.mark.parametrize("token", ["hf_good", "hf_other"])
def test_shards_by_their_address_on_the_hub(tmp_path, monkeypatch, token):
    shard = pack(tmp_path / "some.tar", {"0.jpg": picture(0), "0.cls": b"0", "1.jpg": picture(1), "1.cls": b"1"})
    monkeypatch.setenv("HF_TOKEN", token)
    with serving_hub({"a/some.tar": shard.read_bytes()}) as hub:
        make_the_hub(hub, monkeypatch)
        hub.token = "hf_good"
        config = DataConfig(f"{hub.address}/datasets/org/set/resolve/main/a/some.tar", val_share=0)
        if token == "hf_good":
            assert open_data(config).train.read(1) == picture(1)
            return
        with pytest.raises(DataError, match=r"some.tar: access is refused \(.*set HF_TOKEN, or run 'hf auth"):
            open_data(config)


def test_what_cannot_be_streamed(monkeypatch):
    with serving_hub({"data/train-0.tar": b"tar", "data/train-1.tar": b"tar"}) as hub:
        make_the_hub(hub, monkeypatch)
        with pytest.raises(
            DataError, match=r"is not in parquet \(train-0.tar\); try …@refs/convert/parquet.*hf-dataset"
        ):
            open_data("hf-stream:org/set")
        with pytest.raises(DataError, match=r"hf-stream:nobody/nothing: could not be loaded .*check the name"):
            open_data("hf-stream:nobody/nothing")
    for name in ("hf-stream:", "hf-stream:a//b", "hf-stream:a/b/c/d"):
        with pytest.raises(DataError, match=re.escape(f"{name}: names no data set; write hf-stream:user/name")):
            open_data(name)


@pytest.mark.usefixtures("hub", "streaming")
def test_balanced_classes_are_refused():
    source = open_data("hf-stream:org/set").train
    with pytest.raises(ArgumentError, match="set balance to weights"):
        EpochLoader(source, TRANSFORM, batch_size=4, order="balanced")


@pytest.mark.usefixtures("streaming")
def test_litter_and_unlabeled_rows(files, monkeypatch):
    """Of all files, those of a Mac are none, and rows without a label are neither counted nor read."""
    unlabeled = table([picture(100 + row) for row in range(EACH)], [0, 1, -1, -1] * (EACH // 4), NAMES)
    listed = files | {train_name(1): unlabeled, f"data/._{train_name(1).rpartition('/')[2]}": b"\0\5\26\7"}
    with serving_hub(listed) as hub:
        make_the_hub(hub, monkeypatch)
        splits = open_data("hf-stream:org/set")
        assert len(splits.train) == FILES * EACH - 4
        assert splits.train.labels.tolist()[EACH : EACH + 4] == [0, 1, 0, 1]
        assert splits.train.shards.tolist()[EACH : EACH + 5] == [1, 1, 1, 1, 2]
        assert splits.train.read(EACH + 2) == picture(104)
        assert any(
            note.startswith("left out of train: 4 images without a label, row 10 of train") for note in splits.notes
        )
