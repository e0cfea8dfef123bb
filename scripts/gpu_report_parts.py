"""The parts of the report on a GPU (`gpu_report.py`): each adds its rows, in the order of their worth."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from gpu_report_rows import MissingError
from torch import Tensor, nn

import effnets
from effnets.bench.baselines import load_baseline
from effnets.bench.roofline import Ceiling, bound, layers_of
from effnets.bench.variants import shake
from effnets.deploy.optimize.rewrites import PRESETS
from effnets.engines.cuda_graph import CudaGraphs
from effnets.nn import mixed_depthwise_plain as plain
from effnets.nn.classifier import Classifier
from effnets.nn.layers import MixedConv
from effnets.nn.mixed_depthwise import use_mixed_kernel
from effnets.nn.mixed_depthwise_plain import Geometry
from effnets.utils.machine import describe_machine, version_of

if TYPE_CHECKING:
    from gpu_report_rows import Report, Row

__all__ = ["PARTS", "Bench"]

PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "tf32": torch.float32}
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
NETWORK_TOLERANCE = 1e-3
KERNEL_MODELS = ("mixnet_s", "mixnet_m", "mixnet_l", "tf_mixnet_s", "tf_mixnet_m", "tf_mixnet_l")
_PACKAGES = ("triton", "timm", "onnx", "onnxscript", "onnxruntime", "tensorrt")
_COMPILING = 60.0  # seconds that torch.compile may take for a network
_SHARE_OF_KERNELS = 0.35  # of all time, at most
TRAINED = 128
# In place of MixNet's layers in a rehearsal.
SMALL = (Geometry((8, 6), (3, 5), (1, 1)), Geometry((6, 6), (3, 5), (1, 1), 2, True))


@dataclass(slots=True)
class Bench:
    """Where everything runs, and how much of it.

    Attributes:
        device: a GPU, or the CPU in a rehearsal.
        batches: of inference. trained: images in a training step. seconds: that one measurement takes.
        ceilings: by precision, once they are measured.
    """

    device: torch.device
    batches: tuple[int, ...] = (1, 32, 256)
    trained: int = TRAINED
    seconds: float = 0.3
    dry: bool = False
    ceilings: dict[str, Ceiling] = field(default_factory=dict)

    @classmethod
    def open(cls, *, dry: bool) -> Bench | None:
        """None without a GPU, but in a rehearsal."""
        if dry:
            return cls(torch.device("cpu"), batches=(1, 2), trained=2, seconds=0.0, dry=True)
        return cls(torch.device("cuda")) if torch.cuda.is_available() else None

    def facts(self) -> Row:
        versions = {name: version_of(name) if find_spec(name) else "missing" for name in _PACKAGES}
        gpu = "none" if self.dry else torch.cuda.get_device_name(self.device)
        return {
            "GPU": gpu,
            "machine": str(describe_machine()),
            "effnets": effnets.__version__,
            "torch": f"{torch.__version__}, CUDA {torch.version.cuda}",
            **versions,
        }

    def side(self, network: Classifier) -> int:
        return 32 if self.dry else network.spec.input_size

    def milliseconds(self, call: Callable[[], object]) -> float:
        """The median of calls that are waited for."""
        for _ in range(1 if self.dry else 3):
            call()
        self.wait()
        samples: list[float] = []
        begin = time.perf_counter()
        while len(samples) < (1 if self.dry else 3) or (
            time.perf_counter() - begin < self.seconds and len(samples) < 100
        ):
            start = time.perf_counter()
            call()
            self.wait()
            samples.append(1000 * (time.perf_counter() - start))
        return statistics.median(samples)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def free(self) -> None:
        torch.compiler.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def speed(
        self, network: Classifier, precision: str, batch: int, call: Callable[[], object], passes: int = 1
    ) -> Row:
        """Time a call, and say how much of what the roofline allows it reaches."""
        ms = self.milliseconds(call)
        row: Row = {"ms": ms, "images_per_s": 1000 * batch / ms}
        if ceiling := self.ceilings.get(precision):
            each = PRECISIONS[precision].itemsize
            least = passes * batch * bound(layers_of(network.plan, self.side(network)), ceiling, batch, each)
            row["roofline"] = f"{100 * least / ms:.0f} %"
        return row


def allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def measure_ceilings(report: Report, bench: Bench, _models: list[str]) -> None:
    side, copied = (128, 1 << 18) if bench.dry else (8192, 1 << 30)

    def measure(precision: str, dtype: torch.dtype) -> Row:
        allow_tf32(True)
        matrix = torch.randn(side, side, device=bench.device).to(dtype)
        source = torch.zeros(copied // 4, device=bench.device)
        target = torch.empty_like(source)
        product, copy = bench.milliseconds(lambda: matrix @ matrix), bench.milliseconds(lambda: target.copy_(source))
        ceiling = Ceiling(gflops=2 * side**3 / product / 1e6, bandwidth=2 * copied / copy / 1e6)
        bench.ceilings[precision] = ceiling
        return {"gflops": ceiling.gflops, "bandwidth": ceiling.bandwidth}

    for precision, dtype in PRECISIONS.items():
        report.attempt("ceiling", {"precision": precision}, lambda p=precision, d=dtype: measure(p, d))


def geometries(models: tuple[str, ...] = KERNEL_MODELS) -> dict[str, Geometry]:
    """Every shape of mixed depthwise layer of the models, by a name."""
    networks = [effnets.create_model(model, device="meta") for model in models]
    mixed = [module for network in networks for module in network.modules() if isinstance(module, MixedConv)]
    found = [geometry for module in mixed if (geometry := Geometry.of(list(module))) is not None]
    return {label(geometry): geometry for geometry in found}


def label(geometry: Geometry) -> str:
    kernels = ".".join(map(str, geometry.kernel_sizes))
    channels = "+".join(map(str, geometry.channels))
    return f"{kernels} on {channels}, stride {geometry.stride}{', SAME' if geometry.same else ''}"


def relative_error(expected: Tensor, actual: Tensor) -> float:
    actual = actual.detach().double().cpu()
    return ((expected - actual).abs().max() / expected.abs().max().clamp(min=1.0)).item()


def check_kernel(geometry: Geometry, dtype: torch.dtype, device: torch.device) -> Row:
    """Errors of the three kernels on a small map with even and odd sides."""
    from effnets.nn import mixed_depthwise_triton as kernels

    generator = torch.Generator().manual_seed(0)
    channels, count, size = sum(geometry.channels), 2, (6, 7)
    if device.type == "cpu":  # the interpreter takes its time
        count, size = 1, (3, 4)
    x = torch.randn((count, channels, *size), generator=generator).to(dtype)
    weight = torch.randn(geometry.weights, generator=generator) / max(geometry.kernel_sizes)
    bias = torch.randn(channels, generator=generator)
    slopes = torch.randn((count, channels, *map(geometry.output_size, size)), generator=generator).to(dtype)
    exact = [tensor.double() for tensor in (x, weight, bias, slopes)]
    expected = {
        "output": plain.convolve(*exact[:3], geometry, "silu"),
        "input_gradient": plain.input_gradient(exact[3], exact[1], size, geometry),
        "weight_gradient": plain.weight_gradient(exact[0], exact[3], geometry),
    }
    x, weight, bias, slopes = (tensor.to(device) for tensor in (x, weight, bias, slopes))
    actual = {
        "output": kernels.convolve(x, weight, bias, geometry, "silu"),
        "input_gradient": kernels.input_gradient(slopes, weight, size, geometry),
        "weight_gradient": kernels.weight_gradient(x, slopes, geometry),
    }
    row: Row = {name: relative_error(value, actual[name]) for name, value in expected.items()}
    if not all(error <= TOLERANCES[dtype] for error in row.values()):
        row["state"] = "wrong"
    return row


def check_kernels(report: Report, bench: Bench, _models: list[str]) -> None:
    if not find_spec("triton"):
        report.attempt("kernels", {"layer": "all"}, missing("triton is not installed"))
        return
    shapes = geometries()
    if bench.dry:
        shapes = {label(geometry): geometry for geometry in SMALL}
    latest = report.left - _SHARE_OF_KERNELS * report.seconds
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for name, geometry in shapes.items():
            report.attempt(
                "kernels",
                {"layer": name, "precision": str(dtype).removeprefix("torch.")},
                lambda g=geometry, d=dtype: check_kernel(g, d, bench.device),
                least=max(2.0, latest),
            )


def missing(reason: str) -> Callable[[], Row]:
    def work() -> Row:
        raise MissingError(reason)

    return work


@cache
def network_of(name: str) -> Classifier:
    """A network whose values show errors, on the CPU; the same for every part."""
    torch.manual_seed(0)
    network = effnets.create_model(name)
    shake(network)
    return network.eval().requires_grad_(False)


def timm_of(network: Classifier) -> nn.Module:
    if not find_spec("timm"):
        raise MissingError("timm is not installed")
    module = load_baseline("timm", network)
    if module is None:
        raise MissingError(f"timm has no {network.spec.name}")
    return module


def ours_on(bench: Bench, network: Classifier, dtype: torch.dtype) -> Classifier:
    network = effnets.create_model(network.spec).eval().requires_grad_(False)
    network.load_state_dict(network_of(network.spec.name).state_dict())
    return network.to(bench.device, dtype, memory_format=torch.channels_last)


def optimized_on(bench: Bench, network: Classifier, dtype: torch.dtype, *, kernel: bool = True) -> nn.Module:
    rewrites = replace(PRESETS["torch-cuda"], mixed_kernel=kernel)
    return effnets.optimize(ours_on(bench, network, dtype), rewrites)


def check_networks(report: Report, bench: Bench, models: list[str]) -> None:
    def check(name: str) -> Row:
        allow_tf32(False)
        network = network_of(name)
        side = bench.side(network)
        x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            exact = ours_on(replace(bench, device=torch.device("cpu")), network, torch.float64)(x.double())
            x = x.to(bench.device)
            found = {
                "effnets": ours_on(bench, network, torch.float32)(x),
                "optimized": optimized_on(bench, network, torch.float32)(x),
            }
            with suppress(MissingError):
                found["timm"] = timm_of(network).to(bench.device)(x)
        row: Row = {key: relative_error(exact, logits) for key, logits in found.items()}
        if not all(row[key] <= NETWORK_TOLERANCE for key in ("effnets", "optimized")):
            row["state"] = "wrong"
        return row

    for name in models:
        report.attempt("networks", {"model": name}, lambda n=name: check(n), least=10)


def inference_variants(
    bench: Bench, network: Classifier, dtype: torch.dtype
) -> Iterator[tuple[str, Callable[[], Callable[[Tensor], Any]]]]:
    """Each variant's name and what makes it."""
    yield "timm", lambda: timm_of(network).to(bench.device, dtype)
    yield "timm channels_last", lambda: timm_of(network).to(bench.device, dtype, memory_format=torch.channels_last)
    yield "effnets", lambda: ours_on(bench, network, dtype)
    yield "effnets optimized", lambda: optimized_on(bench, network, dtype)
    if any(isinstance(module, MixedConv) for module in network.modules()):
        yield "effnets optimized, no kernel", lambda: optimized_on(bench, network, dtype, kernel=False)
    yield "effnets optimized, CUDA graph", lambda: CudaGraphs(optimized_on(bench, network, dtype))


