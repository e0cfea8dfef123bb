"""Read and write files of tensors: safetensors, PyTorch's, Keras' HDF5."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from effnets.errors import MissingFileError, WeightsError
from effnets.utils.atomic_file import write_whole
from effnets.weights.dialects import DIALECTS, Dialect
from effnets.weights.folder import HDF5_SUFFIXES, PICKLE_SUFFIXES, SUFFIXES
from effnets.weights.hashing import hash_file
from effnets.weights.inert import stubs_for_torch
from effnets.weights.safety import ForeignCodeError, require_plain, require_sound_header, require_sound_pickle
from effnets.weights.state_dict import find_state_dict

# Far above every network of Keras; a forged shape can claim any size, and gets it allocated.
_MAX_BYTES = 1 << 28

_NORMALISATION = ("gamma", "beta", "moving_mean", "moving_variance")
_CONVOLUTION = ("kernel", "bias")


def decode_hdf5(path: Path) -> dict[str, Tensor]:
    """The tensors of a Keras file.

    Raises:
        WeightsError: no whole HDF5 file, none of Keras', more in a layer than numbers, or h5py is not installed.
    """
    h5py = _import_h5py(path)
    try:
        with h5py.File(path, "r") as file:
            return _Reader(path, h5py).read(file)
    except WeightsError:
        raise
    # Damage shows as any of these: h5py passes on whatever the C library says.
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, MemoryError) as error:
        reason = str(error).split("\n", 1)[0]
        raise WeightsError(f"{path}: not a whole HDF5 file of Keras ({reason}); fetch it again") from None


def encode_hdf5(path: Path, tensors: Mapping[str, Tensor]) -> bytes:
    """A file for `Model.load_weights`: layers at the root, in the order of `tensors`.

    Raises:
        WeightsError: `path` is called ``.weights.h5``, or h5py is not installed.
    """
    if path.name.endswith(".weights.h5"):
        raise WeightsError(f"{path}: Keras 3 reads another layout from files called .weights.h5; call it .h5")
    h5py = _import_h5py(path)
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, weight = name.partition("/")
        layers.setdefault(layer, {})[f"{layer}/{weight}:0"] = tensor
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        file.attrs["backend"] = b"tensorflow"
        # Keras takes a file without a version for one of Keras 1, and turns its kernels round.
        file.attrs["keras_version"] = b"2.0.0"
        for layer, weights in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, tensor in weights.items():
                group.create_dataset(name, data=tensor.float().numpy())
    return buffer.getvalue()


def _import_h5py(path: Path) -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise WeightsError(f"{path}: Keras files need h5py; run pip install 'effnets[keras]'") from None
    return h5py


class _Reader:
    """Finds the weights of a file. Every group is visited once, however the file links them."""

    def __init__(self, path: Path, h5py: ModuleType) -> None:
        self.path = path
        self.h5py = h5py
        self.visited: set[Any] = set()

    def read(self, file: Any) -> dict[str, Tensor]:
        """The tensors under ``layer/weight``."""
        tensors: dict[str, Tensor] = {}
        size = 0
        for name, dataset in self._datasets(file):
            if dataset.dtype.kind != "f":
                raise self._error(f"{name} is of type {dataset.dtype}, no floating-point numbers; save it as float32")
            if dataset.external or dataset.is_virtual:
                raise self._error(f"{name} is in another file, which is not read; save a copy")
            # Reading takes room for the array and for a chunk of it, both as the file claims them.
            size += dataset.nbytes + math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
            if size > _MAX_BYTES:
                raise self._error(f"claims more than {_MAX_BYTES >> 20} MB, far above any of Keras' networks; refused")
            if name in tensors:
                raise self._error(f"holds {name} twice; save the Keras model again")
            tensors[name] = torch.from_numpy(np.array(dataset[()], dtype=dataset.dtype.newbyteorder("=")))
        return tensors

    def _datasets(self, file: Any) -> Iterator[tuple[str, Any]]:
        root = self._group(file, "model_weights") if "model_weights" in file else file
        if "layers" in root:
            yield from self._numbered(self._group(root, "layers"))
            return
        for layer in root:
            group = self._group(root, layer)
            for weight in group:
                yield from self._named(group, layer, weight)

    def _named(self, group: Any, layer: str, weight: str) -> Iterator[tuple[str, Any]]:
        """A dataset, or all in a group of the layer: ``conv1/kernel:0``, with or without ``conv1/`` and ``:0``."""
        found = self._member(group, weight)
        if isinstance(found, self.h5py.Dataset):
            yield f"{layer}/{weight.partition(':')[0]}", found
            return
        inner = self._group(group, weight)
        for name in inner:
            yield from self._named(inner, layer, name)

    def _numbered(self, layers: Any) -> Iterator[tuple[str, Any]]:
        """Keras 3 names layers by class and number, and weights by number alone."""
        for key in layers:
            layer = self._group(layers, key)
            variables: Any = self._group(layer, "vars") if "vars" in layer else ()
            weights = _NORMALISATION if len(variables) == len(_NORMALISATION) else _CONVOLUTION
            for number in variables:
                if not number.isdecimal() or int(number) >= len(weights):
                    raise self._error(f"layer {key} has a weight {number!r}, which no network of the zoo has")
                yield f"{key}/{weights[int(number)]}", self._member(variables, number)

    def _group(self, parent: Any, name: str) -> Any:
        found = self._member(parent, name)
        if not isinstance(found, self.h5py.Group) or found in self.visited:
            raise self._error(f"{found.name} is not a group of weights of its own; Keras writes no such file")
        self.visited.add(found)
        return found

    def _member(self, parent: Any, name: str) -> Any:
        """`parent`'s member of that name; a link to another place is not followed."""
        if not isinstance(parent.get(name, getlink=True), self.h5py.HardLink):
            raise self._error(f"{name!r} is a link to another place, which is not followed; save a copy")
        return parent[name]

    def _error(self, message: str) -> WeightsError:
        return WeightsError(f"{self.path}: {message}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The tensors of a file, under the names in it.

    `header` is the metadata of a safetensors file; `notes` say where in the file they were, and what was left out.
    """

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    header: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_checkpoint(
    path: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    dialects: Collection[Dialect] = tuple(DIALECTS.values()),
    ema: bool = False,
) -> Checkpoint:
    """Read the network in a ``.safetensors`` file, a pickled one (``.pth``, ``.pt``, ``.bin``), or Keras' ``.h5``.

    Of pickles only tensors are made; see `effnets.weights.state_dict` for where in the file they may be.

    Args:
        sha256: of the file if the caller has verified it; None computes it.
        dialects: whose names the network may have.
        ema: take averaged weights.

    Raises:
        MissingFileError: if the file does not exist.
        WeightsError: if it is a folder, damaged, has an unknown suffix, or is a pickle of more than tensors and
            harmless metadata; or as `find_state_dict`.
    """
    path = Path(path)
    _require_file(path)
    header: dict[str, str] = {}
    content: object
    if path.suffix.lower() == ".safetensors":
        content, header = read_safetensors(path)
    elif path.suffix.lower() in PICKLE_SUFFIXES:
        content = _read_pickle(path)
    elif path.suffix.lower() in HDF5_SUFFIXES:
        content = decode_hdf5(path)
    else:
        known = ", ".join(SUFFIXES)
        raise WeightsError(f"{path}: unknown kind of weights file {path.suffix!r}; known are {known}")
    tensors, notes = find_state_dict(content, path, dialects=dialects, ema=ema)
    require_plain(path, tensors)
    # Hashed last, to save the time for a refused file.
    sha256 = sha256 or hash_file(path)
    return Checkpoint(path=path, sha256=sha256, tensors=tensors, header=header, notes=notes)


def write_checkpoint(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a file, whole or not at all: safetensors with `header`, a pickled state dict or Keras' HDF5 by its suffix.

    Raises:
        WeightsError: if the suffix is another, or the file cannot be written.
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
    if path.suffix.lower() in PICKLE_SUFFIXES:
        buffer = io.BytesIO()
        torch.save(dict(tensors), buffer)
        return buffer.getvalue()
    if path.suffix.lower() in HDF5_SUFFIXES:
        return encode_hdf5(path, tensors)
    raise WeightsError(f"{path}: weights are written as .safetensors; give the file that suffix")


def _in_order(data: bytes) -> bytes:
    """Sort the metadata in the header, which safetensors writes in random order: equal weights make equal files."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file by name, and the metadata in its header; raises as `read_checkpoint`."""
    _require_file(path)
    try:
        require_sound_header(path)
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 (no mapping)
    # RuntimeError: torch's, for shapes too large to allocate.
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).split("\n", 1)[0][:200]
        raise WeightsError(f"{path}: not a whole safetensors file ({reason}); fetch it again") from None


def _read_pickle(path: Path) -> object:
    try:
        with stubs_for_torch(require_sound_pickle(path)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except ForeignCodeError as error:
        raise _refusal(path, f"it holds {error.found}", error.way) from None
    except pickle.UnpicklingError as error:
        # Not torch's own message: it recommends to run the file's code.
        found = re.search(r"Unsupported operand \d+|GLOBAL [\w.]+", str(error))
        reason = f"it was not written by torch.save in its usual way{f' ({found[0]})' if found else ''}"
        raise _refusal(path, reason, "torch.load({path}, weights_only=False)") from None
    except Exception as error:  # damaged files raise anything: IndexError, AssertionError, …
        reason = f"{type(error).__name__}: {error}".split("\n", 1)[0][:200]
        raise WeightsError(f"{path}: not a whole PyTorch file ({reason}); fetch it again") from None


def _refusal(path: Path, reason: str, way: str) -> WeightsError:
    return WeightsError(
        f"{path}: refused: {reason}, and its code will not be run; where you trust the file, make a plain one of it: "
        f'torch.save({way.replace("{path}", repr(str(path)))}, "plain.pth")'
    )
