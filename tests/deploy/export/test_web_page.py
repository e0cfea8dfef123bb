"""The page of export_web in headless Chromium, used as a person would, beside effnets.predict."""

from __future__ import annotations

from http.server import SimpleHTTPRequestHandler
from threading import Thread

import numpy as np
import pytest
from PIL import Image

import effnets
from effnets.deploy.export.web import export_web
from effnets.inference.arrays import resize
from effnets.inference.image import center_crop, load_image, resized_size
from effnets.utils.static_server import StaticServer
from tests.support import SHARED, needs_shared
from tests.support.local_server import local_server
from tests.support.tiny_network import TABLE, tiny
from tests.support.web_page import ORT, Page, needs_browser

pytestmark = needs_browser

NAMES = ("café ☕", "<b>bold</b>", "a very long name of a class that has to be broken into lines on a phone")
SIZE = (40, 56)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    model = tiny(tmp_path_factory.mktemp("network"), table=TABLE.replace("num_classes: 12", "num_classes: 3"))
    model.class_names = NAMES
    return model


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    return export_web(network, tmp_path_factory.mktemp("export") / "page", image_size=SIZE, ort=ORT).folder


@pytest.fixture(scope="module")
def page():
    page = Page("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    yield page
    page.browser.close()


@pytest.fixture
def serve():
    """Serve folders until the test ends; or until the server that is returned is closed."""
    servers = []

    def start(folder, port=0):
        server = StaticServer(folder, port)
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        stop(server)


def stop(server):
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    noise(90, 120).save(path)
    return path


def noise(height, width, channels=3, seed=0):
    """Coarse and fine structure, which a wrong filter or place would change."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (max(2, height // 16), max(2, width // 16), channels), np.uint8)
    image = Image.fromarray(coarse).resize((width, height))
    mixed = np.asarray(image).astype(int) + random.integers(-30, 31, (height, width, channels))
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def expected(network, path, size=SIZE):
    return effnets.predict(network, path, topk=5, input_size=size)[0]


def pixels_of(network, path, channels=3, size=SIZE):
    preprocess = network.spec.preprocess
    image = load_image(path, channels)
    resized = resize(image, resized_size(image, *size, preprocess), Image.Resampling[preprocess.interpolation.upper()])
    return np.asarray(center_crop(resized, *size)).reshape(*size, channels)


def assert_same(found, predictions, within=0.02):
    assert [label for label, _ in found] == [prediction.label for prediction in predictions]
    shares = [prediction.probability for prediction in predictions]
    np.testing.assert_allclose([share for _, share in found], shares, atol=within)


def test_choose_drop_paste_and_camera_give_pythons_answer(page, serve, folder, network, photo):
    page.visit(serve(folder).url)
    assert page.evaluate("crossOriginIsolated")
    wanted = expected(network, photo)
    for way in (page.choose, page.drop, lambda path: page.paste(path, "image/png")):
        way(photo)
        assert_same(page.answer(), wanted, within=1e-4)
    assert "WebAssembly, " in page.evaluate("document.getElementById('timing').textContent")
    assert f"Most likely {wanted[0].label}, " in page.evaluate("document.querySelector('[role=status]').textContent")
    page.forget()
    page.evaluate("document.getElementById('camera').click()")
    page.wait("document.getElementById('video').videoWidth")
    assert page.evaluate("document.activeElement.id") == "shutter"
    page.evaluate("document.getElementById('shutter').click()")
    assert len(page.answer()) == 3
    assert page.evaluate("document.getElementById('video').srcObject") is None, "the camera is off"
    assert not page.evaluate("document.getElementById('viewfinder').open")
    errors = [text for text in page.browser.messages if "adapter" not in text]
    assert errors == []


def test_what_is_no_photo_has_a_message_and_the_page_goes_on(page, serve, folder, photo, tmp_path):
    page.visit(serve(folder).url)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    half = photo.read_bytes()
    (tmp_path / "half.png").write_bytes(half[: len(half) // 2])
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "empty.png").touch()
    Image.new("1", (9000, 8000)).save(tmp_path / "large.png")
    for name, message in {
        "broken.jpg": "broken.jpg cannot be read: it is damaged, or of a kind this browser does not know.",
        "half.png": "half.png cannot be read: it is damaged, or of a kind this browser does not know.",
        "notes.txt": "notes.txt is not an image.",
        "empty.png": "empty.png is empty.",
        "large.png": "large.png has 72 megapixels, and the limit is 64. Make it smaller, and try again.",
    }.items():
        page.choose(tmp_path / name)
        assert page.refusal() == message
        assert page.evaluate("document.getElementById('photo').hidden"), "no other photo stands beside the message"
        page.choose(photo)
        assert len(page.answer()) == 3
    page.evaluate("document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: new DataTransfer() }))")
    assert page.refusal() == "No image was pasted."
    assert page.evaluate("document.querySelector('[role=alert]').hidden") is False


def test_everything_works_with_the_keyboard(page, serve, folder, photo):
    page.visit(serve(folder).url)
    page.forget()
    page.press("Tab", 9)
    assert page.evaluate("document.activeElement.id") == "file"
    assert page.evaluate("document.activeElement.labels[0].textContent") == "Choose a photo"
    outline = page.evaluate("getComputedStyle(document.querySelector('label[for=file]')).outlineStyle")
    assert outline == "solid", "the focus is seen"
    page.browser.call("Page.setInterceptFileChooserDialog", enabled=True)
    page.press("Enter", 13, "\r")
    opened = page.browser.await_event("Page.fileChooserOpened")
    page.browser.call("DOM.setFileInputFiles", files=[str(photo)], backendNodeId=opened["backendNodeId"])
    page.browser.call("Page.setInterceptFileChooserDialog", enabled=False)
    assert len(page.answer()) == 3
    page.press("Tab", 9)
    assert page.evaluate("document.activeElement.id") == "camera"
    page.press("Enter", 13, "\r")
    page.wait("document.getElementById('viewfinder').open")
    page.press("Escape", 27)
    page.wait("!document.getElementById('viewfinder').open")
    assert page.evaluate("document.activeElement.id") == "camera", "the focus returns to where it was"


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_needs_no_sideways_scrolling(page, serve, folder, photo, dark):
    page.visit(serve(folder).url, width=360, height=740, dark=dark)
    page.choose(photo)
    page.answer()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == dark


def test_it_works_offline_and_a_new_export_replaces_the_old(serve, folder, network, photo, tmp_path):
    page = Page()
    try:
        server = serve(folder)
        page.visit(server.url)
        page.wait("!document.getElementById('offline').hidden")
        stop(server)
        page.visit(server.url)
        page.choose(photo)
        assert_same(page.answer(), expected(network, photo), within=1e-4)
        assert page.evaluate("crossOriginIsolated")

        others = tuple(f"other {index}" for index in range(3))
        network.class_names = others
        try:
            changed = export_web(network, tmp_path / "page", image_size=SIZE, ort=ORT)
        finally:
            network.class_names = NAMES
        again = serve(changed.folder, server.server_port)
        page.visit(again.url, ready=False)
        page.wait("document.getElementById('about').textContent.includes('other 2')")
        page.wait("document.getElementById('status').textContent === 'Ready'")
        stop(again)
        caches = page.evaluate("caches.keys()")
        assert len(caches) == 1
        assert caches[0].endswith(changed.version)
        page.visit(server.url)
        page.choose(photo)
        assert {label for label, _ in page.answer()} == set(others)
    finally:
        page.browser.close()


def test_hosts_without_headers_get_threads_too(page, folder, photo):
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

    with local_server(Handler) as url:
        page.visit(f"{url}/", ready=False)
        page.wait("globalThis.crossOriginIsolated")
        page.wait("document.getElementById('status')?.textContent === 'Ready'")
        page.choose(photo)
        page.answer()
        assert page.evaluate("sessionStorage.length") == 0


def test_where_webgpu_fails_webassembly_takes_over(serve, folder, network, photo):
    browser = Page()
    try:
        adapter = "Object.defineProperty(navigator, 'gpu', { value: { requestAdapter: async () => ({ info: {} }) } })"
        browser.browser.call("Page.addScriptToEvaluateOnNewDocument", source=adapter)
        browser.visit(serve(folder).url)
        browser.choose(photo)
        assert_same(browser.answer(), expected(network, photo), within=1e-4)
        assert "WebAssembly, " in browser.evaluate("document.getElementById('timing').textContent")
        assert any("WebGPU failed, so WebAssembly takes over" in text for text in browser.browser.messages)
    finally:
        browser.browser.close()


def test_colors_of_what_is_transparent_gray_and_turned_photos_are_pythons(page, serve, folder, network, tmp_path):
    page.visit(serve(folder).url)
    path = tmp_path / "clear.png"
    noise(130, 170, channels=4).save(path)
    for channels in (3, 4, 1):
        mean = [0.5] * channels
        found = page.pixels(path, "image/png", channels=channels, mean=mean, std=mean)
        np.testing.assert_array_equal(found, pixels_of(network, path, channels))
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        noise(150, 260, seed=orientation).save(path, exif=exif, quality=95)
        difference = np.abs(page.pixels(path, "image/jpeg").astype(int) - pixels_of(network, path))
        assert difference.max() <= 2, orientation


def test_a_photo_of_12_megapixels(page, serve, folder, network, tmp_path):
    page.visit(serve(folder).url)
    path = tmp_path / "large.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(3024, 4032).save(path, exif=exif, quality=85)
    difference = np.abs(page.pixels(path, "image/jpeg").astype(int) - pixels_of(network, path))
    assert difference.max() <= 2
    assert page.milliseconds < 10_000, "a second or two, on a machine that does much else at the same time"
    page.choose(path)
    assert_same(page.answer(), expected(network, path))


@needs_shared
def test_ten_photos_have_pythons_answers(page, serve, tmp_path):
    weights = SHARED / "weights" / "tf_mobilenetv2_100_224.timm.safetensors"
    model = effnets.create_model("tf_mobilenetv2_100", weights=weights).eval()
    page.visit(serve(export_web(model, tmp_path / "page", ort=ORT).folder).url)
    photos = sorted(path for path in (SHARED / "data" / "photos").iterdir() if path.suffix)
    assert len(photos) == 10
    for path, predictions in zip(photos, effnets.predict(model, photos), strict=True):
        page.choose(path)
        found = page.answer()
        assert found[0][0] == predictions[0].label, path
        by_name = dict(found)
        for prediction in predictions:
            assert abs(by_name[prediction.label] - prediction.probability) < 0.02, path
        kind = "image/bmp" if path.suffix == ".bmp" else "image/jpeg"
        difference = np.abs(page.pixels(path, kind).astype(int) - pixels_of(model, path, size=(224, 224)))
        assert difference.max() <= 2, path
