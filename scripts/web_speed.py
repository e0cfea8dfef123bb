"""Time networks in headless Chromium, by rewrites, beside native ONNX Runtime: ms of the median image, as Markdown.

Needs Chromium and onnxruntime-web (``npm install --no-save onnxruntime-web``). Run from the repository's top level:
``PYTHONPATH=. python scripts/web_speed.py [NETWORK…]``. The rewrites of a network take turns, round by round.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from threading import Thread

import numpy as np
import onnxruntime

import effnets
from effnets.deploy.export.export import export_bytes
from effnets.deploy.export.web import export_web
from effnets.deploy.optimize.rewrites import Rewrites, preset
from effnets.utils.static_server import StaticServer
from effnets.utils.timing import interleave
from tests.support.headless_chromium import Browser

MODELS = ("mobilenetv2_100", "mixnet_s", "mixnet_m", "rexnet_100")
REWRITES = {
    "onnxruntime-web": preset("onnxruntime-web"),
    "onnxruntime": preset("onnxruntime"),
    "merged": Rewrites(depthwise="all"),
    "none": preset("none"),
}
ROUNDS = 25
PROGRAM = """(async () => {
  const ort = await import("./ort/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = new URL("ort/", location.href).href;
  ort.env.wasm.numThreads = %d;
  const sessions = [];
  for (const name of %s) {
    const bytes = new Uint8Array(await (await fetch(name)).arrayBuffer());
    sessions.push(await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] }));
  }
  const input = new Float32Array(3 * 224 * 224).map(() => Math.random() - 0.5);
  const times = sessions.map(() => []);
  for (let round = 0; round < %d; round++) {
    for (const [index, session] of sessions.entries()) {
      const begin = performance.now();
      const { logits } = await session.run({ images: new ort.Tensor("float32", input, [1, 3, 224, 224]) });
      await logits.getData();
      times[index].push(performance.now() - begin);
    }
  }
  return times;
})()"""


def main() -> None:
    columns = [f"{where}, {threads}" for threads in (1, 2) for where in (*REWRITES, "native")]
    print(f"| network | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}", flush=True)
    for name in sys.argv[1:] or MODELS:
        with tempfile.TemporaryDirectory() as work:
            network = effnets.create_model(name).eval()
            folder = export_web(network, Path(work) / "page").folder
            for label, rewrites in REWRITES.items():
                (folder / f"{label}.onnx").write_bytes(export_bytes(network, rewrites, (224, 224))[0])
            rows = zip(in_browser(folder), native(folder), strict=True)
            cells = [f"{value:.1f}" for browser, alone in rows for value in (*browser, *alone)]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def in_browser(folder: Path) -> list[list[float]]:
    """Return the medians of the rewrites on one thread and on two."""
    with StaticServer(folder, 0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        browser = Browser()
        try:
            found = []
            files = json.dumps([f"{label}.onnx" for label in REWRITES])
            for threads in (1, 2):
                browser.visit(f"{server.url}?engine=wasm&threads={threads}")
                time.sleep(5)  # the page itself opens the network meanwhile
                times = browser.evaluate(PROGRAM % (threads, files, ROUNDS))
                found.append([statistics.median(one[5:]) for one in times])
            return found
        finally:
            browser.close()
            server.shutdown()


def native(folder: Path) -> list[list[float]]:
    """Return the median of ONNX Runtime itself, with its preset, on one thread and on two."""
    images = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    found = []
    for threads in (1, 2):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            str(folder / "onnxruntime.onnx"), options
        )  # the page has the labels beside it
        timing = interleave({"native": partial(session.run, None, {"images": images})}, rounds=ROUNDS)["native"]
        found.append([timing.median])
    return found


if __name__ == "__main__":
    main()
