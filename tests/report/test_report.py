"""write_report: one page that holds everything, harmless whatever the files are called, and its images."""

from __future__ import annotations

import io
import re
import shutil
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import effnets
from effnets.errors import ReportError
from effnets.report import EpochRow, RunSummary, write_report
from effnets.report.images import explain, mistakes
from tests.support import shake
from tests.support.evaluation_cases import PicturesInMemory, noise_source, patch, tell_apart
from tests.support.headless_chromium import CHROMIUM, Browser

# What a folder may be called, and what a page or a chart could take it for.
HOSTILE = (
    "<script>alert(1)</script>",
    "a\"b'c & <b>d",
    "$x_1$ {{ 7 * 7 }}",
    "#1a2029; fill: red",
    "日本語 – ünïcödé",
    "-->",
)
HISTORY = tuple(
    EpochRow(
        epoch=epoch,
        train_loss=2 / epoch,
        val_loss=2.2 / epoch,
        val_top1=90 - 50 / epoch,
        average_top1=88 - 50 / epoch,
        learning_rate=0.01 / epoch,
        seconds=3.0,
        phase="head" if epoch < 3 else "all",
    )
    for epoch in range(1, 7)
)


@pytest.fixture(scope="module")
def network():
    model = shake(effnets.create_model("mobilenetv1_025", num_classes=len(HOSTILE)), size=64)
    model.class_names = HOSTILE
    return tell_apart(model, noise_source(40, HOSTILE))


@pytest.fixture(scope="module")
def evaluation(network):
    source = noise_source(40, HOSTILE)
    source.prefix = "<img src=x onerror=alert(2)>/"
    # Two thirds of the answers are made right, so that there is something to calibrate.
    source.labels[:27] = effnets.evaluate(network, source).answers[:27]
    source.pictures[7] = b""
    return effnets.evaluate(network, source)


@pytest.fixture(scope="module")
def run(network, evaluation):
    return RunSummary(
        title="<i>fruit</i> & nuts",
        command="effnets finetune '<data>' --model mobilenetv1_025",
        evaluation=evaluation,
        network=network,
        history=HISTORY,
        selected_top1=81.7,
        recipe={"epochs": 6, "optimiser": {"name": "adamw", "lr": 1e-3}, "note": "<u>"},
        notes=("2 duplicates in train and test (<a>, b)",),
        images={"train": 100, "test": 40},
        training_seconds=100.0,
        training_speed=55.5,
        seed=3,
        finished=datetime(2026, 1, 2, 3, 4),
    )


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "new" / "folder"
    assert write_report(folder, run) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


