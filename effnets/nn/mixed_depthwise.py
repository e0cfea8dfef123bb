"""Mixed depthwise convolution (MixConv, arXiv:1907.09595, section 3) as one operator, and the layer that calls it.

``torch.ops.effnets.mixed_depthwise`` is known to autograd, torch.compile and torch.export. On CUDA it runs the kernels
of `effnets.nn.mixed_depthwise_triton`, all groups in one launch, for inputs of shapes at which they are measured to be
faster than PyTorch's convolutions. The environment variable ``EFFNETS_MIXED_KERNEL``, on or off, overrules that.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from effnets.errors import ArgumentError
from effnets.nn import mixed_depthwise_plain
from effnets.nn.layers import Conv2d, MixedConv
from effnets.nn.mixed_depthwise_plain import ACTIVATE, Geometry, empty_channels_last, pack
from effnets.spec.specs import Activation

MODE_VARIABLE = "EFFNETS_MIXED_KERNEL"
_MODES = ("auto", "on", "off")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_LEAST_CAPABILITY = (7, 0)  # of Triton's code


def mixed_depthwise(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, activation: str = "none"
) -> Tensor:
    """Convolve ``[N, C, H, W]`` with a kernel size for each group of channels; return channels_last, in `x`'s dtype.

    Args:
        x: in float32, float16 or bfloat16 for the Triton kernels, which sum in float32; they read it in channels_last.
        weight: packed by `pack`, of the same or another dtype. bias: ``[C]``.
        geometry: the groups.
        activation: of the output: ``none``, ``relu``, ``relu6``, ``silu``, ``hard_swish``; only ``none`` has gradients.
    """
    result: Tensor = _convolve(x, weight, bias, *geometry.arguments, activation)
    return result


class MixedDepthwiseConv(MixedConv):
    """`MixedConv` of depthwise convolutions as one operator on GPUs; parameters and their names are the same.

    Elsewhere it is the plain convolutions, side by side. `activation` is applied to the output.
    """

    def __init__(self, convs: Iterable[Conv2d], activation: Activation | None = None) -> None:
        convs = list(convs)
        super().__init__(convs)
        geometry = Geometry.of(convs)
        assert geometry is not None, "the caller asks Geometry.of"
        self.geometry, self.activation = geometry, activation or "none"
        self._packed: tuple[list[tuple[int, int]], list[Tensor], tuple[Tensor, Tensor | None]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not on_gpu(x):
            return ACTIVATE[self.activation](super().forward(x))
        differentiable = torch.is_grad_enabled() and (
            x.requires_grad or any(p.requires_grad for p in self.parameters())
        )
        if torch.is_autocast_enabled("cuda"):
            x = x.to(torch.get_autocast_dtype("cuda"))
        weight, bias = self._pack() if differentiable or torch.compiler.is_compiling() else self._pack_once()
        if differentiable:
            return ACTIVATE[self.activation](mixed_depthwise(x, weight, bias, self.geometry))
        return mixed_depthwise(x, weight, bias, self.geometry, self.activation)

    def _pack(self) -> tuple[Tensor, Tensor | None]:
        convs = [conv for conv in self if isinstance(conv, Conv2d)]
        biases = [conv.bias for conv in convs if conv.bias is not None]
        return pack(conv.weight for conv in convs), torch.cat(biases) if biases else None

    def _pack_once(self) -> tuple[Tensor, Tensor | None]:
        # Weights may have been changed, in place or not, since they were packed.
        source = [(one.data_ptr(), 0 if one.is_inference() else one._version) for one in self.parameters()]
        packed = self._packed  # replaced as a whole, since other threads may run this layer
        if packed is None or packed[0] != source:
            # As long as these aliases are kept, no other weights can have their addresses.
            self._packed = packed = source, [one.detach() for one in self.parameters()], self._pack()
        return packed[2]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}


def use_mixed_kernel(network: nn.Module) -> None:
    """Put `MixedDepthwiseConv` in place of the mixed depthwise convolutions of a network, with the same parameters."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is MixedConv and all(isinstance(conv, Conv2d) for conv in layer):
                convs = [conv for conv in layer if isinstance(conv, Conv2d)]
                if Geometry.of(convs):
                    parent.add_module(name, MixedDepthwiseConv(convs).train(layer.training))


_GEOMETRY = "int[] channels, int[] kernel_sizes, int[] dilations, int stride, bool same"


@torch.library.custom_op(
    "effnets::mixed_depthwise",
    mutates_args=(),
    schema=f"(Tensor x, Tensor weight, Tensor? bias, {_GEOMETRY}, str activation) -> Tensor",
)
def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any) -> Tensor:
    return _fastest("convolve", x, weight, bias, Geometry.from_arguments(*arguments[:-1]), arguments[-1])


@torch.library.custom_op(
    "effnets::mixed_depthwise_input_gradient",
    mutates_args=(),
    schema=f"(Tensor gradient, Tensor weight, SymInt height, SymInt width, {_GEOMETRY}) -> Tensor",
)
def _input_gradient(gradient: Tensor, weight: Tensor, height: int, width: int, *arguments: Any) -> Tensor:
    return _fastest("input_gradient", gradient, weight, (height, width), Geometry.from_arguments(*arguments))


