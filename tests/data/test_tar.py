from __future__ import annotations

import gzip
import re
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnets.data import DataConfig, open_data, open_evaluation_data
from effnets.errors import DataError
from tests.support import SHARED, needs_shared
from tests.support.data_sets import by_class, pack, picture, write


def test_a_tar_is_read_like_the_folder_it_holds(tmp_path):
    files = by_class(6, folder="data/train/") | by_class(2, folder="data/test/", seed=100)
    packed = open_data(pack(tmp_path / "data.tar", files))
    unpacked = open_data(write(tmp_path, files) / "data")
    for split in ("train", "val", "test"):
        inside, outside = getattr(packed, split), getattr(unpacked, split)
        assert inside.labels.tolist() == outside.labels.tolist()
        assert [inside.read(i) for i in range(len(inside))] == [outside.read(i) for i in range(len(outside))]
    assert packed.test.name(0) == str(tmp_path / "data.tar" / "data/test/cat/0.jpg")


def test_names_that_begin_with_a_dot(tmp_path):
    path = pack(tmp_path / "data.tar", {f"./{name}": content for name, content in by_class(2).items()})
    assert open_data(DataConfig(path, val_share=0)).class_names == ("cat", "dog")


def test_an_archive_beside_its_folders_is_passed_over(tmp_path):
    pack(write(tmp_path, by_class(2)) / "data.tar", by_class(5))
    splits = open_data(DataConfig(tmp_path, val_share=0))
    assert len(splits.train) == 4
    assert splits.notes == ("passed over 1 file (data.tar) without an image extension",)


def test_files_stored_once_for_several_names(tmp_path):
    path = pack(tmp_path / "data.tar", by_class(2))
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("cat/same.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "cat/0.jpg"
        archive.addfile(link)
    source = open_data(DataConfig(path, val_share=0)).train
    same = next(index for index in range(len(source)) if "same" in source.name(index))
    assert source.read(same) == by_class(2)["cat/0.jpg"]


@given(share=st.floats(0.01, 0.97))
def test_an_interrupted_tar(tmp_path_factory, share):
    folder = tmp_path_factory.mktemp("tar")
    whole = pack(folder / "whole.tar", by_class(4)).read_bytes().rstrip(b"\0")
    cut = folder / "cut.tar"
    cut.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=f"{re.escape(str(cut))}: .*copy or download it again"):
        open_data(cut)


def test_a_tar_cut_between_two_files(tmp_path):
    path = pack(tmp_path / "data.tar", by_class(4))
    with tarfile.open(path) as archive:
        third = archive.getmembers()[2]
    path.write_bytes(path.read_bytes()[: third.offset])
    with pytest.raises(DataError, match=rf"is cut short after {third.offset:,} bytes"):
        open_data(path)


def test_a_damaged_header(tmp_path):
    path = pack(tmp_path / "data.tar", by_class(4))
    with tarfile.open(path) as archive:
        third = archive.getmembers()[2]
    content = bytearray(path.read_bytes())
    content[third.offset + 10] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match="is damaged after"):
        open_data(path)


def test_a_compressed_tar(tmp_path):
    path = tmp_path / "data.tar"
    path.write_bytes(gzip.compress(pack(path, by_class(2)).read_bytes()))
    with pytest.raises(DataError, match="is compressed, so single images cannot be read; unpack it with gunzip"):
        open_data(path)


def test_links_in_a_tar(tmp_path):
    path = pack(tmp_path / "data.tar", by_class(2))
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("cat/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "../elsewhere.jpg"
        archive.addfile(link)
    with pytest.raises(DataError, match=r"cat/link.jpg is neither a file nor a folder; pack it with tar --dereference"):
        open_data(path)


def test_no_tar(tmp_path):
    (tmp_path / "data.tar").write_bytes(picture(1))
    with pytest.raises(DataError, match="cannot be read as a tar archive"):
        open_data(tmp_path / "data.tar")


@needs_shared
def test_groceries():
    splits = open_data(SHARED / "data" / "grocery20.tar")
    assert len(splits.train) + len(splits.val) == 967
    assert len(splits.test) == 946
    assert len(splits.class_names) == 20
    assert np.bincount(splits.val.labels).min() >= 2
    assert len(open_evaluation_data(SHARED / "data" / "grocery20.tar").source) == 946
