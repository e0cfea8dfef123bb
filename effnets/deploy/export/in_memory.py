"""A rewritten network as an ONNX model in memory, to be measured: not verified, and nothing is written."""

from __future__ import annotations

import copy
import hashlib

from effnets.deploy.export.graph import export_graph
from effnets.deploy.export.metadata import describe
from effnets.deploy.optimize.optimize import optimize
from effnets.deploy.optimize.rewrites import Rewrites
from effnets.engines.metadata import Description
from effnets.nn.classifier import Classifier
from effnets.nn.utils import hash_of_values
from effnets.utils.arguments import check_size


def export_bytes(
    network: Classifier, rewrites: Rewrites | None, image_size: int | tuple[int, int] | None = None
) -> tuple[bytes, Description]:
    """The model that `effnets.export_onnx` would write with `rewrites` (None: as it is), and its description.

    It takes float32 ``[N, channels, H, W]``, normalised, of any N and of `image_size`, None for the network's own.

    Raises:
        ExportError: torch cannot export it.
    """
    size = check_size(network.spec.input_size if image_size is None else image_size, "image_size")
    description = describe(network, size=size, input_kind="normalised", rewrites=rewrites)
    # In float64, as export_onnx rewrites, so that folding rounds once.
    original = copy.deepcopy(network).cpu().double().eval().requires_grad_(False)
    module = optimize(original, rewrites) if rewrites else original
    return export_graph(module.float(), description).model.SerializeToString(), description


def fingerprint(network: Classifier) -> str:
    """A hash of the architecture and of every value."""
    return hashlib.sha256(f"{network.spec!r} {hash_of_values(network)}".encode()).hexdigest()
