"""A network as a program of single operators, which runs in float64 under observation."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from effnets.utils.quiet import EXPORTING

# By torch.fx, or by torch.export.
Program = fx.GraphModule | ExportedProgram
# Called with the name and value of each tensor operator; later operators receive its result.
Watch = Callable[[str, Tensor], Tensor]

_IDLE = (nn.Identity, nn.Dropout)


class UntraceableError(Exception):
    """A network that torch.fx cannot trace, or with an operator that `onnx_writer` does not write."""


class _Tracer(fx.Tracer):
    """Traces what its own thread calls; torch replaces methods of `nn.Module` for all threads meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        here = threading.get_ident() == self._thread
        return super().call_module(m, forward, args, kwargs) if here else forward(*args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        here = threading.get_ident() == self._thread
        return super().getattr(attr, attr_val, parameter_proxy_cache) if here else attr_val


def trace_network(network: nn.Module) -> fx.GraphModule:
    """Return a network of evaluation mode as a graph of operators, none in place; it shares the weights.

    Raises UntraceableError if it cannot be traced: control flow depends on values, or a module of torch has hooks.
    """
    try:
        with EXPORTING:
            program = fx.GraphModule(network, _Tracer().trace(network), type(network).__name__)
    except Exception as error:  # modules of users raise all kinds
        raise UntraceableError(f"{type(network).__name__}: {error}") from error
    for node in program.graph.nodes:
        if node.op == "call_module":
            module = program.get_submodule(node.target)
            if module._forward_hooks or module._forward_pre_hooks:
                raise UntraceableError(f"{node.target} has hooks")
            if isinstance(module, _IDLE):
                node.replace_all_uses_with(node.args[0])
                program.graph.erase_node(node)
            elif getattr(module, "inplace", False):
                # Verification keeps the values in between.
                apart = copy.copy(module)
                apart.inplace = False  # type: ignore[assignment]
                program.set_submodule(node.target, apart)
    program.recompile()
    return program


def output_of(program: fx.GraphModule) -> fx.Node:
    """Return the node whose value a traced network returns; raises UntraceableError unless it is one tensor."""
    found = next(node for node in program.graph.nodes if node.op == "output").args[0]
    if not isinstance(found, fx.Node) or found.op == "placeholder":
        raise UntraceableError("the network returns several tensors, or its input")
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread meanwhile.

    In float64 it convolves each channel of a depthwise convolution by itself, and would divide each among all threads.
    """
    with EXPORTING:  # or another export would restore the one thread of this
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


class Float64Interpreter(fx.Interpreter):
    """Runs a program in float64; `watch` sees, and may replace, the value of every operator.

    Attributes:
        input_name, output_name: the program's names of its images and logits.
        rounded: whether the program has its weights in float32.
    """

    def __init__(self, program: Program, watch: Watch | None = None) -> None:
        self._watch = watch
        self._state: list[Tensor] = []
        self._batch = 0
        if isinstance(program, fx.GraphModule):
            self.rounded = next(program.parameters()).dtype != torch.float64
            super().__init__(copy.deepcopy(program).double() if self.rounded else program)
            self.input_name = next(node.name for node in program.graph.nodes if node.op == "placeholder")
            self.output_name = output_of(program).name
            return
        super().__init__(program.graph_module)
        self.rounded = True
        values: Mapping[str, Any] = {**program.state_dict, **program.constants}
        self.input_name = ""
        for spec in program.graph_signature.input_specs:
            if spec.kind is InputKind.USER_INPUT:
                self.input_name = spec.arg.name
            else:
                value = values[str(spec.target)].detach()
                self._state.append(value.double() if value.is_floating_point() else value)
        self.output_name = program.graph_signature.user_outputs[0]
        taken = next(node for node in program.graph.nodes if node.name == self.input_name)
        size = taken.meta["val"].shape[0]
        self._batch = size if isinstance(size, int) else 0  # a program for any number has a symbol

    @one_thread()
    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits ``[N, C]`` in float64."""
        # The images are the last input, after all parameters and buffers.
        outputs = [self.run(*self._state, batch) for batch in torch.split(images.double(), self._batch or len(images))]
        return torch.cat([output if isinstance(output, Tensor) else output[0] for output in outputs])

    def run_node(self, n: fx.Node) -> Any:
        """Run one operator."""
        value = super().run_node(n)
        watched = n.op.startswith("call_") or n.name == self.input_name
        if self._watch and watched and isinstance(value, Tensor) and value.is_floating_point():
            return self._watch(n.name, value)
        return value
