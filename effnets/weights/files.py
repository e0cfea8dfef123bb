"""Checkpoint files → named tensors. Nothing in a file is ever executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from effnets.errors import MissingFileError, WeightsError
from effnets.utils.atomic_file import write_whole
from effnets.weights.hashing import hash_file
from effnets.weights.hdf5 import decode_hdf5, encode_hdf5
from effnets.weights.safety import require_plain, require_sound_header, require_sound_pickle

__all__ = ["Checkpoint", "read_checkpoint", "write_checkpoint"]

_PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
_HDF5_SUFFIXES = (".h5", ".hdf5")
# Where training programs put the weights, the averaged ones first, as these are the ones that are evaluated.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The tensors of a file under the names they have there.

    `header` is the metadata that a safetensors file carries; `notes` say what was unwrapped on the way.
    """

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    header: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_checkpoint(path: str | os.PathLike[str], *, sha256: str | None = None) -> Checkpoint:
    """Read a ``.safetensors`` file, a pickled one (``.pth``, ``.pt``, ``.bin``) as tensors only, or Keras' ``.h5``.

    `sha256` is the file's, where the caller has verified it already; None: it is computed.

    Raises:
        MissingFileError: no such file.
        WeightsError: a folder, an unknown suffix, a damaged file, or a pickle with more in it than tensors.
    """
    path = Path(path)
    _require_file(path)
    header: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    if path.suffix.lower() == ".safetensors":
        tensors, header = _read_safetensors(path)
    elif path.suffix.lower() in _PICKLE_SUFFIXES:
        tensors, notes = _unwrap(path, _read_pickle(path))
    elif path.suffix.lower() in _HDF5_SUFFIXES:
        tensors = decode_hdf5(path)
    else:
        known = ", ".join((".safetensors", *_PICKLE_SUFFIXES, *_HDF5_SUFFIXES))
        raise WeightsError(f"{path}: unknown kind of weights file {path.suffix!r}; known are {known}")
    if not tensors:
        raise WeightsError(f"{path}: holds no tensors")
    require_plain(path, tensors)
    tensors, prefix_notes = _strip_prefixes(tensors)
    # Hashed last: a file that is refused need not be.
    sha256 = sha256 or hash_file(path)
    return Checkpoint(path=path, sha256=sha256, tensors=tensors, header=header, notes=(*notes, *prefix_notes))


def write_checkpoint(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a file, whole or not at all: safetensors with `header`, a pickled state dict or Keras' HDF5 by its suffix.

    Raises:
        WeightsError: another suffix, or the disk refuses.
    """
    path = Path(path)
    data = _encode(path, {name: tensor.contiguous() for name, tensor in tensors.items()}, header)
    try:
        write_whole(path, data)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written ({error.strerror or error})") from None


def _require_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, ValueError):
        raise MissingFileError(f"{path}: no such weights file") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from None
    if stat.S_ISDIR(mode):
        raise WeightsError(f"{path}: is a folder; name the weights file in it")
    if not stat.S_ISREG(mode):
        raise WeightsError(f"{path}: is not a regular file; name a weights file")


def _encode(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    if path.suffix.lower() == ".safetensors":
        # transformers wants the format stated.
        return _in_order(safetensors.torch.save(dict(tensors), {"format": "pt", **header}))
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        buffer = io.BytesIO()
        torch.save(dict(tensors), buffer)
        return buffer.getvalue()
    if path.suffix.lower() in _HDF5_SUFFIXES:
        return encode_hdf5(path, tensors)
    raise WeightsError(f"{path}: weights are written as .safetensors; give the file that suffix")


def _in_order(data: bytes) -> bytes:
    """The same file with what its header states in alphabetical order, so that equal weights make equal files.

    The library writes these in an order that it draws anew each time.
    """
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        require_sound_header(path)
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 (no mapping)
    # torch's come of shapes with numbers that it has no room for.
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).split("\n", 1)[0][:200]
        raise WeightsError(f"{path}: not a whole safetensors file ({reason}); fetch it again") from None


def _read_pickle(path: Path) -> Any:
    try:
        require_sound_pickle(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Not torch's own words: they recommend to run what is in the file.
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f" ({found[1]})" if found else ""
        raise WeightsError(
            f"{path}: refused, since it is no file of plain tensors{reason} and its code will not be run; "
            "convert it to safetensors where you trust it"
        ) from None
    except Exception as error:  # over damaged files the unpickler stumbles in any way: IndexError, AssertionError, …
        reason = f"{type(error).__name__}: {error}".split("\n", 1)[0][:200]
        raise WeightsError(f"{path}: not a whole PyTorch file ({reason}); fetch it again") from None


def _unwrap(path: Path, content: Any) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict in what a training program pickled."""
    notes: tuple[str, ...] = ()
    if isinstance(content, dict):
        for wrapper in _WRAPPERS:
            if isinstance(content.get(wrapper), dict):
                content = content[wrapper]
                notes = (f"weights taken from {wrapper!r} of the file",)
                break
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    strangers = [name for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if strangers:
        # Not as they would show themselves: a file's names may be long, have many lines, or be no names at all.
        names = [name[:60] if isinstance(name, str) else f"<{type(name).__name__}>" for name in strangers[:5]]
        shown = " ".join(", ".join(names).split())
        raise WeightsError(f"{path}: not a state dict: {shown} are not tensors; save model.state_dict()")
    return dict(content), notes


def _strip_prefixes(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Names without what DistributedDataParallel and torch.compile put before all of them."""
    notes = []
    while prefix := next((p for p in _WRAPPER_PREFIXES if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        notes.append(f"prefix {prefix!r} taken off every name")
    return tensors, tuple(notes)
