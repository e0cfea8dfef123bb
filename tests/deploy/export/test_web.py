"""export_web: the folder, what is refused, and the page's arithmetic in Node beside Pillow's, without a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import effnets
from effnets.cli import main
from effnets.deploy.export.web import ORT_FILES, check_folder, export_web, find_ort
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, EngineError, ExportError, MissingFileError
from effnets.inference.arrays import resize
from effnets.inference.image import center_crop, cover_size, image_to_array, load_image, resized_size
from effnets.spec.specs import PreprocessSpec
from tests.support import ROOT
from tests.support.tiny_network import tiny
from tests.support.web_page import imitate_ort

ASSETS = ROOT / "effnets" / "assets" / "web"
PAGE = {"index.html", "style.css", "app.js", "preprocess.js", "sw.js", "model.json", "model.onnx"}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    model = tiny(tmp_path_factory.mktemp("network"))
    model.class_names = tuple(f"kind {index} <b>" for index in range(12))
    return model


@pytest.fixture(scope="module")
def ort(tmp_path_factory):
    return imitate_ort(tmp_path_factory.mktemp("npm") / "dist")


@pytest.fixture(scope="module")
def exported(network, ort, tmp_path_factory):
    return export_web(network, tmp_path_factory.mktemp("export") / "page", image_size=(40, 56), ort=ort)


@pytest.fixture
def earlier(exported, tmp_path):
    """A copy of the exported folder."""
    return shutil.copytree(exported.folder, tmp_path / "page")


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def test_the_folder_has_what_the_page_needs_and_nothing_else(exported):
    found = files_of(exported.folder)
    assert set(found) == PAGE | {f"ort/{name}" for name in ORT_FILES}
    assert dict(exported.sizes) == {name: path.stat().st_size for name, path in found.items()}
    assert list(exported.folder.parent.iterdir()) == [exported.folder]
    assert str(exported).startswith(f"{exported.folder}: ")


def test_the_model_is_the_verified_one_and_its_description_is_beside_it(exported, network):
    assert max(exported.model.errors.values()) < 1e-4
    described = json.loads((exported.folder / "model.json").read_text(encoding="utf-8"))
    metadata = ModelMetadata.from_file(exported.folder / "model.onnx")
    assert tuple(described["labels"]) == metadata.labels == network.class_names
    assert described["preprocess"] == {
        "channels": 3,
        "size": [40, 56],
        "cover": [45, 64],
        "interpolation": metadata.preprocess.interpolation,
        "mean": list(metadata.preprocess.mean),
        "std": list(metadata.preprocess.std),
    }


def test_the_service_worker_keeps_every_file_by_its_hash(exported):
    worker = (exported.folder / "sw.js").read_text()
    assert "{{" not in worker
    assert f'"{exported.version}"' in worker
    found = dict(re.findall(r'"([^"]+)": "sha256-([^"]+)"', worker))
    found["index.html"] = found.pop("./")
    for name, path in files_of(exported.folder).items():
        if name != "sw.js":  # the browser itself keeps it
            assert base64.b64decode(found.pop(name)) == hashlib.sha256(path.read_bytes()).digest(), name
    assert not found


def test_the_page_has_no_script_in_its_markup_and_a_strict_policy():
    page = (ASSETS / "index.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy
    assert policy[1].startswith("default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; ")
    assert "unsafe-inline" not in page
    assert re.findall(r"<script(?! type=\"module\" src=\"app.js\"></script>)", page) == []
    assert re.findall(r"\son\w+=|\sstyle=", page) == []
    for name in ("app.js", "preprocess.js", "sw.js"):
        assert len((ASSETS / name).read_text().splitlines()) < 400


def test_an_earlier_export_is_replaced_also_through_a_link(earlier, exported, network, ort, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(earlier)
    changed = export_web(network, link, image_size=64, ort=ort)
    assert changed.version != exported.version
    assert link.is_symlink()
    assert json.loads((earlier / "model.json").read_text())["preprocess"]["size"] == [64, 64]
    assert set(tmp_path.iterdir()) == {earlier, link}
    again = export_web(network, link, image_size=64, ort=ort)
    assert again.version == changed.version, "the same content is the same version"


def test_other_folders_are_refused_and_left_alone(network, ort, earlier, tmp_path):
    mine = tmp_path / "photos"
    mine.mkdir()
    (mine / "model.json").write_text('{"format": "another"}')
    with pytest.raises(ArgumentError, match="photos: holds something else than a web page by effnets; name another"):
        export_web(network, mine, ort=ort)
    (earlier / "CNAME").write_text("example.org")
    with pytest.raises(ArgumentError, match="page: is an earlier export, but CNAME is not of it and would be lost"):
        export_web(network, earlier, ort=ort)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArgumentError, match="file: is a file; name a folder"):
        export_web(network, tmp_path / "file", ort=ort)
    with pytest.raises(ExportError, match="missing is not a folder; make it first"):
        export_web(network, tmp_path / "missing" / "page", ort=ort)
    assert (mine / "model.json").exists()
    assert (earlier / "CNAME").exists()
    (tmp_path / "empty").mkdir()
    assert check_folder(tmp_path / "empty") == tmp_path / "empty"


def test_what_fails_leaves_the_earlier_export_and_nothing_half_written(earlier, network, ort, tmp_path):
    before = {name: path.read_bytes() for name, path in files_of(earlier).items()}
    with pytest.raises(ArgumentError, match="image_size"):
        export_web(network, earlier, image_size=9000, ort=ort)
    assert {name: path.read_bytes() for name, path in files_of(earlier).items()} == before
    assert list(tmp_path.iterdir()) == [earlier]


def test_channels_that_photos_do_not_have_are_refused(ort, tmp_path):
    model = effnets.create_model("mobilenetv1_025", num_classes=3, in_chans=5)
    with pytest.raises(ArgumentError, match=r"photos of 1, 3 or 4 channels, and this model takes 5; use export_onnx"):
        export_web(model, tmp_path / "page", ort=ort)
    with pytest.raises(ArgumentError, match="gives no logits"):
        export_web(effnets.create_model("mobilenetv1_025", num_classes=0), tmp_path / "page", ort=ort)
    assert not list(tmp_path.iterdir())


def test_an_incomplete_runtime_is_refused(ort, tmp_path):
    folder = shutil.copytree(ort, tmp_path / "dist")
    (folder / ORT_FILES[2]).unlink()
    with pytest.raises(
        MissingFileError, match=rf"dist: has no {ORT_FILES[2]}; .*npm install onnxruntime-web@1\.30\.0$"
    ):
        find_ort(folder)


def test_without_npm_the_message_has_the_command(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFNETS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        EngineError, match=r"is not installed; install it with: npm install onnxruntime-web@1\.30\.0; or"
    ):
        find_ort()


@pytest.mark.skipif(os.name != "posix", reason="the program that stands for npm is a shell script")
def test_what_npm_fetches_is_kept(ort, monkeypatch, tmp_path):
    """A program in npm's place hands out an archive as npm pack does; then it fails, as without network."""
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as archive:
        archive.add(ort, "package/dist")
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\n[ "$1" = pack ] && cp {tmp_path}/package.tgz onnxruntime-web-1.30.0.tgz\n')
    npm.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFNETS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")
    fetched = find_ort()
    npm.write_text("#!/bin/sh\necho 'npm error network' >&2\nexit 1\n")
    assert find_ort() == fetched
    assert {name: path.read_bytes() for name, path in fetched.items()} == {
        name: (ort / name).read_bytes() for name in ORT_FILES
    }
    monkeypatch.setenv("EFFNETS_HOME", str(tmp_path / "other"))
    with pytest.raises(EngineError, match=r"cannot be fetched by npm \(npm error network\); install it with: npm"):
        find_ort()
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "mixnet_s", "out", "--web", "--int8"], "--web goes with --weights, --ema, --image-size"),
        (["export", "mixnet_s", "out", "--web", "--topk", "3"], "--web goes with"),
        (["export", "mixnet_s", "out.tflite", "--web"], "--web writes a folder, and out.tflite names a file; leave"),
        (["export", "mixnet_s", "out", "--web", "--smaller"], "--web goes with"),
        (["export", "mixnet_s", "out", "--web", "--seed", "0"], "--web goes with"),
        (["export", "mixnet_s", "out.onnx", "--ort", "dist"], "--ort is for the web page of --web"),
        (["demo", "--port", "8000"], "--port and --ort are for the web page of --web"),
        (["demo", "photo.jpg", "--web"], "--web takes photos in the browser; leave PHOTO out"),
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments, message):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_the_command_writes_the_folder(ort, tmp_path):
    folder = tmp_path / "page"
    arguments = ["export", "mixnet_xs_32px", str(folder), "--web", "--ort", str(ort), "--image-size", "64"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"{folder}: ")
    assert set(files_of(folder)) >= PAGE
    result = CliRunner().invoke(main, ["export", "mixnet_xs_32px", str(folder), "--web", "--ort", str(tmp_path)])
    assert (result.exit_code, "has no ort.wasm.min.mjs" in result.output) == (1, True)