class _Outline(HTMLParser):
    """Elements, their attributes, and what is read."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def test_every_element_is_closed_and_none_acts(page):
    outline = _Outline(page)
    assert outline.open == []
    assert not {"script", "iframe", "object", "i", "u", "a"} & {tag for tag, _ in outline.elements}
    for tag, attributes in outline.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href"):
            assert str(attributes.get(name, "#")).startswith(("data:", "#")), (tag, attributes)


def test_hostile_names_are_shown_as_they_are(page):
    text = _Outline(page).text
    for name in HOSTILE:
        assert " ".join(name.split()) in text
    assert "<i>fruit</i> & nuts" in text
    assert "onerror=alert(2)>" in text


def test_the_figures_stand_in_the_page(page, evaluation, network):
    text = _Outline(page).text
    assert f"{evaluation.top1:.1f}" in text
    assert "{:.1f} – {:.1f} % with 95 % confidence".format(*evaluation.interval) in text
    assert "trained for 6 epochs on 100 images of 6 classes, measured on 39 images" in text
    assert "81.7" in text
    assert "optimiser.lr 0.001" in text
    assert "effnets finetune '<data>' --model mobilenetv1_025" in text
    assert "2 duplicates in train and test (<a>, b)" in text
    assert "1 image could not be read and counts nowhere" in text
    assert "2026-01-02 03:04" in text
    assert f"{evaluation.calibration.temperature:.2f}" in text
    assert "fitted on the very images that it is measured on" in text
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert f"Parameters {parameters / 1e6:.2f} M" in text


def test_where_the_temperature_is_from_is_said(run, evaluation, tmp_path):
    elsewhere = replace(evaluation, calibration=replace(evaluation.calibration, fitted_here=False))
    text = _Outline(write_report(tmp_path, replace(run, evaluation=elsewhere, network=None)).read_text()).text
    assert "The temperature was fitted on the validation images, so that these measure it fairly" in text


def test_ids_are_unique_and_found(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for reference in re.findall(r'(?:href="|url\()#([^")]+)', page):
        assert reference in ids


def test_images_lie_beside_the_page(folder):
    names = sorted(path.name for path in (folder / "report").iterdir())
    assert names == [
        "accuracy.png",
        "attention.png",
        "confusion.png",
        "learning-rate.png",
        "loss.png",
        "mistakes.png",
        "reliability.png",
    ]
    for name in names:
        with Image.open(folder / "report" / name) as image:
            assert np.asarray(image.convert("L")).std() > 5, name
    assert sorted(path.name for path in folder.iterdir()) == ["report", "report.html"]


def test_the_same_run_is_the_same_page(run, page, tmp_path):
    assert write_report(tmp_path, run).read_text(encoding="utf-8") == page


def test_an_evaluation_alone_has_no_curves(evaluation, tmp_path):
    page = write_report(tmp_path, RunSummary(title="x", command="effnets eval", evaluation=evaluation)).read_text()
    text = _Outline(page).text
    assert "How it learned" not in text
    assert "What it looks at" not in text
    assert "effnets evaluation report" in text
    assert not (tmp_path / "report" / "loss.png").exists()


def test_one_epoch_and_gaps(evaluation, tmp_path):
    history = (EpochRow(epoch=1, train_loss=1.0),)
    run = RunSummary(title="x", command="y", evaluation=evaluation, history=history)
    page = write_report(tmp_path, run).read_text()
    assert "trained for 1 epoch of 6 classes" in _Outline(page).text
    assert not (tmp_path / "report" / "accuracy.png").exists()


def test_no_mistake_at_all(tmp_path):
    from tests.support.exported import describe, write

    engine = effnets.load_engine(write(tmp_path / "colours.onnx", describe()))
    source = PicturesInMemory([patch("red"), patch("blue")], [0, 1], ("red", "blue"))
    run = RunSummary(title="x", command="y", evaluation=effnets.evaluate(engine, source))
    text = _Outline(write_report(tmp_path, run).read_text()).text
    assert "Every answer is right" in text
    assert "The surest mistakes" not in text
    assert "No temperature from 0.1 to 10 is best" in text


def test_images_that_have_gone_since_are_left_out(network, tmp_path):
    source = noise_source(20, HOSTILE)
    found = effnets.evaluate(network, source)
    source.pictures = [b""] * 20
    run = RunSummary(title="x", command="y", evaluation=found, network=network)
    with pytest.warns(UserWarning, match=r"left out of the report: .* is empty \(0 bytes\)"):
        page = write_report(tmp_path, run)
    assert "The surest mistakes" not in page.read_text()


@pytest.mark.parametrize("part", ["learning_curves", "confusion_matrix", "reliability_diagram", "contact_sheet"])
def test_a_drawing_that_fails_costs_a_drawing(run, tmp_path, monkeypatch, part):
    def fail(*_: object) -> None:
        raise RuntimeError("no such color")

    monkeypatch.setattr(f"effnets.report.page.{part}", fail)
    with pytest.warns(UserWarning, match=r"left out of the report: .* \(no such color\)"):
        page = write_report(tmp_path, run)
    assert "Macro F1" in page.read_text()


def test_a_page_that_cannot_be_composed_is_a_report_error(run, tmp_path, monkeypatch):
    monkeypatch.setattr("effnets.report.page._context", lambda _: {})
    with pytest.raises(ReportError, match="the report cannot be composed"):
        write_report(tmp_path, run)


@pytest.mark.parametrize("obstacle", ["folder", "report", "report.html"])
def test_where_nothing_can_be_written_nothing_is(run, tmp_path, obstacle):
    target = tmp_path / "out"
    if obstacle == "report.html":
        (target / obstacle).mkdir(parents=True)
    elif obstacle == "report":
        target.mkdir()
        (target / obstacle).write_text("mine")
    else:
        target.write_text("mine")
    before = {path: path.is_dir() for path in tmp_path.rglob("*")}
    with pytest.raises(ReportError, match=r"out.*(cannot be written .*name a folder|is a folder, .*move it away)"):
        write_report(target, run)
    after = {path: path.is_dir() for path in tmp_path.rglob("*")}
    assert {path for path in after if path.is_file()} == {path for path in before if path.is_file()}


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium here to open the report in; on Debian: apt-get install chromium")
    browser = Browser()
    yield browser
    browser.close()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_in_a_browser(browser, folder, tmp_path, evaluation, width, dark):
    """On a desk by day and by night, and on a telephone; far from its images, so that it can only use its own."""
    alone = tmp_path / "alone.html"
    shutil.copy(folder / "report.html", alone)
    browser.messages.clear()
    browser.requests.clear()
    browser.open(alone, width=width, dark=dark)
    images = browser.evaluate(
        "Promise.all([...document.images].map(image => image.decode().then(() => image.naturalWidth, () => 0)))"
    )
    assert len(images) > 20
    assert min(images) > 100
    assert browser.messages == []
    assert [request for request in browser.requests if not request.startswith("data:")] == [alone.as_uri()]
    text = browser.evaluate("document.body.innerText")
    for expected in ("How it learned", "Where it errs", "The surest mistakes", "What it looks at", "Class by class"):
        assert expected in text
    assert HOSTILE[0] in text
    assert f"{evaluation.top1:.1f}%" in text
    assert browser.evaluate("document.querySelectorAll('svg.chart').length") == 5
    # What is wide scrolls within itself; the page never sideways.
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    background, ink = _colours(browser.screenshot())
    assert (background < 60 < 180 < ink) if dark else (ink < 60 < 240 < background)


def _colours(png: bytes) -> tuple[int, int]:
    """The page's colour, and that which is farthest from it in the headline."""
    grey = np.asarray(Image.open(io.BytesIO(png)).convert("L")).astype(int)
    background, headline = grey[2, 2], grey[:220]
    return background, headline.flat[np.abs(headline - background).argmax()]


def test_an_image_of_a_grey_network(tmp_path):
    model = shake(effnets.create_model("mobilenetv1_025", num_classes=3, in_chans=1), size=64)
    model.class_names = ("a", "b", "c")
    found = effnets.evaluate(model, noise_source(9, ("a", "b", "c")))
    run = RunSummary(title="x", command="y", evaluation=found, network=model)
    assert "What it looks at" in write_report(tmp_path, run).read_text()


def test_images_of_any_size_are_shown(network):
    """Rounding puts an edge of the crop outside of the image for one size in fifty, which Pillow refuses."""
    sizes = [(74, 62), (393, 124), (496, 639), *((97 + 13 * step % 401, 61 + 29 * step % 397) for step in range(120))]
    images = [patch("red", size=size) for size in sizes]
    found = effnets.evaluate(network, PicturesInMemory(images, [0] * len(images), HOSTILE))
    assert len(mistakes(found, len(images))) == (~found.right).sum()
    assert len(explain(found, network, 2, 1)) >= 1
    found = replace(found, labels=(found.answers + 1) % len(HOSTILE))  # now all of them are mistakes
    shown = mistakes(found, len(images))
    assert [example.image.size for example in shown] == [(240, 240)] * len(images)
