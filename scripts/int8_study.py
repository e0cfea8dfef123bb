"""Measure int8 against its accuracy gate, and write docs/int8.md.

uv run scripts/int8_study.py FOLDER [--exports CACHE] [--results CACHE] [--rows mobilenetv2_100,mobilenetv2_100+head]
    [--held-out-images 1000] [--write docs/int8.md]

FOLDER holds ``train`` and ``test`` of grocery20. Rows are models of ../shared/weights with their 1000 classes; the same
``+head``, a linear probe of 20 classes on frozen float features; and networks with random weights, for the mechanics.
Float exports and results are kept in the caches, so that a study goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

import effnets
from effnets.deploy.onnx_values import Values
from effnets.deploy.quantize import time_pair
from effnets.deploy.ranges import session_of
from effnets.runtime.description import Description
from effnets.runtime.engine import load_onnx
from effnets.runtime.image import load_rgb
from effnets.runtime.onnx_file import read_properties
from effnets.runtime.pixels import image_to_array

ROOT = Path(__file__).resolve().parent.parent
REAL = {
    "mobilenetv1_100": "tf_mobilenetv1_100_224",
    "mobilenetv1_075": "tf_mobilenetv1_075_192",
    "mobilenetv1_050": "tf_mobilenetv1_050_160",
    "mobilenetv1_025": "tf_mobilenetv1_025_128",
    "mobilenetv2_100": "tf_mobilenetv2_100_224",
}
RANDOM = ("mixnet_s", "rexnet_100")
ROWS = (*REAL, *(f"{name}+head" for name in REAL), *RANDOM, *(f"{name}+head" for name in RANDOM))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--exports", type=Path, default=Path(tempfile.gettempdir()) / "int8-exports")
    parser.add_argument("--results", type=Path, default=Path(tempfile.gettempdir()) / "int8-results")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--held-out-images", type=int, default=1000)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    for folder in (arguments.exports, arguments.results):
        folder.mkdir(parents=True, exist_ok=True)
    for row in arguments.rows.split(","):
        result = arguments.results / f"{row}.json"
        if not result.exists():
            measured = measure(row, arguments.folder, arguments.exports, arguments.held_out_images)
            result.write_text(json.dumps(measured, indent=1))
        print(table_row(row, json.loads(result.read_text())), flush=True)
    if arguments.write:
        found = {row: arguments.results / f"{row}.json" for row in ROWS}
        results = {row: json.loads(file.read_text()) for row, file in found.items() if file.exists()}
        for row, result in results.items():
            if "refused" not in result:
                retime(row, result, arguments.exports)
        arguments.write.write_text(page(results))


def retime(row: str, result: dict[str, Any], exports: Path) -> None:
    """All speeds anew, one after another, at one time."""
    before, after = exports / f"{row}.onnx", exports / f"{row}.int8.onnx"
    description = Description.from_properties(read_properties(before), str(before))
    times = time_pair(before.read_bytes(), after.read_bytes(), description, list(result["agreement"]), 6.0)
    result["milliseconds"] = times
    result["speed_ratios"] = {engine: pair["float32"] / pair["int8"] for engine, pair in times.items()}


def measure(row: str, folder: Path, exports: Path, held_out_images: int) -> dict[str, Any]:
    name, _, head = row.partition("+")
    source = float_export(name, exports)
    photos = folder
    if head:
        source, photos = with_probe(source, folder, exports / f"{row}.onnx"), folder / "train"
    target = exports / f"{row}.int8.onnx"
    try:
        report = effnets.quantize(
            source, target, photos, held_out_images=held_out_images, progress=lambda text: print(text, file=sys.stderr)
        )
    except effnets.QuantizationError as error:
        return {"refused": str(error), **error.report.to_dict()}
    accuracies = {}
    if head:
        images, labels = load(folder / "test", source)
        for kind, path in (("float", source), ("int8", target)):
            engine = effnets.load_engine(path)
            found = np.concatenate([engine(images[i : i + 8]) for i in range(0, len(images), 8)]).argmax(1)
            accuracies[kind] = 100 * float((found == labels).mean())
    return {"test": accuracies, "test_images": len(labels) if head else 0, **report.to_dict()}


def float_export(name: str, exports: Path) -> Path:
    path = exports / f"{name}.onnx"
    if not path.exists():
        if name in REAL:
            weights = ROOT.parent / "shared" / "weights" / f"{REAL[name]}.timm.safetensors"
            model = effnets.create_model(name, weights=weights)
        else:
            sys.path.insert(0, str(ROOT / "tests"))
            from support import shake

            torch.manual_seed(0)
            model = shake(effnets.create_model(name))
        effnets.export_onnx(model, path)
    return path


def load(folder: Path, source: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The photographs of a folder by class as the exported network's input, and their classes."""
    description = Description.from_properties(read_properties(source), str(source))
    classes = sorted(path.name for path in folder.iterdir())
    paths = [(path, index) for index, name in enumerate(classes) for path in sorted((folder / name).iterdir())]
    size = description.image_size
    images = [image_to_array(load_rgb(path), description.preprocess, size) for path, _ in paths]
    return np.stack(images), np.array([index for _, index in paths])


