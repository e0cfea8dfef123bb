"""Quantize with NNCF's own algorithms for OpenVINO beside ours, on the same photographs; print a Markdown table.

    uv run --with nncf scripts/nncf_peer.py GROCERY --cache FOLDER [--rows mobilenetv1_100,mobilenetv2_100]

FOLDER is that of `scripts/int8_formats.py`, which must have run with ``--accuracy``: its files are ours. The networks
have a linear probe of grocery20's 20 classes; agreement and accuracy are of its 946 test photographs, speed is of one
thread, in turns. Clear images are those whose first class in float leads by 0.3 of probability.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import nncf
import numpy as np
import openvino
from int8_formats import published, with_probe
from numpy.typing import NDArray

import effnets
from effnets.data.open import open_evaluation_data
from effnets.data.sampling import some_images
from effnets.utils.timing import interleave

SETTINGS = {
    "NNCF, default": {},
    "NNCF, mixed, exact bias correction": {"preset": nncf.QuantizationPreset.MIXED, "fast_bias_correction": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grocery", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--rows", default="mobilenetv1_100,mobilenetv2_100")
    parser.add_argument("--calibration-images", type=int, default=300)
    arguments = parser.parse_args()
    print("| network | int8 by | agreement, clear | agreement | accuracy | ms |\n|---|---|---:|---:|---:|---:|")
    for name in arguments.rows.split(","):
        compare(name, arguments.grocery, arguments.cache, arguments.calibration_images)


def compare(name: str, grocery: Path, cache: Path, count: int) -> None:
    network = with_probe(published(name), grocery / "train", cache / f"{name}.features.npz")
    exported = cache / f"{name}.head.float.xml"
    if not exported.exists():
        effnets.export(network, exported)
    core = openvino.Core()
    transform = effnets.create_transform(network)
    test, train = (open_evaluation_data(grocery / split).source for split in ("test", "train"))
    images = np.stack([transform(test.image(index)).numpy() for index in range(len(test))])
    calibration = [transform(train.image(index)).numpy()[None] for index in some_images(train, 0, count)]
    models = {"float": core.read_model(exported), "effnets": core.read_model(cache / f"{name}.head.xml")}
    for label, settings in SETTINGS.items():
        models[label] = nncf.quantize(
            core.read_model(exported), nncf.Dataset(calibration), subset_size=count, **settings
        )
    compiled = {
        label: core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1}) for label, model in models.items()
    }
    logits = {label: np.concatenate([one([image[None]])[0] for image in images]) for label, one in compiled.items()}
    timings = interleave({label: partial(one, [images[:1]]) for label, one in compiled.items()}, rounds=60)
    clear = leads(logits["float"]) >= 0.3
    for label in models:
        same = logits[label].argmax(1) == logits["float"].argmax(1)
        right = 100 * np.mean(logits[label].argmax(1) == test.labels)
        print(
            f"| {name} | {label} | {100 * same[clear].mean():.2f} % of {clear.sum()} | {100 * same.mean():.2f} % | "
            f"{right:.2f} % | {timings['float'].median:.1f} → {timings[label].median:.1f} |",
            flush=True,
        )


def leads(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return by how much of probability each first class leads, [N]."""
    odds = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    ranked = np.sort(odds / odds.sum(1, keepdims=True), axis=1)
    return ranked[:, -1] - ranked[:, -2]


if __name__ == "__main__":
    main()
