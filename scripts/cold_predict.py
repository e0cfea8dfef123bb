"""How long a photograph takes from a cold start, as a whole process: by an exported model, and by timm on torch.

    uv run scripts/cold_predict.py PHOTO [--weights FILE] [--rounds 10]

Both answer with the same weights, in turns, so that what else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_TIMM = """
import sys, timm, torch
from PIL import Image
name, weights, photo = sys.argv[1:]
model = timm.create_model(name, pretrained=False, checkpoint_path=weights or None).eval()
config = timm.data.resolve_data_config({}, model=model)
transform = timm.data.create_transform(**config)
with torch.inference_mode():
    probabilities = model(transform(Image.open(photo).convert("RGB"))[None]).softmax(1)[0]
values, indices = probabilities.topk(5)
names = timm.data.ImageNetInfo()
for value, index in zip(values, indices):
    print(names.index_to_description(index.item()), value.item())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--model", default="mobilenetv2_100", help="a model that timm has too")
    parser.add_argument("--weights", help="a file that both load; without it the weights are random")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        exported = _export(arguments.model, arguments.weights, Path(folder) / "model.onnx")
        commands = {
            "effnets predict": [sys.executable, "-m", "effnets", "predict", arguments.photo, "--weights", exported],
            "timm": [sys.executable, "-c", _TIMM, arguments.model, arguments.weights or "", arguments.photo],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for command in commands.values():  # so that files are read from memory in every round
            subprocess.run(command, check=True, capture_output=True)
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                started = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"{name}: median {medians[name]:.2f} s, {min(values):.2f} to {max(values):.2f} s")
    print(f"ratio: {medians['effnets predict'] / medians['timm']:.3f}")


def _export(model: str, weights: str | None, path: Path) -> Path:
    import effnets

    effnets.export_onnx(effnets.create_model(model, weights=weights), path)
    return path


if __name__ == "__main__":
    main()
