"""Time the page of `export_web` in headless Chromium beside native ONNX Runtime: ms of the fastest image, as Markdown.

Needs Chromium and onnxruntime-web (``npm install --no-save onnxruntime-web``). Run from the repository's top level:
``PYTHONPATH=. python scripts/web_speed.py``.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from threading import Thread

import numpy as np

import effnets
from effnets.deploy.export.web import export_web
from effnets.utils.static_server import StaticServer
from tests.support.headless_chromium import Browser

MODELS = ("mobilenetv2_100", "mixnet_m")
ROUNDS = 30
PROGRAM = """(async () => {
  const ort = await import("./ort/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = new URL("ort/", location.href).href;
  ort.env.wasm.numThreads = %d;
  const bytes = new Uint8Array(await (await fetch("model.onnx")).arrayBuffer());
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  const input = new Float32Array(3 * 224 * 224).map(() => Math.random() - 0.5);
  const times = [];
  for (let round = 0; round < %d; round++) {
    const begin = performance.now();
    const { logits } = await session.run({ images: new ort.Tensor("float32", input, [1, 3, 224, 224]) });
    await logits.getData();
    times.push(performance.now() - begin);
  }
  return times;
})()"""


def main() -> None:
    print("| network | WebAssembly, 1 thread | 2 threads | native, 1 thread | 2 threads |\n|---|---:|---:|---:|---:|")
    for name in MODELS:
        with tempfile.TemporaryDirectory() as work:
            folder = export_web(effnets.create_model(name).eval(), Path(work) / "page").folder
            cells = [min(times) for times in (*in_browser(folder), *native(folder / "model.onnx"))]
            print(f"| {name} | " + " | ".join(f"{cell:.0f}" for cell in cells) + " |", flush=True)


def in_browser(folder: Path) -> list[list[float]]:
    with StaticServer(folder, 0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        browser = Browser()
        try:
            found = []
            for threads in (1, 2):
                browser.visit(f"{server.url}?engine=wasm&threads={threads}")
                time.sleep(5)  # the page itself opens the network meanwhile
                found.append(browser.evaluate(PROGRAM % (threads, ROUNDS))[5:])
            return found
        finally:
            browser.close()
            server.shutdown()


def native(path: Path) -> list[list[float]]:
    images = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    found = []
    for threads in (1, 2):
        engine = effnets.load_engine(path, "onnxruntime", threads=threads)
        times = []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            engine(images)
            times.append(1e3 * (time.perf_counter() - begin))
        found.append(times[5:])
    return found


if __name__ == "__main__":
    main()
