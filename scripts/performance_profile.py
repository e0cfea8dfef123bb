"""Where one network's time goes on ONNX Runtime, by its own profiler, for docs/performance.md."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

import effnets
from effnets.bench.report import BenchReport
from effnets.bench.roofline import bound, layers_of
from effnets.bench.variants import shake
from effnets.deploy.export.export import export_bytes
from effnets.deploy.optimize.rewrites import preset

__all__ = ["profile"]


def profile(name: str, report: BenchReport) -> str:
    """ONNX Runtime's own profile of one network on one image: the costliest layers, and sums over kinds."""
    network = effnets.create_model(name)
    shake(network)
    graph, description = export_bytes(network, preset("onnxruntime"))
    times = node_times(graph, report.threads, description.image_size)
    total = sum(times.values())
    bounds = {
        layer.name: layer.milliseconds(report.ceiling) for layer in layers_of(network.plan, network.spec.input_size)
    }
    kinds: dict[str, float] = {}
    for node, milliseconds in times.items():
        kinds[kind_of(node)] = kinds.get(kind_of(node), 0.0) + milliseconds
    lines = [
        f"{name} on ONNX Runtime, batch 1, {report.threads} thread(s), by its own profiler (median of each node, "
        f"{total:.2f} ms in all; the roofline allows "
        f"{bound(layers_of(network.plan, network.spec.input_size), report.ceiling):.2f} ms):",
        "",
        "| layers | ms | share |",
        "|---|---:|---:|",
    ]
    ranked = sorted(kinds.items(), key=lambda item: -item[1])
    lines += [f"| {kind} | {milliseconds:.2f} | {100 * milliseconds / total:.0f} % |" for kind, milliseconds in ranked]
    lines += ["", "The twelve costliest nodes, beside the roofline's bound of their layer:", ""]
    lines += ["| node | ms | bound ms |", "|---|---:|---:|"]
    for node, milliseconds in sorted(times.items(), key=lambda item: -item[1])[:12]:
        layer = node.partition("/")[0]
        known = next((bounds[name] for name in (layer, layer.rpartition(".")[0]) if name in bounds), None)
        lines.append(f"| {node} | {milliseconds:.3f} | {'' if known is None else f'{known:.3f}'} |")
    return "\n".join(lines)


def layer_names(graph: bytes) -> dict[str, str]:
    """ONNX Runtime's names of its own convolutions (``relu_3_nchwc``, after the value made) → ours."""
    import onnx

    nodes = onnx.load_from_string(graph).graph.node
    makers = {output: node for node in nodes for output in node.output}
    names = {}
    for value, node in makers.items():
        while node.op_type in ("Relu", "Clip", "Sigmoid") and node.input[0] in makers:
            node = makers[node.input[0]]
        names[f"{value}_nchwc"] = node.name
    return names


def kind_of(node: str) -> str:
    layer, _, operator = node.partition("/")
    if "reorder" in node.lower():
        return "reordering to and from blocked channels"
    if ".se." in layer or layer.endswith(".se"):
        return "squeeze-and-excite"
    if "Conv" in operator:
        for kind in ("depthwise", "expand", "project"):
            if kind in layer:
                return f"{kind} convolutions"
        return "stem and head convolutions"
    kind = "activations" if operator.startswith(("Sigmoid", "Mul", "QuickGelu", "Relu", "Clip")) else "others"
    return "classifier" if layer == "classifier" else kind


def node_times(graph: bytes, threads: int, size: tuple[int, int]) -> dict[str, float]:
    """Milliseconds of every node, medians over runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level, options.enable_profiling = threads, 3, True
    images = np.zeros((1, 3, *size), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        for _ in range(30):
            session.run(None, {session.get_inputs()[0].name: images})
        events = json.loads(Path(session.end_profiling()).read_text())
    layers = layer_names(graph)
    samples: dict[str, list[float]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            samples.setdefault(layers.get(name, name), []).append(event["dur"] / 1000)
    return {node: float(np.median(values[5:])) for node, values in samples.items()}
