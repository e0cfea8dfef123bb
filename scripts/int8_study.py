"""Measure int8 against its accuracy gate, and write the pages docs/int8.md and docs/int8-cifar10.md.

    uv run scripts/int8_study.py GROCERY --cifar10 CIFAR10 --runs RUNS [--cache FOLDER] [--rows mobilenetv2_100,…]
        [--held-out-images 1000] [--write PAGE]

GROCERY holds ``train`` and ``test`` of grocery20, CIFAR10 the parquet files, RUNS what scripts/cifar10_study.py keeps.
Exports and results are kept in the cache, so that an interrupted study continues. With --write, all speeds are measured
again, one after another.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from int8_page import make_page, table_row
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

import effnets
from effnets.data.open import DataConfig, open_data
from effnets.deploy.export.verify_onnx import session_of
from effnets.deploy.quantize.qdq_graph import Values
from effnets.deploy.quantize.quantize import time_pair
from effnets.engines.base import load_onnx
from effnets.engines.metadata import ModelMetadata
from effnets.inference.image import image_to_array, load_image
from effnets.nn.classifier import Classifier

WEIGHTS = Path(__file__).resolve().parent.parent.parent / "shared" / "weights"
PUBLISHED = {
    "mobilenetv1_100": "tf_mobilenetv1_100_224",
    "mobilenetv1_075": "tf_mobilenetv1_075_192",
    "mobilenetv1_050": "tf_mobilenetv1_050_160",
    "mobilenetv1_025": "tf_mobilenetv1_025_128",
    "mobilenetv2_100": "tf_mobilenetv2_100_224",
}
# Names of the study's runs: 4 epochs, seed 0.
TRAINED = {"mixnet_s": "mixnet_s-4-0", "rexnet": "rexnet-4-0"}
# Images for calibration and the gate: some from each row group, since writing all of them would take minutes.
CIFAR_IMAGES = 1500


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One network of the table.

    Attributes:
        name: of the row, and of its files in the cache.
        export: writes the float export to a path.
        photos: for calibration and the gate.
        test: labeled images for the accuracy; None without any.
    """

    name: str
    export: Callable[[Path], object]
    photos: Path
    test: Path | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grocery", type=Path)
    parser.add_argument("--cifar10", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "int8-study")
    parser.add_argument("--rows", help="names, with commas; all if left out")
    parser.add_argument("--held-out-images", type=int, default=1000)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    cache = arguments.cache
    cache.mkdir(parents=True, exist_ok=True)
    rows = make_rows(arguments.grocery, arguments.cifar10, arguments.runs, cache)
    chosen = arguments.rows.split(",") if arguments.rows else list(rows)
    for name in chosen:
        result = cache / f"{name}.json"
        if not result.exists():
            result.write_text(json.dumps(measure(rows[name], cache, arguments.held_out_images), indent=1))
        print(table_row(name, json.loads(result.read_text())), flush=True)
    if arguments.write:
        results = {name: json.loads((cache / f"{name}.json").read_text()) for name in chosen}
        for name, found in results.items():
            if "refused" not in found:
                retime(name, found, cache)
        part = f" --rows {arguments.rows}" if arguments.rows else ""
        command = (
            "uv run scripts/int8_study.py GROCERY --cifar10 CIFAR10 --runs RUNS "
            f"--held-out-images {arguments.held_out_images}{part} --write PAGE"
        )
        arguments.write.write_text(make_page(results, command))


def make_rows(grocery: Path, cifar10: Path, runs: Path, cache: Path) -> dict[str, Row]:
    """Return all rows of the table by name, in order."""

    def published(name: str) -> Row:
        def export(path: Path) -> None:
            weights = WEIGHTS / f"{PUBLISHED[name]}.timm.safetensors"
            effnets.export_onnx(effnets.create_model(name, weights=weights), path)

        return Row(name=name, export=export, photos=grocery, test=None)

    def headed(name: str) -> Row:
        def export(path: Path) -> None:
            with_probe(float_export(published(name), cache), grocery / "train", path)

        return Row(name=f"{name}+head", export=export, photos=grocery / "train", test=grocery)

    def trained(name: str, model: Callable[[], Classifier]) -> Row:
        photos = take_images(cifar10, cache / "cifar10")
        return Row(
            name=f"{name}+cifar10", export=lambda p: effnets.export_onnx(model(), p), photos=photos, test=cifar10
        )

    rows = [published(name) for name in PUBLISHED] + [headed(name) for name in PUBLISHED]
    rows.append(trained("mixnet_xs_32px", lambda: effnets.create_model("mixnet_xs_32px", pretrained=True)))
    for name, run in TRAINED.items():
        rows.append(trained(name, lambda run=run: effnets.create_model(runs / run, pretrained=True)))
    return {row.name: row for row in rows}


