"""Time depthwise convolutions on LiteRT, whole and split into bands of rows (`Rewrites.depthwise_taps`), as Markdown.

    uv run scripts/depthwise_taps.py [--channels 60 --size 28] [--rounds 15]

Each is a chain of four layers on one thread; all take turns. Multiply-adds are those of the whole kernel.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import litert_torch
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn

from effnets.deploy.optimize.split import SplitConv, cheapest_rows
from effnets.nn.layers import Conv2d
from effnets.utils.quiet import quiet_exporters, quiet_native
from effnets.utils.timing import interleave

LAYERS = 4
TAPS = (9, 25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=60)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    shape = (1, arguments.channels, arguments.size, arguments.size)
    with tempfile.TemporaryDirectory() as folder:
        calls = {}
        for kernel in (3, 5, 7, 9, 11):
            conv = Conv2d(in_channels=shape[1], out_channels=shape[1], kernel_size=kernel, groups=shape[1], bias=True)
            nn.init.normal_(conv.weight)
            nn.init.zeros_(conv.bias)
            calls[kernel, "whole"] = load(nn.Sequential(*[conv] * LAYERS), shape, Path(folder) / f"{kernel}.tflite")
            if kernel**2 > max(TAPS):
                split = SplitConv(conv, cheapest_rows(kernel, TAPS))
                calls[kernel, "split"] = load(
                    nn.Sequential(*[split] * LAYERS), shape, Path(folder) / f"{kernel}s.tflite"
                )
        timings = interleave(
            {f"{kernel} {form}": call for (kernel, form), call in calls.items()}, rounds=arguments.rounds
        )
    print("| kernel | form | ms a layer | billion multiply-adds a second | whole / split |\n|---|---|---:|---:|---:|")
    for kernel, form in calls:
        duration = timings[f"{kernel} {form}"].median / LAYERS
        speed = np.prod(shape) * kernel**2 / duration / 1e6
        ratio = f"{timings[f'{kernel} whole'].median / LAYERS / duration:.2f}" if form == "split" else ""
        print(f"| {kernel}×{kernel} | {form} | {duration:.3f} | {speed:.1f} | {ratio} |")


def load(module: nn.Module, shape: tuple[int, ...], path: Path) -> partial[None]:
    """Convert a module; return a call of it on one thread."""
    with quiet_exporters(), quiet_native():
        litert_torch.convert(module.eval(), (torch.zeros(shape),)).export(str(path))
        interpreter = Interpreter(str(path), num_threads=1)
        interpreter.allocate_tensors()
    found = interpreter.get_input_details()[0]
    interpreter.set_tensor(found["index"], np.zeros(found["shape"], np.float32))
    return partial(interpreter.invoke)


if __name__ == "__main__":
    main()
