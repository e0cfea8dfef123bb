"""What fast decoding changes: answers and probabilities beside exact decoding.

    uv run scripts/decode_study.py ../shared [--photos 200] [--spare 1,2]

Groceries of 348 × 348 pixels at inputs so small that JPEGs are decoded at a half of their size, and the same photos
enlarged to 12 megapixels, with noise, which are decoded at a quarter. `--spare` is how many times the pixels that the
resize needs, across and down, are left to it; the library leaves 2.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from benchmark_throughput import WEIGHTS, photo_sets

import effnets
from effnets.inference.pipeline import Pipeline
from effnets.inference.predictor import create_predictor

CLEAR = 0.05  # of probability between the two likeliest classes


def probabilities(engine: effnets.Engine, photos: list[Path], size: int, spare: float | None) -> np.ndarray:
    """Return probabilities [N, C]; exactly decoded with `spare` None."""
    predictor = create_predictor(engine, size, decode="fast")
    predictor.min_side = None if spare is None else predictor.min_side / 2 * spare
    rows = [output.values for output in Pipeline(predictor).run(photos, predictor.prepare)]
    logits = np.stack(rows).astype(np.float64)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--photos", type=int, default=200, help="of 12 megapixels")
    parser.add_argument("--spare", default="1,2")
    arguments = parser.parse_args()
    print(
        "| photographs | input | spare | first class differs, margin below 0.05 | above | largest change |"
        "\n| --- | ---: | ---: | ---: | ---: | ---: |"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = effnets.create_model("mobilenetv2_100", weights=arguments.shared / "weights" / WEIGHTS)
        effnets.export_onnx(network, folder / "model.onnx", dynamic_size=True)
        engine = effnets.load_engine(folder / "model.onnx")
        sets = photo_sets(arguments.shared, folder, arguments.photos)
        for kind, size in (("groceries", 64), ("groceries", 72), ("large", 224)):
            exact = probabilities(engine, sets[kind], size, None)
            best = np.sort(exact, 1)[:, -2:]
            clear = best[:, 1] - best[:, 0] >= CLEAR
            for spare in map(float, arguments.spare.split(",")):
                fast = probabilities(engine, sets[kind], size, spare)
                differs = fast.argmax(1) != exact.argmax(1)
                cells = (
                    f"{len(exact)} {kind}",
                    size,
                    f"{spare:g}",
                    f"{(differs & ~clear).sum()} of {(~clear).sum()}",
                    f"{(differs & clear).sum()} of {clear.sum()}",
                    f"{np.abs(fast - exact).max():.3f}",
                )
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