def take_images(cifar10: Path, folder: Path) -> Path:
    """Write evenly spaced training images as files, by class."""
    if not folder.exists():
        source = open_data(DataConfig(cifar10, val_share=0, check="none")).train
        for index in range(0, len(source), len(source) // CIFAR_IMAGES):
            place = folder / source.class_names[source.labels[index]]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{index}.png").write_bytes(source.read(index))
    return folder


def measure(row: Row, cache: Path, held_out_images: int) -> dict[str, Any]:
    """Quantize a row's network, and measure its accuracy on the test images."""
    source, target = float_export(row, cache), cache / f"{row.name}.int8.onnx"
    try:
        report = effnets.quantize(
            source,
            target,
            row.photos,
            held_out_images=held_out_images,
            progress=lambda text: print(text, file=sys.stderr),
        )
    except effnets.QuantizationError as error:
        return {"refused": str(error), "test": {}, **error.report.to_dict()}
    test = {}
    if row.test:
        for kind, path in (("float", source), ("int8", target)):
            test[kind] = effnets.evaluate(effnets.load_engine(path), row.test).top1
    return {"test": test, **report.to_dict()}


def float_export(row: Row, cache: Path) -> Path:
    """Return the row's network in float, exported once."""
    path = cache / f"{row.name}.onnx"
    if not path.exists():
        row.export(path)
    return path


def retime(name: str, result: dict[str, Any], cache: Path) -> None:
    """Measure the speeds of a row again."""
    before, after = cache / f"{name}.onnx", cache / f"{name}.int8.onnx"
    metadata = ModelMetadata.from_file(before)
    times = time_pair(before.read_bytes(), after.read_bytes(), metadata, list(result["agreement"]), 6.0)
    result["milliseconds"] = times
    result["speed_ratios"] = {engine: pair["float32"] / pair["int8"] for engine, pair in times.items()}


def load(folder: Path, source: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the photographs of a folder by class as the exported network's input, and their classes."""
    metadata = ModelMetadata.from_file(source)
    classes = sorted(path.name for path in folder.iterdir())
    paths = [(path, index) for index, name in enumerate(classes) for path in sorted((folder / name).iterdir())]
    size = metadata.image_size
    images = [image_to_array(load_image(path), metadata.preprocess, size) for path, _ in paths]
    return np.stack(images), np.array([index for _, index in paths])


def with_probe(source: Path, folder: Path, target: Path) -> None:
    """Write the float export with a linear classifier of the folder's classes, trained on its frozen features."""
    model = onnx.load(source)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    session = session_of(model, [gemm.input[0]])
    images, labels = load(folder, source)
    batches = [images[i : i + 8] for i in range(0, len(images), 8)]
    features = np.concatenate([session.run([gemm.input[0]], {"images": batch})[0] for batch in batches])
    classes = sorted(path.name for path in folder.iterdir())
    weight, bias = probe(torch.from_numpy(features), torch.from_numpy(labels), len(classes))
    values = Values(model)
    for name, array in ((gemm.input[1], weight), (gemm.input[2], bias)):
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(array.astype(values.get(name).dtype), name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = len(classes)
    del model.graph.value_info[:]
    metadata = ModelMetadata.from_file(source)
    metadata = dataclasses.replace(metadata, labels=tuple(classes), accuracy={})
    onnx.helper.set_model_props(model, metadata.to_properties())
    data = model.SerializeToString()
    load_onnx(data, metadata)(images[:1])
    target.write_bytes(data)


def probe(
    features: torch.Tensor, labels: torch.Tensor, classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weight and bias of a logistic regression on standardized features, with the standardization folded in."""
    mean, std = features.mean(0), features.std(0) + 1e-3
    inputs = (features - mean) / std
    layer = nn.Linear(inputs.shape[1], classes)
    nn.init.zeros_(layer.weight)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(layer(inputs), labels) + 1e-2 * layer.weight.square().sum() / 2
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        weight = layer.weight / std
        return weight.numpy(), (layer.bias - weight @ mean).numpy()


if __name__ == "__main__":
    main()
