"""Variants of a network that a benchmark times: ours and the baselines', on each engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from effnets.engines.base import ENGINES, FILE_OF, Precision, load_bytes
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, EngineError, ExportError

if TYPE_CHECKING:
    from torch import nn

    from effnets.nn.classifier import Classifier


BENCH_ENGINES = ("torch", "torch-compile", "onnxruntime", "openvino", "litert", "executorch")

# What our own variants are called: the network as it is built, and rewritten for its engine.
PLAIN, REWRITTEN = "effnets", "effnets rewritten"
OURS = (PLAIN, REWRITTEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One network in one engine.

    Attributes:
        path: whose it is: a peer's name, ``effnets``, or ``effnets rewritten``.
        model: the content of a file, or a module for torch's engines.
    """

    engine: str
    path: str
    model: bytes | nn.Module
    description: ModelMetadata
    precision: Precision
    threads: int

    @property
    def name(self) -> str:
        """``effnets rewritten on openvino``."""
        return f"{self.path} on {self.engine}"

    def load(self) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """Make it ready: float32 images ``[N, channels, H, W]`` to logits ``[N, C]``."""
        if isinstance(self.model, bytes):
            return load_bytes(self.model, self.description, self.engine, threads=self.threads, precision=self.precision)
        return _load_module(self.model, self.engine, self.precision, self.threads)


@dataclass(slots=True)
class Unmeasured:
    """Why something that was asked for is not in a report.

    Attributes:
        absent: a peer has no such network. failed: a variant could not be made, loaded or executed.
    """

    absent: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def check_engines(engines: Sequence[str], precision: Precision) -> None:
    """Refuse what cannot be measured, before anything is.

    Raises:
        ArgumentError: no such engine, or one without `precision`. EngineError: it is not installed.
    """
    for engine in engines:
        if engine not in BENCH_ENGINES:
            raise ArgumentError(f"engines has {engine!r}; choose from {', '.join(BENCH_ENGINES)}")
        if not find_spec(ENGINES[engine]):
            raise EngineError(f"{engine} is not installed; install it with: pip install 'effnets[export]'")
        if engine in ("onnxruntime", "litert", "executorch") and precision != "float32":
            raise ArgumentError(f"{engine} has no {precision} on CPUs; leave it out of the engines, or use float32")


def shake(network: Classifier) -> None:
    """Give a fresh network values that show errors: as built, its logits are about 0.01 whatever the image."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            torch.nn.init.uniform_(module.weight, 0.9, 1.1, generator=generator)
            torch.nn.init.normal_(module.bias, 0.0, 0.5, generator=generator)
            module.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(torch.randn(4, network.in_chans, 128, 128, generator=generator))
    network.eval()


def make_variants(
    network: Classifier,
    *,
    label: str,
    against: Sequence[str],
    engines: Sequence[str],
    precision: Precision,
    threads: int,
    size: tuple[int, int],
    unmeasured: Unmeasured,
) -> list[Variant]:
    """Every variant of a network for `engines`: each peer's, where it has the network, and our own two.

    A peer that has not, or that cannot export it, is noted in `unmeasured`, with the network's `label`.
    """
    from effnets.bench.baselines import export_baseline, load_baseline
    from effnets.deploy.export.export import convert, export_bytes
    from effnets.deploy.export.metadata import describe
    from effnets.deploy.optimize.optimize import optimize
    from effnets.deploy.optimize.rewrites import preset

    loaded = {peer: load_baseline(peer, network) for peer in against}
    peers = {peer: module for peer, module in loaded.items() if module is not None}
    unmeasured.absent += [f"{peer} has no {label}" for peer in against if peer not in peers]
    description = describe(network, size=size, input_kind="normalised", rewrites=None)
    variant = partial(Variant, description=description, precision=precision, threads=threads)
    variants: list[Variant] = []
    if onnx_engines := [engine for engine in engines if engine in ("onnxruntime", "openvino")]:
        graphs: dict[str, bytes] = {}
        for peer, module in peers.items():
            try:
                graphs[peer] = export_baseline(peer, module, size)
            except EngineError as error:
                unmeasured.failed.append(f"{label}: {error}")
        graphs[PLAIN] = export_bytes(network, None, size)[0]
        for engine in onnx_engines:
            models = graphs | {REWRITTEN: export_bytes(network, preset(engine), size)[0]}
            variants += [variant(engine=engine, path=path, model=model) for path, model in models.items()]
    for engine in [engine for engine in engines if engine in ("litert", "executorch")]:
        files = {}
        for peer, module in peers.items():
            try:
                files[peer] = convert(module, description, engine)
            except ExportError as error:
                unmeasured.failed.append(f"{label}: {peer}: {error}")
        files[PLAIN] = export_bytes(network, None, size, engine)[0]
        files[REWRITTEN] = export_bytes(network, preset(engine), size, engine)[0]
        variants += [variant(engine=engine, path=path, model=model) for path, model in files.items()]
    for engine in engines:
        if engine not in FILE_OF:
            ours = {PLAIN: network} if engine == "torch" else {}
            modules = peers | ours | {REWRITTEN: optimize(network, preset(engine))}
            variants += [variant(engine=engine, path=path, model=module) for path, module in modules.items()]
    return sorted(variants, key=lambda variant: engines.index(variant.engine))


def _load_module(
    module: nn.Module, engine: str, precision: Precision, threads: int
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    import torch

    from effnets.engines.torch import engine_errors

    compiled = engine == "torch-compile"
    # Peers and our own compile alike: weights as constants, each batch size by itself.
    forward = torch.compile(module, dynamic=False, options={"freezing": True}) if compiled else module

    def call(images: NDArray[Any]) -> NDArray[np.float32]:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
        with torch.inference_mode(), autocast, engine_errors(engine):
            logits: NDArray[np.float32] = forward(torch.from_numpy(images)).float().numpy()
        return logits

    return call
