"""Baselines of a benchmark: the same network in timm and torchvision, with the same weights."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from effnets.deploy.export.graph import quiet_exporters
from effnets.engines.torch import engine_errors
from effnets.errors import ArgumentError, EngineError, WeightsError
from effnets.nn.classifier import Classifier
from effnets.weights.dialects import get_dialect

BASELINES = ("timm", "torchvision")


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
    module = _timm(network) if peer == "timm" else _torchvision(network)
    if module is None:
        return None
    try:
        tensors = get_dialect(peer).from_native(dict(network.state_dict()), network.plan)
    except WeightsError:
        return None
    try:
        module.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()})
    except RuntimeError:  # the peer's network of this name has other layers, as a YAML file may
        return None
    return module.eval().requires_grad_(False)


def export_baseline(peer: str, module: nn.Module, size: tuple[int, int]) -> bytes:
    """An ONNX model for any number of images, by timm's own function, or torch's exporter as torchvision advises.

    Raises:
        EngineError: the peer's network cannot be exported so.
    """
    example = torch.zeros(2, 3, *size)
    inputs, outputs = ["images"], ["logits"]
    with quiet_exporters(), tempfile.TemporaryDirectory() as folder, engine_errors(f"{peer}'s export"):
        path = Path(folder) / "model.onnx"
        if peer == "timm":
            from timm.utils.onnx import onnx_export

            onnx_export(
                module,
                str(path),
                example_input=example,
                use_dynamo=True,
                check=False,
                input_names=inputs,
                output_names=outputs,
            )
        else:
            batch = {0: torch.export.Dim.DYNAMIC}
            torch.onnx.export(
                module,
                (example,),
                path,
                dynamo=True,
                dynamic_shapes=(batch,),
                external_data=False,
                verbose=False,
                input_names=inputs,
                output_names=outputs,
            )
        return path.read_bytes()


def _timm(network: Classifier) -> nn.Module | None:
    import timm

    if not timm.is_model(network.spec.name):
        return None
    # The flag chooses padding that can be exported; it changes nothing else.
    module: nn.Module = timm.create_model(network.spec.name, num_classes=network.num_classes, exportable=True)
    return module


def _torchvision(network: Classifier) -> nn.Module | None:
    from torchvision.models import mobilenet_v2

    width = {"mobilenetv2_100": 1.0, "mobilenetv2_140": 1.4, "mobilenetv2_050": 0.5}.get(network.spec.name)
    if width is None:
        return None
    module = mobilenet_v2(num_classes=network.num_classes, width_mult=width)
    return _if_alike(module, network)


def _if_alike(module: nn.Module, network: Classifier) -> nn.Module | None:
    """The module, if it has as many values as ours: torchvision rounds some widths otherwise."""

    def count(tensors: dict[str, Tensor]) -> int:
        return sum(tensor.numel() for name, tensor in tensors.items() if "num_batches" not in name)

    return module if count(module.state_dict()) == count(dict(network.state_dict())) else None
