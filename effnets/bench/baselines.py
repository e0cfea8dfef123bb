"""Baselines of a benchmark: the same network in timm and torchvision, with the same weights."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effnets.engines.torch import engine_errors
from effnets.errors import ArgumentError, EngineError, WeightsError
from effnets.nn.classifier import Classifier
from effnets.utils.quiet import quiet_exporters
from effnets.weights.dialects import get_dialect

BASELINES = ("timm", "torchvision")
_TORCHVISION_WIDTHS = {"mobilenetv2_050": 0.5, "mobilenetv2_100": 1.0, "mobilenetv2_140": 1.4}


def check_baselines(peers: tuple[str, ...]) -> None:
    """Refuse what cannot be compared with, before anything is measured.

    Raises:
        ArgumentError: no such peer. EngineError: it is not installed.
    """
    for peer in peers:
        if peer not in BASELINES:
            raise ArgumentError(f"against is {peer!r}; choose from {', '.join(BASELINES)}")
        if not find_spec(peer):
            raise EngineError(f"{peer} is not installed, so nothing compares with it; install it, or leave it out")


def load_baseline(peer: str, network: Classifier) -> nn.Module | None:
    """The peer's own network in evaluation mode, with the weights of ours; None where it has no such network."""
    module = _build(peer, network)
    if module is None:
        return None
    try:
        tensors = get_dialect(peer).from_native(dict(network.state_dict()), network.plan)
        module.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()})
    # The peer's network of this name has other layers, as a YAML file may, or rounds its widths otherwise.
    except (WeightsError, RuntimeError):
        return None
    return module.eval().requires_grad_(False)


def _build(peer: str, network: Classifier) -> nn.Module | None:
    name, module = network.spec.name, None
    if peer == "timm":
        import timm

        if timm.is_model(name):
            # The flag chooses padding that can be exported; it changes nothing else.
            module = timm.create_model(name, num_classes=network.num_classes, exportable=True)
    elif name in _TORCHVISION_WIDTHS:
        from torchvision.models import mobilenet_v2

        module = mobilenet_v2(num_classes=network.num_classes, width_mult=_TORCHVISION_WIDTHS[name])
    return module


def export_baseline(peer: str, module: nn.Module, size: tuple[int, int]) -> bytes:
    """An ONNX model for any number of images, by timm's own function, or torch's exporter as torchvision advises.

    Raises:
        EngineError: the peer's network cannot be exported so.
    """
    example = torch.zeros(2, 3, *size)
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"]}
    with quiet_exporters(), tempfile.TemporaryDirectory() as folder, engine_errors(f"{peer}'s export"):
        path = Path(folder) / "model.onnx"
        if peer == "timm":
            from timm.utils.onnx import onnx_export

            onnx_export(module, str(path), example_input=example, use_dynamo=True, check=False, **names)
        else:
            options = {"dynamo": True, "external_data": False, "verbose": False, **names}
            torch.onnx.export(module, (example,), path, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), **options)
        return path.read_bytes()
