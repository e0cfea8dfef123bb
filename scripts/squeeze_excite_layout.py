"""Compare two forms of squeeze-and-excite on ONNX Runtime: a product that broadcasts the gate, and one of equal shapes.

    uv run scripts/squeeze_excite_layout.py [MODEL] [--batches 1,16] [--rounds 5]

In the second the gate is enlarged to the map by Resize (nearest), which ONNX Runtime computes in its blocked layout, as
it does products of equal shapes. The file is for one image size. Prints the nodes that ONNX Runtime makes of each, and
medians of processor time in one thread, in turns.
"""

from __future__ import annotations

import argparse
import collections
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import effnets
from effnets.bench.variants import shake
from effnets.deploy.export.export import export_bytes
from effnets.deploy.optimize.rewrites import preset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="mixnet_l")
    parser.add_argument("--batches", default="1,16")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    network = effnets.create_model(arguments.model)
    shake(network)
    data, metadata = export_bytes(network, preset("onnxruntime"))
    sessions = {}
    for form, model in (("broadcast", data), ("resized", enlarged_gates(data))):
        sessions[form], nodes = load(model)
        shown = ", ".join(
            f"{count} {kind}" for kind, count in nodes.items() if kind.startswith(("Reorder", "Upsample"))
        )
        print(f"{form}: {shown}")
    for batch in map(int, arguments.batches.split(",")):
        images = np.random.default_rng(0).standard_normal((batch, 3, *metadata.image_size), np.float32)
        answers = [session.run(None, {"images": images})[0] for session in sessions.values()]
        seconds: dict[str, list[float]] = {form: [] for form in sessions}
        for _ in range(arguments.rounds):
            for form, session in sessions.items():
                start = time.process_time()
                session.run(None, {"images": images})
                seconds[form].append(time.process_time() - start)
        times = ", ".join(f"{form} {1e3 * statistics.median(values) / batch:.2f}" for form, values in seconds.items())
        print(f"batch {batch}: ms an image {times}; largest difference {np.abs(answers[0] - answers[1]).max():g}")


def enlarged_gates(data: bytes) -> bytes:
    """Return the model with every gate enlarged to its map before the product."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(data))
    graph = model.graph
    values = [*graph.value_info, *graph.input, *graph.output]
    shapes = {value.name: [side.dim_value for side in value.type.tensor_type.shape.dim] for value in values}
    nodes = []
    for node in graph.node:
        x, gate, *_ = [*node.input, ""]
        if node.op_type == "Mul" and shapes[gate][2:] == [1, 1] != shapes[x][2:]:
            scales, wide = f"{gate}_scales", f"{gate}_wide"
            graph.initializer.append(numpy_helper.from_array(np.array([1, 1, *shapes[x][2:]], np.float32), scales))
            graph.value_info.append(helper.make_tensor_value_info(wide, TensorProto.FLOAT, ["N", *shapes[x][1:]]))
            modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            nodes.append(helper.make_node("Resize", [gate, "", scales], [wide], f"{node.name}_Resize", **modes))
            node.input[1] = wide
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def load(data: bytes) -> tuple[onnxruntime.InferenceSession, collections.Counter[str]]:
    """Return a session of one thread, and how many nodes of each kind ONNX Runtime executes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
        optimized = onnx.load(options.optimized_model_filepath)
    return session, collections.Counter(node.op_type for node in optimized.graph.node)


if __name__ == "__main__":
    main()
