"""Where the images of folders, archives and tables are found, here and in stores."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from effnets.bulk.photos import prepare_photo
from effnets.bulk.sources import PhotoFiles, TableRows, TarMembers, TarShard, chunk_size, digest, find_images
from effnets.engines.base import load_file
from effnets.errors import DataError, EffnetsError
from effnets.inference.predictor import create_predictor
from tests.support import exported
from tests.support.data_sets import by_class, pack, picture, write


@pytest.fixture
def predictor(tmp_path):
    return create_predictor(load_file(exported.write(tmp_path / "model.onnx", exported.describe()), threads=1))


@pytest.fixture
def messages():
    return []


def table(path, images, *, rows=4, column="img"):
    content = pa.array(
        [{"bytes": image, "path": None} for image in images], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    pq.write_table(pa.table({column: content, "label": list(range(len(images)))}), path, row_group_size=rows)
    return path


def read(sources, predictor):
    """The path of every image, and its error, if it has one."""
    found = []
    for source in sources:
        for photo in source.photos():
            try:
                prepare_photo(predictor, photo)
                found.append((photo.path, None))
            except EffnetsError as error:
                found.append((photo.path, str(error)))
    return found


def test_a_folder_is_divided_in_the_order_of_its_names(tmp_path, messages, predictor):
    root = write(tmp_path / "photos", {**by_class(5), "notes.txt": b"", ".hidden/1.jpg": b""})
    images = find_images([str(root)], messages.append)
    chunks = images.chunks(4)
    assert [len(chunk) for chunk in chunks] == [4, 4, 2]
    assert read(chunks, predictor) == [
        (str(root / f"{name}/{i}.jpg"), None) for name in ("cat", "dog") for i in range(5)
    ]
    assert "passed over 1" in messages[0]


def test_what_cannot_be_read_is_an_image_with_an_error(tmp_path, messages, predictor):
    root = write(tmp_path / "photos", {"bad.jpg": b"no image", "good.png": picture(1, kind="PNG")})
    found = read(find_images([str(root), str(tmp_path / "gone.jpg")], messages.append).chunks(), predictor)
    assert [bool(error) for _, error in found] == [True, False, True]
    assert "does not exist" in found[2][1]


def test_archives_and_tables_of_a_folder_without_images(tmp_path, messages, predictor):
    root = tmp_path / "shards"
    root.mkdir()
    pack(root / "b.tar", {**by_class(3), "cat/0.cls": b"0"})
    table(root / "a.parquet", [picture(seed) for seed in range(6)])
    chunks = find_images([str(root)], messages.append).chunks(3)
    assert [type(chunk) for chunk in chunks] == [TarMembers, TarMembers, TableRows, TableRows, TableRows]
    names = [path for path, error in read(chunks, predictor) if error is None]
    assert names[0] == f"{root}/b.tar/cat/0.jpg"
    assert names[6:] == [f"{root}/a.parquet, row {row}" for row in range(6)]
    assert not messages


def test_braces_and_a_table_of_other_columns(tmp_path, messages, predictor):
    for number in range(2):
        table(tmp_path / f"part-{number}.parquet", [picture(number)], column="photo")
    pattern = str(tmp_path / "part-{0..1}.parquet")
    with pytest.raises(DataError, match=r"--image-column"):
        find_images([pattern], messages.append)
    found = read(find_images([pattern], messages.append, "photo").chunks(), predictor)
    assert [error for _, error in found] == [None, None]


def test_a_row_without_bytes_is_an_error_of_this_row(tmp_path, messages, predictor):
    table(tmp_path / "a.parquet", [picture(0), None, picture(1)])
    found = read(find_images([str(tmp_path / "a.parquet")], messages.append).chunks(), predictor)
    assert [bool(error) for _, error in found] == [False, True, False]
    assert "has no bytes" in found[1][1]


def test_a_damaged_archive_or_table_is_one_error(tmp_path, messages, predictor):
    good = pack(tmp_path / "good.tar", by_class(2))
    (tmp_path / "cut.tar").write_bytes(good.read_bytes()[:1000])
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    names = [str(tmp_path / name) for name in ("cut.tar", "cut.parquet", "good.tar")]
    found = read(find_images(names, messages.append).chunks(), predictor)
    assert [bool(error) for _, error in found] == [True, True, False, False, False, False]
    assert "cannot be read as a tar archive" in found[0][1]
    assert "cannot be read as parquet" in found[1][1]


def test_a_store_gives_the_same_images(tmp_path, messages, predictor):
    """A local folder by its URL takes the way of stores: fsspec lists it, reads files, and fetches archives."""
    root = write(tmp_path / "photos", {**by_class(3), "cat/bad.jpg": b"", ".git/0.jpg": b""})
    here = read(find_images([str(root)], messages.append).chunks(), predictor)
    chunks = find_images([root.as_uri()], messages.append).chunks()
    assert isinstance(chunks[0], PhotoFiles)
    there = read(chunks, predictor)
    assert [(path.removeprefix("file://"), bool(error)) for path, error in there] == [
        (path, bool(error)) for path, error in here
    ]
    assert here[3][1].replace(here[3][0], there[3][0]) == there[3][1]


def test_archives_and_tables_of_a_store(tmp_path, messages, predictor):
    root = tmp_path / "shards"
    root.mkdir()
    pack(root / "0.tar", by_class(2))
    (root / "1.tar").write_bytes((root / "0.tar").read_bytes()[:900])
    table(root / "2.parquet", [picture(seed) for seed in range(3)])
    chunks = find_images([f"{root.as_uri()}/*"], messages.append).chunks()
    assert [type(chunk) for chunk in chunks] == [TarShard, TarShard, TableRows]
    found = read(chunks, predictor)
    assert found[0] == (f"{root.as_uri()}/0.tar/cat/0.jpg", None)
    assert found[4][0] == f"{root.as_uri()}/1.tar"
    assert f"{root.as_uri()}/1.tar: cannot be read as a tar archive" in found[4][1]
    assert [error for _, error in found[5:]] == [None] * 3


def test_files_in_memory(messages, predictor):
    import fsspec

    store = fsspec.filesystem("memory")
    store.pipe({"/effnets-photos/a.jpg": picture(1), "/effnets-photos/b.txt": b""})
    found = read(find_images(["memory://effnets-photos"], messages.append).chunks(), predictor)
    assert [error for _, error in found] == [None]
    assert "passed over 1" in messages[0]
    gone = read(find_images(["memory://effnets-photos/gone.jpg"], messages.append).chunks(), predictor)
    assert "does not exist" in gone[0][1]


def test_a_store_without_its_package_names_it(messages, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(DataError, match="pip install s3fs"):
        find_images(["s3://bucket/photos"], messages.append)


def test_the_size_of_chunks_depends_on_the_images_alone(tmp_path, messages):
    assert [chunk_size(count) for count in (0, 946, 10**6, 10**7, 10**9)] == [64, 64, 192, 2432, 16384]
    root = write(tmp_path / "photos", by_class(3))
    images = find_images([str(root)], messages.append)
    before = digest(images.chunks())
    assert before == digest(find_images([str(root)], messages.append).chunks())
    (root / "cat" / "9.jpg").write_bytes(picture(9))
    assert before != digest(find_images([str(root)], messages.append).chunks())
