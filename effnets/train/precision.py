"""float32 or bfloat16, by what the device computes in."""

from __future__ import annotations

import torch

from effnets.utils.machine import describe_machine

_NATIVE = {"avx512_bf16", "amx_bf16", "bf16"}


def choose_precision(device: torch.device) -> str:
    """Return ``bfloat16`` where `device` computes in it natively, else ``float32``.

    GPUs do from compute capability 8.0 (Ampere) on, CPUs with the AVX512-BF16, AMX or Arm BF16 instructions.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(
            describe_machine().features
        )
    return "bfloat16" if native else "float32"