def measure_inference(report: Report, bench: Bench, models: list[str]) -> None:
    for precision in ("bfloat16", "float16", "tf32"):
        for name in models:
            network, dtype = network_of(name), PRECISIONS[precision]
            for variant, make in inference_variants(bench, network, dtype):
                measure_variant(report, bench, network, precision, variant, make)
            bench.free()


def measure_variant(
    report: Report, bench: Bench, network: Classifier, precision: str, variant: str, make: Callable[[], Any],
    batches: tuple[int, ...] | None = None, least: float = 3.0,
) -> None:  # fmt: skip
    """One variant at each batch size; a graph at one image alone."""
    made: list[Callable[[Tensor], Any]] = []

    def measure(batch: int) -> Row:
        allow_tf32(precision == "tf32")
        if not made:
            made.append(make())
        side, dtype = bench.side(network), PRECISIONS[precision]
        images = torch.randn(batch, 3, side, side, device=bench.device).to(dtype)
        if variant != "timm":
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            return bench.speed(network, precision, batch, lambda: made[0](images))

    for batch in (1,) if "graph" in variant else batches or bench.batches:
        name = {"model": network.spec.name, "precision": precision, "batch": batch, "variant": variant}
        report.attempt("inference", name, lambda b=batch: measure(b), least=least)


