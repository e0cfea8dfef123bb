"""Networks of 1, 2, 4 or more input channels: what they read, from which files, and that it is what was stored."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

import effnets
from effnets.errors import ArgumentError, ImageError
from effnets.inference.image import decode_image, image_size, load_image
from effnets.spec.specs import PreprocessSpec
from tests.support import shake

GENERATOR = np.random.default_rng(0)


def tiff(planes: np.ndarray, orientation: int = 1) -> bytes:
    """A TIFF with a page for each channel of [H, W, C]."""
    pages = [Image.fromarray(np.ascontiguousarray(planes[..., channel])) for channel in range(planes.shape[2])]
    file = io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:], tiffinfo={274: orientation})
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def planes(channels: int, dtype: str = "uint8", height: int = 30, width: int = 40) -> np.ndarray:
    if dtype == "float32":
        return GENERATOR.normal(300, 20, (height, width, channels)).astype(np.float32)
    return GENERATOR.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def by_hand(array: np.ndarray, mean: float, std: float, size: int) -> torch.Tensor:
    """Each channel resized by itself until it covers the size, as floats, and normalized; crop_pct is 1."""
    scale = {"uint8": 255, "uint16": 65535, "float32": 1}[str(array.dtype)]
    shorter = min(array.shape[:2])
    width, height = int(size * array.shape[1] / shorter), int(size * array.shape[0] / shorter)
    left, top = round((width - size) / 2), round((height - size) / 2)
    found = []
    for channel in range(array.shape[2]):
        plane = Image.fromarray((array[..., channel] / np.float32(scale)).astype(np.float32))
        resized = np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC))
        found.append((resized[top : top + size, left : left + size] - np.float32(mean)) / np.float32(std))
    return torch.from_numpy(np.stack(found))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [2, 6])
def test_planes_from_every_source(tmp_path, channels, dtype):
    mean, std = (300.0, 20.0) if dtype == "float32" else (0.5, 0.25)
    network = effnets.create_model("mobilenetv1_025", in_chans=channels, mean=mean, std=std)
    network = shake(network, size=32).eval()
    transform = effnets.create_transform(network, input_size=24, crop_pct=1.0)
    array = planes(channels, dtype)
    expected = by_hand(array, mean, std, 24)
    (tmp_path / "a.npy").write_bytes(npy(array))
    (tmp_path / "a.tif").write_bytes(tiff(array))
    first = array.transpose(2, 0, 1)
    sources = [array, first, npy(first), npy(array), tiff(array), tmp_path / "a.npy", str(tmp_path / "a.tif")]
    if dtype != "uint16":
        sources += [torch.from_numpy(first.copy())]
    for source in sources:
        assert torch.allclose(transform(source), expected, atol=2e-5)
        [found] = effnets.predict(network, source, input_size=24)
        [same] = effnets.predict(network, array, input_size=24)
        assert found[0].index == same[0].index
    with torch.inference_mode():
        whole = effnets.create_transform(network, input_size=24)(array)[None]
        assert same[0].index == network(whole).argmax()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pages_are_turned_upright(orientation):
    data = tiff(planes(2), orientation)
    width, height = image_size(data, "pages", 2)
    assert decode_image(data, "pages", 2).shape == (height, width, 2)
    assert (width, height) == ((30, 40) if orientation > 4 else (40, 30))


def test_rgba_keeps_the_fourth_channel_and_channels_stay_apart():
    array = planes(4)
    array[..., 3] = 0  # Pillow's own resize would make the others black
    transform = effnets.create_transform(
        effnets.create_model("mobilenetv1_025", in_chans=4), input_size=24, crop_pct=1.0
    )
    preprocess = PreprocessSpec()
    assert transform.preprocess.for_channels(4).mean == (*preprocess.mean, pytest.approx(np.mean(preprocess.mean)))
    png = io.BytesIO()
    Image.fromarray(array).save(png, "PNG")
    rgb = effnets.create_transform(effnets.create_model("mobilenetv1_025"), input_size=24, crop_pct=1.0)(array[..., :3])
    for source in (array, png.getvalue(), tiff(array), npy(array), Image.fromarray(array)):
        found = transform(source)
        assert torch.equal(found[:3], rgb)
        assert torch.allclose(found[3], torch.tensor(-np.mean(preprocess.mean) / np.mean(preprocess.std)).float())
    assert np.asarray(load_image(array[..., :3], 4))[..., 3].min() == 255, "an image without alpha is opaque"
    for mode in ("L", "LA", "P", "CMYK", "YCbCr", "HSV", "1", "RGBa", "I;16"):
        assert load_image(Image.new(mode, (3, 3)), 4).mode == "RGBA", mode
    infrared = Image.merge("RGBX", Image.fromarray(planes(4)).split()) if hasattr(Image, "merge") else None
    assert np.array_equal(np.asarray(load_image(infrared, 4)), np.asarray(infrared))


REFUSALS = [
    (planes(5), 6, ArgumentError, r"uint8 array of shape \[30, 40, 5\]; pass .* with 6 channels"),
    (planes(6, height=6), 6, ArgumentError, "may have its 6 channels first or last"),
    (planes(6).astype(np.int32), 6, ArgumentError, "int32 array"),
    (torch.from_numpy(planes(6)), 6, ArgumentError, r"pass image\.permute\(2, 0, 1\)"),
    (np.full((4, 5, 6), np.nan, np.float32), 6, ImageError, "NaN or infinite"),
    (Image.new("RGB", (4, 4)), 6, ImageError, "1 page of mode RGB, and the network has 6"),
    (tiff(planes(3)), 2, ImageError, "3 pages of mode L, and the network has 2"),
    (npy(planes(5)), 6, ImageError, r"the image of \d+ bytes is a uint8 array"),
    (npy(planes(6))[:90], 6, ImageError, r"cannot be read as a \.npy file"),
    (npy(np.array([object()])), 6, ImageError, r"cannot be read as a \.npy file"),
    (b"II*\0nothing", 6, ImageError, r"save its 6 channels as \.npy"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(("source", "channels", "error", "message"), REFUSALS)
def test_others_are_refused(source, channels, error, message):
    with pytest.raises(error, match=message):
        load_image(source, channels)


def test_pages_must_agree():
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "TIFF", save_all=True, append_images=[Image.new("L", (4, 5))])
    with pytest.raises(ImageError, match="page 2 has another size than page 1"):
        decode_image(file.getvalue(), "odd.tif", 2)
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "TIFF", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    with pytest.raises(ImageError, match=r"odd\.tif: page 1 is of mode RGB; save 8 or 16 bits"):
        decode_image(file.getvalue(), "odd.tif", 2)


def test_means_must_be_stated():
    network = effnets.create_model("mobilenetv1_025", in_chans=6)
    with pytest.raises(
        ArgumentError, match=r"mean has 3 numbers for 6 input channels; .*create_model\(…, mean=…, std=…\)"
    ):
        effnets.predict(network, planes(6))
    with pytest.raises(ArgumentError, match=r"mean is \(0\.1, 0\.2\); give one number, or 6, one for each channel"):
        effnets.create_model("mobilenetv1_025", in_chans=6, mean=(0.1, 0.2), std=0.5)
    with pytest.raises(ArgumentError, match="mean has 6 numbers and std 3"):
        effnets.create_model("mobilenetv1_025", in_chans=6, mean=[0.1] * 6)
    network = effnets.create_model("mobilenetv1_025", in_chans=4, mean=(0.1, 0.2, 0.3, 0.4))
    assert network.spec.preprocess.std == (0.229, 0.224, 0.225, pytest.approx(0.226))


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.parametrize("preprocess", [False, True])
def test_exported_networks_predict_the_same(tmp_path, channels, preprocess):
    pytest.importorskip("onnxruntime")
    stated = {"mean": 0.4, "std": 0.3} if channels in (2, 6) else {}
    network = shake(effnets.create_model("mobilenetv1_025", in_chans=channels, **stated), size=32).eval()
    path = tmp_path / "t.onnx"
    arguments = {"preprocess": preprocess, "image_size": 32, "engines": ["onnxruntime"]}
    if preprocess and channels in (2, 6):
        with pytest.raises(
            ArgumentError, match=f"and this model takes {channels}; leave it out: the file then takes float32"
        ):
            effnets.export_onnx(network, path, **arguments)
        return
    effnets.export_onnx(network, path, **arguments)
    engine = effnets.load_engine(path)
    assert engine.description.channels == channels
    images = [planes(channels), planes(channels, height=50, width=33)]
    found = effnets.predict(engine, images)
    for one, other in zip(found, effnets.predict(network, images, input_size=32), strict=True):
        assert one[0].index == other[0].index
        # Preprocessing in the graph may differ by one level of 255.
        assert one[0].probability == pytest.approx(other[0].probability, rel=0.05 if preprocess else 1e-3)