def with_probe(source: Path, folder: Path, target: Path) -> Path:
    """The float export with a linear classifier of the folder's classes, trained on its frozen features."""
    model = onnx.load(source)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    session = session_of(model, [gemm.input[0]])
    images, labels = load(folder / "train", source)
    batches = [images[i : i + 8] for i in range(0, len(images), 8)]
    features = np.concatenate([session.run([gemm.input[0]], {"images": batch})[0] for batch in batches])
    classes = sorted(path.name for path in (folder / "train").iterdir())
    weight, bias = probe(torch.from_numpy(features), torch.from_numpy(labels), len(classes))
    values = Values(model)
    for name, array in ((gemm.input[1], weight), (gemm.input[2], bias)):
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(array.astype(values.get(name).dtype), name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = len(classes)
    del model.graph.value_info[:]
    description = Description.from_properties(read_properties(source), str(source))
    stated = dataclasses.replace(description, labels=tuple(classes), accuracy={})
    del model.metadata_props[:]
    for key, value in stated.to_properties().items():
        model.metadata_props.add(key=key, value=value)
    data = model.SerializeToString()
    load_onnx(data, stated)(images[:1])
    target.write_bytes(data)
    return target


def probe(
    features: torch.Tensor, labels: torch.Tensor, classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight and bias of a logistic regression on standardised features, which are folded into it."""
    mean, std = features.mean(0), features.std(0) + 1e-3
    inputs = (features - mean) / std
    layer = nn.Linear(inputs.shape[1], classes)
    nn.init.zeros_(layer.weight)
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(layer(inputs), labels) + 1e-2 * layer.weight.square().sum() / 2
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        weight = layer.weight / std
        return weight.numpy(), (layer.bias - weight @ mean).numpy()


def table_row(row: str, result: dict[str, Any]) -> str:
    worst = {
        key: min(figures[key] for figures in result["agreement"].values())
        for key in ("agreement", "overall", "in_top5")
    }
    first = next(iter(result["agreement"].values()))
    accuracy = "–"
    if result.get("test"):
        before, after = result["test"]["float"], result["test"]["int8"]
        accuracy = f"{before:.1f} → {after:.1f} % ({after - before:+.2f})"
    speed = " / ".join(f"{ratio:.2f}" for ratio in result["speed_ratios"].values()) or "–"
    return (
        f"| {row} | {'refused' if 'refused' in result else 'written'} | {first['clear']} of {first['images']} "
        f"| {worst['agreement']:.2%} | {worst['in_top5']:.2%} | {worst['overall']:.1%} | {accuracy} "
        f"| {len(result['left'])} of {result['layers']} | {result['size_ratio']:.2f} | {speed} |"
    )


def page(results: dict[str, dict[str, Any]]) -> str:
    lines = [
        "# int8",
        "",
        "Generated by `uv run scripts/int8_study.py FOLDER --write docs/int8.md` with the photographs of grocery20.",
        f"Python {platform.python_version()} on {platform.machine()}; speeds are medians of interleaved rounds of one "
        "image on one thread, while the machine did other work too.",
        "",
        "The gate, on photographs held out from calibration: top-1 as in float on at least 99 % of the clear ones "
        "(float's first class leads by 0.3 of probability), float's top-1 in int8's top 5 on 99 % of all, at most 1.0 "
        "point of accuracy lost where labels are known. Figures are those of the worse engine of ONNX Runtime and "
        "OpenVINO. `+head` is a linear probe of 20 classes; its accuracy is on grocery20's `test`, which neither the "
        "probe nor the calibration saw. mixnet_s and rexnet_100 have random weights, and show that the gate works, not "
        "what these networks can do. A row may come from the cache of an earlier run with another number of "
        "photographs (`--results`); how many judged stands in it.",
        "",
        "How it is done: ONNX Runtime's quantiser writes QuantizeLinear and DequantizeLinear; weights have a scale for "
        "each channel. Ranges come from whichever of several calibrations gives the least error of the logits. "
        "Equalisation keeps ReLU6: a channel before it is scaled only as far as it provably never reaches the clip. "
        "Biases take back what rounding adds on average. If the gate stays shut, layers are left in float, those first "
        "whose rounding costs most. Without VNNI, CPUs may saturate sums of 8-bit products, so the gate speaks for "
        "the machine that asked.",
        "",
        "| model | file | clear images | agreement, clear | float's top-1 in top 5 | agreement, all | accuracy on test "
        "| layers in float | times smaller | times as fast: ONNX Runtime / OpenVINO |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(table_row(row, result) for row, result in results.items()),
        "",
        "The error of the logits of calibration images (its root mean square over the spread of float's logits), with "
        "all layers in int8, for each setting tried; the least is taken:",
        "",
    ]
    for row, result in results.items():
        trials = ", ".join(f"{name} {error:.3f}" for name, error in result["trials"].items())
        lines.append(f"- {row}: {trials}. Taken: {result['method']}")
        if result["left"]:
            falls = (f"{layer} ({result['sensitivity'][layer]:+.1%})" for layer in result["left"])
            lines.append(f"  Left in float, with the share of the error that each takes away: {', '.join(falls)}.")
        if "refused" in result:
            lines.append(f"  {result['refused']}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