def training_step(bench: Bench, model: nn.Module, side: int, channels_last: bool) -> Callable[[], None]:
    model = model.to(bench.device).train().requires_grad_(True)
    images = torch.randn(bench.trained, 3, side, side, device=bench.device)
    if channels_last:
        model, images = (
            model.to(memory_format=torch.channels_last),
            images.contiguous(memory_format=torch.channels_last),
        )
    labels = torch.arange(bench.trained, device=bench.device) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(bench.device.type, torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images).float(), labels)
        loss.backward()
        optimizer.step()

    return step


def with_kernel(network: Classifier) -> Classifier:
    use_mixed_kernel(network)
    return network


def measure_training(report: Report, bench: Bench, models: list[str]) -> None:
    def measure(network: Classifier, make: Callable[[], nn.Module], channels_last: bool) -> Row:
        allow_tf32(True)
        step = training_step(bench, make(), bench.side(network), channels_last)
        return bench.speed(network, "bfloat16", bench.trained, step, passes=3)

    for name in models:
        network = network_of(name)
        variants: list[tuple[str, Callable[[], nn.Module], bool]] = [
            ("timm", lambda n=network: timm_of(n), False),
            ("timm channels_last", lambda n=network: timm_of(n), True),
            ("effnets, no kernel", lambda n=network: ours_on(bench, n, torch.float32), True),
            ("effnets", lambda n=network: with_kernel(ours_on(bench, n, torch.float32)), True),
        ]
        for variant, make, channels_last in variants:
            report.attempt(
                "training",
                {"model": name, "batch": bench.trained, "variant": variant},
                lambda n=network, m=make, c=channels_last: measure(n, m, c),
                least=5,
            )
        bench.free()


