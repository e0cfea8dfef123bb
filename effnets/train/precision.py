"""float32 or bfloat16: which trains faster here, by a measurement that is made once on a machine."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import asdict
from datetime import UTC, datetime

import torch
from torch import nn

from effnets.nn.classifier import Classifier
from effnets.utils.machine import describe_machine
from effnets.utils.measurement_cache import Store
from effnets.utils.timing import Timing, interleave, ratio

__all__ = ["choose_precision"]

# By less than this bfloat16 is not worth its rounding.
_WORTHWHILE = 1.1
_ROUNDS = 5
_IMAGES = 8
_WITH_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def choose_precision(network: Classifier, image_size: int, device: torch.device) -> str:
    """``bfloat16`` where steps of training are clearly faster with it, else ``float32``.

    A GPU that has it always is. A processor that has it is measured, and what was measured is kept for the next
    time, in `effnets.utils.measurement_cache`, so that all runs on a machine agree.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    machine = describe_machine()
    if device.type != "cpu" or not _WITH_BFLOAT16 & set(machine.features):
        return "float32"
    network_key = hashlib.sha256(repr(sorted(asdict(network.spec).items())).encode()).hexdigest()
    conditions = {
        "what": "a step of training",
        "machine": machine.to_dict(),
        "network": network_key,
        "image_size": image_size,
        "images": _IMAGES,
        "threads": torch.get_num_threads(),
    }
    store = Store.default()
    names = ("float32", "bfloat16")
    kept = {name: store.read({**conditions, "precision": name})[0] for name in names}
    timings = {name: timing for name, timing in kept.items() if timing is not None}
    if len(timings) < len(names):
        timings = _measure(network, image_size)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        for name, timing in timings.items():
            store.write({**conditions, "precision": name}, timing, when=when)
    return "bfloat16" if ratio(timings["float32"], timings["bfloat16"]) >= _WORTHWHILE else "float32"


def _measure(network: Classifier, image_size: int) -> dict[str, Timing]:
    trained = copy.deepcopy(network).train()
    images = torch.randn(_IMAGES, network.in_chans, image_size, image_size, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)

    def step(dtype: torch.dtype | None) -> None:
        trained.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss = nn.functional.cross_entropy(trained(images).float(), torch.zeros(_IMAGES, dtype=torch.long))
        loss.backward()  # type: ignore[no-untyped-call]

    subjects = {"float32": lambda: step(None), "bfloat16": lambda: step(torch.bfloat16)}
    return interleave(subjects, rounds=_ROUNDS, warmup=1)