PROGRAM = """
import { readFileSync, writeFileSync } from "node:fs";
import { normalize, rank, resizeAndCrop } from "%s";

for (const { file, width, height, preprocess } of JSON.parse(readFileSync("cases.json"))) {
  const pixels = new Uint8ClampedArray(readFileSync(file));
  const read = (left, top, columns, rows) => {
    const part = new Uint8ClampedArray(columns * rows * 4);
    for (let y = 0; y < rows; y++) {
      const first = 4 * ((top + y) * width + left);
      part.set(pixels.subarray(first, first + 4 * columns), 4 * y * columns);
    }
    return part;
  };
  const resized = resizeAndCrop({ width, height, read }, preprocess);
  writeFileSync(file + ".u8", resized);
  writeFileSync(file + ".f32", new Uint8Array(normalize(resized, preprocess).buffer));
}
let message = "";
try {
  resizeAndCrop({ width: 1000000, height: 1 }, { size: [224, 224], cover: [256, 256], channels: 3 });
} catch (error) {
  message = error.message;
}
const ranked = rank(Float32Array.of(1, 3, -100, 2, 0, 1.5), ["a", "b", "c", "d", "e", "f"]);
console.log(JSON.stringify({ message, ranked }));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_pixels_are_pillows_and_inputs_are_ours_bit_for_bit(tmp_path):
    """Sizes, filters, crops and channels at random; noise, which any other rounding would change."""
    random = np.random.default_rng(0)
    cases, expected = [], []
    for number in range(40):
        channels = int(random.choice([1, 3, 3, 4]))
        width = int(random.integers(1, 700))
        # Over twice as high as wide, Pillow 13 resizes down before across.
        height = int(random.integers(1, 2 * width + 1))
        width = min(width, 40 * height)
        size = (int(random.integers(1, 200)), int(random.integers(1, 200)))
        size = size if number % 3 else (size[0], size[0])
        filters, shares = ["bicubic", "bilinear"], [0.5, 0.875, 0.965, 1.0]
        preprocess = PreprocessSpec(
            interpolation=str(random.choice(filters)), crop_pct=float(random.choice(shares))
        ).for_channels(channels)
        pixels = random.integers(0, 256, (height, width, 4), np.uint8)
        pixels[..., 3] = pixels[..., 3] if channels == 4 else 255
        (tmp_path / f"{number}").write_bytes(pixels.tobytes())
        image = load_image(Image.fromarray(pixels), channels)
        new_size = resized_size(image, *size, preprocess)
        resized = resize(image, new_size, Image.Resampling[preprocess.interpolation.upper()])
        expected.append((np.asarray(center_crop(resized, *size)), image_to_array(image, preprocess, size)))
        described = {
            "channels": channels,
            "size": size,
            "cover": cover_size(*size, preprocess),
            "interpolation": preprocess.interpolation,
            "mean": preprocess.mean,
            "std": preprocess.std,
        }
        cases.append({"file": f"{number}", "width": width, "height": height, "preprocess": described})
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    (tmp_path / "program.mjs").write_text(PROGRAM % (ASSETS / "preprocess.js").as_uri())
    result = subprocess.run(["node", "program.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    for case, (levels, values) in zip(cases, expected, strict=True):
        found = np.frombuffer((tmp_path / f"{case['file']}.u8").read_bytes(), np.uint8)
        np.testing.assert_array_equal(found, levels.ravel(), str(case))
        found = np.frombuffer((tmp_path / f"{case['file']}.f32").read_bytes(), np.float32)
        np.testing.assert_array_equal(found, values.ravel(), str(case))
    said = json.loads(result.stdout)
    assert said["message"] == "This photo of 1000000 × 1 pixels is too long and narrow. Crop it, and try again."
    assert [entry["label"] for entry in said["ranked"]] == ["b", "d", "f", "a", "e"]
    powers = np.exp([3, 2, 1.5, 1, 0])
    np.testing.assert_allclose([entry["probability"] for entry in said["ranked"]], powers / powers.sum(), rtol=1e-12)


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_demo_serves_the_page_until_ctrl_c(ort, tmp_path):
    import http.client
    import signal

    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from effnets.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "demo", "--web", "--port", "0", "--ort", str(ort), "--output", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = next(found for line in process.stdout if (found := re.search(r"127\.0\.0\.1:(\d+)/", line)))
        connection = http.client.HTTPConnection("127.0.0.1", int(address[1]), timeout=10)
        connection.request("GET", "/model.json")
        assert json.load(connection.getresponse())["name"] == "mixnet_xs_32px"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, output, errors) == (0, "stopped\n", "")
    assert set(files_of(tmp_path / "out")) == {
        *(f"web/{name}" for name in PAGE),
        *(f"web/ort/{name}" for name in ORT_FILES),
    }