def measure_layers(report: Report, bench: Bench, models: list[str]) -> None:
    """Each mixed layer of the first MixNet at the size that it has in the network."""
    name = next((model for model in models if "mixnet" in model), None)
    if name is None or not find_spec("triton"):
        report.attempt("layers", {"layer": "all"}, missing("no MixNet among the models, or no triton"))
        return
    batch = 1 if bench.dry else 32
    layers = mixed_layers(network_of(name), bench.side(network_of(name)))
    for geometry, side in ({SMALL[0]: 4} if bench.dry else layers).items():
        report.attempt(
            "layers",
            {"layer": label(geometry), "size": side, "batch": batch},
            lambda g=geometry, s=side: measure_layer(bench, g, s, batch),
        )


def mixed_layers(network: Classifier, side: int) -> dict[Geometry, int]:
    """The geometry of every mixed layer, and the side of the map that enters it."""
    found: dict[Geometry, int] = {}
    side = -(-side // network.plan.stem.stride)
    for blocks, stage in zip(network.plan.stages, network.stages, strict=True):
        for plan, block in zip(blocks, stage.children(), strict=True):
            conv = block.depthwise.conv if len(plan.convolution) > 1 else None
            if conv is not None and (geometry := Geometry.of(list(conv))) is not None:
                found.setdefault(geometry, side)
            side = -(-side // plan.stride)
    return found


def measure_layer(bench: Bench, geometry: Geometry, side: int, batch: int) -> Row:
    from effnets.nn import mixed_depthwise_triton as kernels

    channels, size = sum(geometry.channels), (side, side)
    dtype = torch.bfloat16

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=bench.device)

    x = random(batch, channels, *size).to(dtype).contiguous(memory_format=torch.channels_last)
    slopes = random(batch, channels, *map(geometry.output_size, size)).to(x)
    slopes = slopes.contiguous(memory_format=torch.channels_last)
    weight, bias = random(geometry.weights), random(channels)

    def gradients(
        of_input: Callable[[Tensor, Tensor, tuple[int, int], Geometry], Tensor],
        of_weight: Callable[[Tensor, Tensor, Geometry], Tensor],
    ) -> float:
        return bench.milliseconds(
            lambda: (of_input(slopes, weight, size, geometry), of_weight(x, slopes, geometry))
        )  # fmt: skip

    with torch.inference_mode():
        return {
            "kernel": bench.milliseconds(lambda: kernels.convolve(x, weight, bias, geometry, "silu")),
            "plain": bench.milliseconds(lambda: plain.convolve(x, weight, bias, geometry, "silu")),
            "kernel_gradients": gradients(kernels.input_gradient, kernels.weight_gradient),
            "plain_gradients": gradients(plain.input_gradient, plain.weight_gradient),
        }


def measure_engines(report: Report, bench: Bench, models: list[str]) -> None:
    import numpy as np

    def load(engine: str, network: Classifier) -> Any:
        if engine == "torch-cuda":
            return effnets.load_engine(network, "torch" if bench.dry else engine)
        if absent := [name for name in ("onnx", "onnxscript", "onnxruntime") if not find_spec(name)]:
            raise MissingError(f"{', '.join(absent)} not installed")
        import onnxruntime

        from effnets.deploy.export.export import export_bytes
        from effnets.deploy.optimize.rewrites import preset
        from effnets.engines.base import load_bytes

        wanted = {"onnxruntime-cuda": "CUDAExecutionProvider", "onnxruntime-tensorrt": "TensorrtExecutionProvider"}
        if not bench.dry and wanted[engine] not in onnxruntime.get_available_providers():
            raise MissingError(f"this onnxruntime has no {wanted[engine]}; onnxruntime-gpu has")
        file, metadata = export_bytes(network, preset(engine), bench.side(network))
        return load_bytes(file, metadata, "onnxruntime" if bench.dry else engine)

    def measure(engine: str, network: Classifier, batch: int, loaded: dict[str, Any]) -> Row:
        allow_tf32(False)
        if engine not in loaded:
            loaded[engine] = load(engine, network)
        side = bench.side(network)
        images = np.random.default_rng(0).standard_normal((batch, 3, side, side), np.float32)
        return bench.speed(network, "float32", batch, lambda: loaded[engine](images))

    for name in models[:2]:
        loaded: dict[str, Any] = {}
        for engine in ("torch-cuda", "onnxruntime-cuda", "onnxruntime-tensorrt"):
            for batch in bench.batches[:2]:
                report.attempt(
                    "engines",
                    {"model": name, "engine": engine, "batch": batch},
                    lambda e=engine, n=name, b=batch, made=loaded: measure(e, network_of(n), b, made),
                    least=45 if "tensorrt" in engine else 10,
                )
        bench.free()


def measure_compiled(report: Report, bench: Bench, models: list[str]) -> None:
    """What torch.compile makes of timm's networks and of ours, in bfloat16: the batch sizes that matter most first."""
    least = 5.0 if bench.dry else _COMPILING

    def compiled(module: nn.Module) -> nn.Module:
        return torch.compile(module, dynamic=False)

    for name in models[-1:] if bench.dry else models:
        network = network_of(name)
        subjects: list[tuple[str, Callable[[], nn.Module]]] = [
            ("timm compiled", lambda n=network: timm_of(n).to(memory_format=torch.channels_last)),
            ("effnets optimized, compiled", lambda n=network: optimized_on(bench, n, torch.bfloat16)),
        ]
        for variant, make in subjects:
            measure_variant(
                report, bench, network, "bfloat16", variant,
                lambda m=make: compiled(m().to(bench.device, torch.bfloat16)), bench.batches[-1:], least,
            )  # fmt: skip
            bench.free()
        training = {
            "timm compiled": lambda n=network: compiled(timm_of(n)),
            "effnets compiled": lambda n=network: compiled(with_kernel(ours_on(bench, n, torch.float32))),
        }
        for variant, make_trained in {} if bench.dry else training.items():
            report.attempt(
                "training",
                {"model": name, "batch": bench.trained, "variant": variant},
                lambda n=network, m=make_trained: bench.speed(
                    n, "bfloat16", bench.trained, training_step(bench, m(), bench.side(n), True), passes=3
                ),
                least=2 * least,
            )
            bench.free()
    for name in [] if bench.dry else models:  # then the others, as far as the time goes
        network = network_of(name)
        measure_variant(
            report, bench, network, "bfloat16", "timm compiled",
            lambda n=network: compiled(timm_of(n).to(bench.device, torch.bfloat16, memory_format=torch.channels_last)),
            bench.batches[:-1], least,
        )  # fmt: skip
        bench.free()


PARTS: dict[str, Callable[[Report, Bench, list[str]], None]] = {
    "ceiling": measure_ceilings,
    "kernels": check_kernels,
    "networks": check_networks,
    "inference": measure_inference,
    "training": measure_training,
    "layers": measure_layers,
    "engines": measure_engines,
    "compiled": measure_compiled,
}
