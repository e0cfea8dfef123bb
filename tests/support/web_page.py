"""Web pages of `export_web`: where onnxruntime-web is, and a browser that uses such a page as a person would."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from effnets.deploy.export.web import ORT_FILES, ORT_VERSION
from effnets.utils.paths import home_dir
from tests.support import ROOT
from tests.support.headless_chromium import CHROMIUM, Browser

_PLACES = (ROOT / "node_modules" / "onnxruntime-web" / "dist", home_dir() / f"onnxruntime-web-{ORT_VERSION}")
ORT = next((place for place in _PLACES if all((place / name).is_file() for name in ORT_FILES)), None)

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or ORT is None,
    reason=f"needs Chromium, and onnxruntime-web: npm install --no-save onnxruntime-web@{ORT_VERSION}",
)


def imitate_ort(folder: Path) -> Path:
    """A folder with files of the names of onnxruntime-web's, which run nothing."""
    folder.mkdir(parents=True)
    for name in ORT_FILES:
        (folder / name).write_text(f"// {name}")
    return folder


class Page:
    """The page in a browser of its own."""

    def __init__(self, *flags: str) -> None:
        # The flag lets WebGL, which reads transparent images, work without a graphics card.
        self.browser = Browser("--enable-unsafe-swiftshader", *flags)

    def visit(self, url: str, *, ready: bool = True, **display: Any) -> None:
        """Open an address; a service worker may reload the page once."""
        self.browser.visit(url, **display)
        if ready:
            self.wait("document.getElementById('status')?.textContent === 'Ready'")

    def wait(self, expression: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not self.evaluate(f"(() => {{ try {{ return Boolean({expression}); }} catch {{ return false; }} }})()"):
            assert time.monotonic() < deadline, (expression, self.text, self.browser.messages)
            time.sleep(0.05)

    def evaluate(self, expression: str) -> Any:
        for _ in range(20):
            try:
                return self.browser.evaluate(expression)
            except AssertionError as error:  # what runs while the page reloads
                if not any(text in str(error) for text in ("context was destroyed", "navigated", "default execution")):
                    raise
                time.sleep(0.1)
        raise AssertionError("the page reloads again and again")

    @property
    def text(self) -> str:
        return self.evaluate("document.body.innerText")

    @property
    def problem(self) -> str:
        return self.evaluate("document.getElementById('problem').textContent")

    def choose(self, path: Path) -> None:
        """Choose a file, as the dialog of the browser does."""
        self.forget()
        root = self.browser.call("DOM.getDocument")["root"]["nodeId"]
        node = self.browser.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self.browser.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def drop(self, path: Path) -> None:
        self.forget()
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.browser.call("Input.dispatchDragEvent", type=kind, x=200, y=300, data=data)

    def paste(self, path: Path, kind: str) -> None:
        self.forget()
        self.evaluate(
            f"""(() => {{
                const data = new DataTransfer();
                data.items.add({self._file(path, kind)});
                document.dispatchEvent(new ClipboardEvent("paste", {{ clipboardData: data, bubbles: true }}));
            }})()"""
        )

    def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            extra = {"text": text} if text and kind == "keyDown" else {}
            self.browser.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **extra)

    def forget(self) -> None:
        """Remove what is shown, so that an answer that appears is new."""
        self.evaluate("document.getElementById('problem').textContent = ''")
        self.evaluate("document.getElementById('results').replaceChildren()")

    def answer(self) -> list[tuple[str, float]]:
        """Wait for the predictions: label and probability, the likeliest first."""
        self.wait("document.querySelector('#results li') || document.getElementById('problem').textContent")
        assert self.problem == ""
        return [
            (label, float(share))
            for label, share in self.evaluate(
                "[...document.querySelectorAll('#results li')].map((item) =>"
                " [item.firstChild.textContent, item.style.getPropertyValue('--share')])"
            )
        ]

    def refusal(self) -> str:
        """Wait for the message about a photo."""
        self.wait("document.getElementById('problem').textContent")
        assert self.evaluate("document.querySelector('#results li')") is None
        return self.problem

    def pixels(self, path: Path, kind: str, **preprocess: Any) -> NDArray[np.uint8]:
        """What the page makes of a photo: ``[H, W, C]``, not normalized; `preprocess` replaces entries of the model's.

        The milliseconds it took are in `milliseconds`.
        """
        found = self.evaluate(
            f"""(async () => {{
                const {{ decode }} = await import("./app.js");
                const {{ resizeAndCrop }} = await import("./preprocess.js");
                const model = await (await fetch("model.json")).json();
                const preprocess = {{ ...model.preprocess, ...{json.dumps(preprocess)} }};
                const file = {self._file(path, kind)};
                const begin = performance.now();
                const image = await decode(file);
                const pixels = resizeAndCrop(image, preprocess);
                image.close();
                const milliseconds = performance.now() - begin;
                const text = Array.from(pixels, (value) => String.fromCharCode(value)).join("");
                return {{ milliseconds, preprocess, pixels: btoa(text) }};
            }})()"""
        )
        self.milliseconds: float = found["milliseconds"]
        shape = (*found["preprocess"]["size"], found["preprocess"]["channels"])
        return np.frombuffer(base64.b64decode(found["pixels"]), np.uint8).reshape(shape)

    def _file(self, path: Path, kind: str) -> str:
        data = base64.b64encode(path.read_bytes()).decode()
        return (
            f"new File([Uint8Array.from(atob('{data}'), (c) => c.charCodeAt(0))], '{path.name}', {{ type: '{kind}' }})"
        )
