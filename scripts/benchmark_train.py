"""Steps of training on this machine: this library's default set-up beside timm's, the same network in both.

    uv run scripts/benchmark_train.py mobilenetv2_100 rexnet_100 mixnet_m --batch 16

Ours is what the command `effnets finetune` does: channels_last, freed memory kept, and bfloat16 where the device has
matrix units for it. timm's is
that of its train.py without further options: float32, contiguous; on a GPU, with --amp and --channels-last. Each runs
in its own process, and they take turns. Printed are the medians, and the ratio of two medians of one run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import timm
import torch
from timm.optim import create_optimizer_v2
from torch import nn

import effnets
from effnets.train.model import choose_precision
from effnets.train.optim import make_optimizer
from effnets.train.recipe import Recipe
from effnets.utils.machine import describe_machine, keep_freed_memory
from effnets.utils.timing import interleave, ratio

_CLASSES = 100
_PRECISIONS = ("float32", "bfloat16")
_STOP = "stop"


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, dtype: torch.dtype | None
) -> Callable[[], float]:
    labels = torch.arange(len(images), device=images.device) % _CLASSES

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
            loss = nn.functional.cross_entropy(model(images).float(), labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _make(subject: str, name: str, batch: int, size: int) -> Callable[[], float]:
    """A step of timm's training or, by the name of a precision, of ours."""
    torch.manual_seed(0)
    device = _device()
    images = torch.randn(batch, 3, size, size, device=device)
    if subject == "timm":
        theirs = timm.create_model(name, num_classes=_CLASSES).to(device).train()
        optimizer = create_optimizer_v2(theirs, "adamw", lr=1e-4, weight_decay=0.05)
        if device.type != "cuda":
            return _step(theirs, optimizer, images, None)
        theirs = theirs.to(memory_format=torch.channels_last)
        return _step(theirs, optimizer, images.contiguous(memory_format=torch.channels_last), torch.bfloat16)
    keep_freed_memory()
    ours = effnets.create_model(name, num_classes=_CLASSES).to(device, memory_format=torch.channels_last).train()
    optimizer = make_optimizer(ours, Recipe(model=name, learning_rate=1e-4))
    dtype = torch.bfloat16 if subject == "bfloat16" else None
    return _step(ours, optimizer, images.contiguous(memory_format=torch.channels_last), dtype)


def _serve(orders: Connection, subject: str, name: str, batch: int, size: int) -> None:
    step = _make(subject, name, batch, size)
    while orders.recv() != _STOP:
        orders.send(step())


class _Subject:
    """A training in its own process, so that neither uses the other's memory pools."""

    def __init__(self, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._orders, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *arguments), daemon=True)
        self._process.start()

    def __call__(self) -> float:
        self._orders.send("step")
        return self._orders.recv()

    def stop(self) -> None:
        self._orders.send(_STOP)
        self._process.join()


def measure(name: str, batch: int, size: int, rounds: int) -> dict[str, Any]:
    chosen = choose_precision(_device())
    subjects = {subject: _Subject(subject, name, batch, size) for subject in ("timm", *_PRECISIONS)}
    timings = interleave(subjects, rounds=rounds)
    for subject in subjects.values():
        subject.stop()
    return {
        "model": name,
        "images_per_second": {key: 1000 * batch / timing.median for key, timing in timings.items()},
        "chosen": chosen,
        "ratio": ratio(timings["timm"], timings[chosen]),
    }


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["mobilenetv2_100", "rexnet_100", "mixnet_m"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    rows = [measure(name, options.batch, options.image_size, options.rounds) for name in options.models]
    if options.json:
        print(json.dumps({"machine": describe_machine().to_dict(), "batch": options.batch, "rows": rows}, indent=1))
        return
    print(f"{describe_machine()}; batch {options.batch}, {options.image_size} px, {_device()}; images/s")
    print(f"{'model':<18}{'timm':>8}{'float32':>10}{'bfloat16':>10}  {'chosen':<10}{'ratio':>6}")
    for row in rows:
        speed = row["images_per_second"]
        print(
            f"{row['model']:<18}{speed['timm']:>8.1f}{speed['float32']:>10.1f}{speed['bfloat16']:>10.1f}  "
            f"{row['chosen']:<10}{row['ratio']:>5.2f}x"
        )


if __name__ == "__main__":
    main()
