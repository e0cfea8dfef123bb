"""Check sizes and contents that files claim, before a reader allocates memory for them; executes nothing."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from effnets.errors import WeightsError

# Far above every network, its class names included; a parsed header takes thirty times its length.
_MAX_HEADER = 4 << 20
# A training program's whole state has a tenth of it.
_MAX_INSTRUCTIONS = 1_000_000
_MAX_TUPLE = 10_000_000
# A legacy file: a magic number, a version, the writer's number formats, the content, the names of its storages.
_LEGACY_PICKLES = 5

# torch lets pickles call more than these; none of these allocates more than the file holds.
_BUILDERS = frozenset(
    {
        *("builtins set", "builtins complex", "__builtin__ set", "__builtin__ complex"),
        *("torch Size", "torch device", "torch.nn.parameter Parameter", "torch.serialization _get_layout"),
        *(f"torch._utils _rebuild_{kind}" for kind in ("tensor", "tensor_v2", "tensor_v3")),
        *(f"torch._utils _rebuild_{kind}" for kind in ("parameter", "parameter_with_state")),
    }
)
# What an instruction takes from the stack, whether also all down to the last mark, and how much it puts there.
_EFFECTS = {
    opcode.name: (
        sum(item not in (pickletools.markobject, pickletools.stackslice) for item in opcode.stack_before),
        pickletools.stackslice in opcode.stack_before or opcode.name == "POP_MARK",
        len(opcode.stack_after),
    )
    for opcode in pickletools.opcodes
}
_TORCH_MODULES = frozenset({"torch", "builtins", "__builtin__", "_codecs"})


def require_sound_header(path: Path) -> None:
    """Refuse a safetensors file whose header is too long, not JSON, or has a key twice.

    The safetensors library checks each tensor's entry; of two entries of one name it takes the last.

    Raises:
        ValueError: if the header is refused.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER:
            raise ValueError(f"its header claims {length:,} bytes, more than any network's")
        header = file.read(length)
    try:
        json.loads(header.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("its header is nested too deep") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"its header holds {twice[:60]!r} twice")
    return mapping


def require_sound_pickle(path: Path) -> None:
    """Refuse a PyTorch file that unpacks to more than its size, or whose pickle does more than build tensors.

    Raises:
        pickle.UnpicklingError: if it calls what no state dict needs.
        ValueError, EOFError, RuntimeError, BadZipFile: if it is damaged, or a memory bomb.
    """
    with path.open("rb") as file:
        # As torch decides: everything else is a legacy pickle.
        if file.read(4) != b"PK\x03\x04":
            file.seek(0)
            for _ in range(_LEGACY_PICKLES):
                if not file.peek(1):
                    return  # torch says what is missing
                _require_harmless(file)
            return
    # torch's reader, not Python's: the two may read a forged archive differently.
    archive = torch._C.PyTorchFileReader(str(path))
    records = archive.get_all_records()
    size = _unpacked_size(archive, path)
    if size > path.stat().st_size:
        raise ValueError(f"its records unpack to {size:,} bytes, more than the file has; torch.save packs nothing")
    if "data.pkl" in records:
        _require_harmless(io.BytesIO(archive.get_record("data.pkl")))


def _unpacked_size(archive: Any, path: Path) -> int:
    if hasattr(archive, "get_record_size"):
        return sum(archive.get_record_size(record) for record in archive.get_all_records())
    # torch 2.10 has no get_record_size: use Python's reader.
    with zipfile.ZipFile(path) as directory:
        return sum(record.file_size for record in directory.infolist())


def _require_harmless(program: IO[bytes]) -> None:
    """Run through a pickle's instructions, keeping track only of the size of each object on the stack."""
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(program)):
        name = opcode.name
        if count == _MAX_INSTRUCTIONS:
            raise ValueError(f"more than {_MAX_INSTRUCTIONS:,} instructions, more than any network's")
        if name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        else:
            if name == "GLOBAL":
                _require_builder(argument)
            taken, to_mark, given = _EFFECTS[name]
            start = (marks.pop() if to_mark else len(stack)) - taken
            size = min(1 + sum(stack[start:]), _MAX_TUPLE + 1)
            # A tuple twice in a tuple, nested thirty times: hashing it as a key takes hours.
            if size > _MAX_TUPLE and name.startswith("TUPLE"):
                raise ValueError("tuples of one another again and again, as in no state dict")
            stack[start:] = [size] * given


def _require_builder(name: str) -> None:
    """Refuse callables that torch allows, except those that rebuild tensors; torch itself refuses the others."""
    module, _, attribute = name.partition(" ")
    if module.partition(".")[0] not in _TORCH_MODULES or name in _BUILDERS or attribute.endswith("Storage"):
        return
    if module == "torch" and isinstance(getattr(torch, attribute, None), torch.dtype):
        return
    raise pickle.UnpicklingError(f"GLOBAL {module}.{attribute}")


def require_plain(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not dense and real, or that expand to more numbers than the file holds.

    Raises:
        WeightsError: names the first such tensor.
    """
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
            kind = "meta" if tensor.is_meta else f"{tensor.dtype} {tensor.layout}".replace("torch.", "")
            raise WeightsError(f"{path}: {name} is a {kind} tensor; save plain dense real tensors")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise WeightsError(
                f"{path}: {name} claims {tensor.numel():,} numbers and repeats a few; save tensor.contiguous()"
            )
