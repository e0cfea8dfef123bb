"""What `predict` and `create_transform` take for an image, and what they say about everything else."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import effnets
from effnets.errors import ArgumentError, ImageError
from effnets.inference.arrays import size_of
from effnets.inference.image import load_image
from tests.support import shake

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
CHW = torch.from_numpy(PICTURE.transpose(2, 0, 1).copy())


def png(array=PICTURE) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def model():
    return shake(effnets.create_model("mobilenetv1_025"), size=64).eval()


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("sources") / "raw.onnx"
    effnets.export_onnx(model, path, preprocess=True, image_size=32, engines=["onnxruntime"])
    return effnets.load_engine(path)


SOURCES = {
    "bytes": lambda _: png(),
    "bytearray": lambda _: bytearray(png()),
    "memoryview": lambda _: memoryview(png()),
    "BytesIO": lambda _: io.BytesIO(png()),
    "path": lambda folder: folder / "a.png",
    "text": lambda folder: str(folder / "a.png"),
    "PIL": lambda _: Image.fromarray(PICTURE),
    "array": lambda _: PICTURE,
    "read-only array": lambda _: np.frombuffer(PICTURE.tobytes(), np.uint8).reshape(PICTURE.shape),
    "BGR turned by negative strides": lambda _: PICTURE[..., ::-1].copy()[..., ::-1],
    "Fortran's order": lambda _: np.asfortranarray(PICTURE),
    "float32 array": lambda _: PICTURE.astype(np.float32) / 255,
    "float64 array": lambda _: PICTURE / 255,
    "float16 array": lambda _: (PICTURE / 255).astype(np.float16),
    "uint16 array": lambda _: PICTURE.astype(np.uint16) * 257,
    "uint8 tensor": lambda _: CHW,
    "float tensor": lambda _: CHW / 255,
    "float64 tensor": lambda _: CHW.double() / 255,
    "float16 tensor": lambda _: (CHW / 255).half(),
    "tensor with a gradient": lambda _: (CHW / 255).requires_grad_(),
    "view of a tensor": lambda _: torch.from_numpy(PICTURE).permute(2, 0, 1),
    "RGBA tensor": lambda _: torch.cat([CHW, CHW[:1]]),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_image(model, engine, tmp_path, kind):
    (tmp_path / "a.png").write_bytes(png())
    expected = effnets.create_transform(model)(Image.fromarray(PICTURE))
    assert torch.equal(effnets.create_transform(model)(SOURCES[kind](tmp_path)), expected)
    for network in (model, engine):
        [alone] = effnets.predict(network, SOURCES[kind](tmp_path))
        assert alone == effnets.predict(network, [SOURCES[kind](tmp_path)])[0]
        assert alone == effnets.predict(network, PICTURE)[0]


def test_mixed_kinds_and_batches(model):
    [expected] = effnets.predict(model, PICTURE)
    batches = [
        np.stack([PICTURE] * 3),
        torch.stack([CHW] * 3),
        torch.stack([CHW] * 3) / 255,
        iter([PICTURE, CHW, png()]),
    ]
    for batch in batches:
        assert [[p.index for p in found] for found in effnets.predict(model, batch)] == [
            [p.index for p in expected]
        ] * 3
    assert effnets.predict(model, np.zeros((0, 4, 5, 3), np.uint8)) == []
    assert (
        len(effnets.predict(model, [kind(Path()) for name, kind in SOURCES.items() if name not in ("path", "text")]))
        == 20
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_tensor_on_a_gpu(model):
    assert effnets.predict(model, CHW.cuda()) == effnets.predict(model, CHW)


def test_files_are_read_from_where_they_stand_and_stay_open(model, tmp_path):
    path = tmp_path / "with_header.bin"
    path.write_bytes(b"header" + png())
    with path.open("rb") as file:
        file.seek(6)
        assert torch.equal(effnets.create_transform(model)(file), effnets.create_transform(model)(PICTURE))
        assert not file.closed
        with pytest.raises(
            ImageError, match=r"with_header\.bin is at its end, or empty; go to the image first, with seek"
        ):
            load_image(file)
    with (
        path.open(encoding="latin-1") as file,
        pytest.raises(ArgumentError, match=r"header\.bin was opened as text; .*'rb'"),
    ):
        load_image(file)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.png", png())
    with zipfile.ZipFile(tmp_path / "photos.zip") as archive, archive.open("a.png") as file:
        assert load_image(file).size == (50, 40)


@pytest.mark.parametrize("address", ["https://example.org/cat.jpg", "http://x/a.png", "s3://bucket/cat.jpg"])
def test_addresses_are_not_downloaded(model, address):
    with pytest.raises(ArgumentError, match=rf"{address} is an address, .*urlopen\(url\)\.read\(\)"):
        effnets.predict(model, address)
    with pytest.raises(ArgumentError, match="is an address"):
        load_image(Path(address))


NORMALIZED = (CHW / 255 - 0.5) / 0.25


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (NORMALIZED, "floats from -2 to 2, and they must be in 0..1; they look normalized already: pass the"),
        (NORMALIZED.permute(1, 2, 0).numpy(), "they look normalized already"),
        (CHW.float(), "floats from 0 to 255, and they must be in 0..1; they look like 0..255: divide them by 255"),
        (PICTURE.astype(float), "they look like 0..255"),
        (CHW.long(), "image is an int64 tensor of shape [3, 40, 50]; pass uint8 (0..255), uint16 (0..65535) or floats"),
        (CHW > 3, "image is a bool tensor"),
        (CHW.permute(1, 2, 0), "It looks like [height, width, channels]: pass image.permute(2, 0, 1)"),
        (PICTURE.transpose(2, 0, 1), "It looks like [channels, height, width]: pass image.transpose(1, 2, 0)"),
        (PICTURE.astype(np.int32), "OpenCV's images are BGR: pass image[..., ::-1]"),
        (CHW[0], "uint8 tensor of shape [40, 50]"),
        (CHW[:, :0], "image is an array without pixels"),
        (CHW / 0, "image has values that are NaN or infinite"),
        (torch.empty(3, 4, 5, device="meta"), "is a tensor on the meta device"),
        (np.stack([PICTURE] * 2), "It looks like a batch: pass its images one by one, or the batch to effnets.predict"),
        (b"no image", "the image of 8 bytes is not an image that Pillow can read"),
        (b"", "is empty (0 bytes)"),
        (io.BytesIO(), "the image in the file is at its end, or empty"),
        (png()[:-200], "the image of"),
        ({"a": 1}, "image is of type dict; pass a path, a PIL image"),
    ],
)  # fmt: skip
def test_other_images_are_refused(model, image, message):
    with pytest.raises((ArgumentError, ImageError), match=re.escape(message)):
        effnets.create_transform(model)(image)
    with pytest.raises((ArgumentError, ImageError), match=r"^images\[2\]: .*" + re.escape(message)):
        effnets.predict(model, [PICTURE, PICTURE, image], batch_size=2)


def test_an_image_in_memory_is_skipped_by_its_number(model):
    with pytest.warns(UserWarning, match=r"skipped: images\[1\]: the image of 3 bytes"):
        found = effnets.predict(model, [PICTURE, b"abc", CHW], on_error="skip")
    assert [len(one) for one in found] == [5, 0, 5]


def test_floats_may_overshoot_by_rounding(model):
    nearly = (CHW / 255) * 1.0001 - 0.0001
    assert torch.equal(effnets.create_transform(model)(nearly), effnets.create_transform(model)(CHW))


@settings(max_examples=150, deadline=None)
@given(
    shape=st.lists(st.integers(0, 5), max_size=5),
    dtype=st.sampled_from(["uint8", "uint16", "int8", "int64", "float16", "float32", "float64", "bool", "complex64"]),
    value=st.sampled_from([0, 1, 0.5, -1, 255, float("nan")]),
    channels=st.sampled_from([1, 2, 3, 4, 5]),
    as_tensor=st.booleans(),
)
def test_any_array_is_an_image_or_a_clear_error(shape, dtype, value, channels, as_tensor):
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = np.full(shape, value).astype(dtype)
    try:
        image = load_image(torch.from_numpy(array) if as_tensor else array, channels)
    except (ArgumentError, ImageError):
        pass  # anything else is a fault
    else:
        assert np.asarray(image).reshape(*size_of(image)[::-1], channels).dtype == (
            np.uint8 if channels in (1, 3, 4) else np.float32
        )
