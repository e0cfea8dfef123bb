"""An exported program run again in float64, operator by operator: the values that an ONNX graph ought to have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

__all__ = ["Replay"]

# Called with the name of each value that a tensor operator computed; its result is what later operators are given.
Watch = Callable[[str, Tensor], Tensor]


class Replay(fx.Interpreter):
    """Runs the program on float64 images; `watch` sees, and may replace, every tensor on its way to its readers."""

    def __init__(self, program: ExportedProgram, watch: Watch | None = None) -> None:
        super().__init__(program.graph_module)
        self._watch = watch
        self._state: list[Tensor] = []
        values: Mapping[str, Any] = {**program.state_dict, **program.constants}
        self._images = ""
        for spec in program.graph_signature.input_specs:
            if spec.kind is InputKind.USER_INPUT:
                self._images = spec.arg.name
            else:
                value = values[str(spec.target)].detach()
                self._state.append(value.double() if value.is_floating_point() else value)
        self.output_name = program.graph_signature.user_outputs[0]

    @property
    def input_name(self) -> str:
        """The program's name of its images."""
        return self._images

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits ``[N, C]`` in float64."""
        # The images are the last input, after all parameters and buffers.
        output: tuple[Tensor, ...] = self.run(*self._state, images.double())
        return output[0]

    def run_node(self, n: fx.Node) -> Any:
        """Run one operator."""
        value = super().run_node(n)
        watched = n.op == "call_function" or n.name == self._images
        if self._watch and watched and isinstance(value, Tensor) and value.is_floating_point():
            return self._watch(n.name, value)
        return value