@torch.library.custom_op(
    "effnets::mixed_depthwise_weight_gradient",
    mutates_args=(),
    schema=f"(Tensor x, Tensor gradient, {_GEOMETRY}) -> Tensor",
)
def _weight_gradient(x: Tensor, gradient: Tensor, *arguments: Any) -> Tensor:
    return _fastest("weight_gradient", x, gradient, Geometry.from_arguments(*arguments))


@_convolve.register_fake
def _(x: Tensor, _weight: Tensor, _bias: Tensor | None, *arguments: Any) -> Tensor:
    geometry = Geometry.from_arguments(*arguments[:-1])
    return empty_channels_last(x, (*x.shape[:2], *(geometry.output_size(side) for side in x.shape[2:])))


@_input_gradient.register_fake
def _(gradient: Tensor, _weight: Tensor, height: int, width: int, *_arguments: Any) -> Tensor:
    return empty_channels_last(gradient, (*gradient.shape[:2], height, width))


@_weight_gradient.register_fake
def _(x: Tensor, _gradient: Tensor, *arguments: Any) -> Tensor:
    count = Geometry.from_arguments(*arguments).weights
    return torch.empty(count, device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 (torch names them)
    x, weight, _, *ctx.geometry, activation = inputs
    if activation != "none":
        raise ArgumentError(f"activation is {activation!r}, which has no gradient here; apply it to the output instead")
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
    return (
        _input_gradient(gradient, weight, *x.shape[2:], *ctx.geometry) if of_x else None,
        _weight_gradient(x, gradient, *ctx.geometry).to(weight.dtype) if of_weight else None,
        gradient.sum((0, 2, 3)) if of_bias else None,
        *[None] * 6,
    )


_convolve.register_autograd(_backward, setup_context=_save)


# Whether the kernel is faster, by function, device, dtype, shape and geometry. It is measured once in a process.
_FASTER: dict[tuple[object, ...], bool] = {}


def _fastest(function: str, x: Tensor, *arguments: Any) -> Tensor:
    """Return what the function of that name returns, of the kernels or of the plain convolutions, whichever are faster.

    Nothing is measured while a CUDA graph is recorded, nor where torch is to be deterministic: there the kernel runs.
    """
    mode = kernel_mode()
    kernels = None if mode == "off" else _kernels(x)
    if kernels is None:
        return _call(mixed_depthwise_plain, function, x, *arguments)
    settings = [argument for argument in arguments if not isinstance(argument, Tensor)]
    key = (function, tuple(x.shape), x.dtype, x.device, *settings)
    fixed = torch.are_deterministic_algorithms_enabled() or (x.is_cuda and torch.cuda.is_current_stream_capturing())
    if mode == "auto" and not fixed and key not in _FASTER:
        with torch.no_grad():
            _FASTER[key] = _is_faster(
                lambda: _call(kernels, function, x, *arguments),
                lambda: _call(mixed_depthwise_plain, function, x, *arguments),
            )
    faster = mode == "on" or torch.are_deterministic_algorithms_enabled() or _FASTER.get(key, True)
    return _call(kernels if faster else mixed_depthwise_plain, function, x, *arguments)


def _call(module: ModuleType, function: str, *arguments: Any) -> Tensor:
    result: Tensor = getattr(module, function)(*arguments)
    return result


def kernel_mode() -> str:
    """Return what ``EFFNETS_MIXED_KERNEL`` says: ``auto``, the default, ``on`` or ``off``; raises ArgumentError."""
    mode = os.environ.get(MODE_VARIABLE, "auto")
    if mode not in _MODES:
        raise ArgumentError(f"{MODE_VARIABLE} is {mode!r}; set it to {', '.join(_MODES[:-1])} or {_MODES[-1]}")
    return mode


def _kernels(x: Tensor) -> ModuleType | None:
    """Return the module of kernels if they can compute with `x`."""
    if not on_gpu(x) or x.dtype not in _DTYPES or not x.numel() or not has_capability(x.device):
        return None
    return _load_kernels()


def on_gpu(x: Tensor) -> bool:
    """Return whether `x` is on a GPU that CUDA's interface drives."""
    return x.is_cuda


@cache
def has_capability(device: torch.device) -> bool:
    """Return whether Triton compiles for this GPU."""
    return torch.cuda.get_device_capability(device) >= _LEAST_CAPABILITY


@cache
def _load_kernels() -> ModuleType | None:
    if not find_spec("triton"):  # only on Linux is it part of PyTorch
        return None
    from effnets.nn import mixed_depthwise_triton

    return mixed_depthwise_triton


def _is_faster(kernel: Callable[[], Tensor], plain: Callable[[], Tensor]) -> bool:
    """Measure both. A kernel that cannot be compiled, for lack of a C compiler perhaps, is not."""
    try:
        milliseconds = _measure(kernel)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of Triton's compiler, of a linker, of the driver
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        warnings.warn(
            f"the Triton kernel does not run here, and plain convolutions do its work: {reason}; "
            f"set {MODE_VARIABLE}=off to spare the attempt",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return milliseconds < _measure(plain)


def _measure(call: Callable[[], Tensor], rounds: int = 5, calls: int = 4) -> float:
    """Return the milliseconds of a call on the GPU: the best round's."""
    call()
    best = float("inf")
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / calls)
    return best
