"""Check sizes and contents that files claim, before a reader allocates memory for them; executes nothing."""

from __future__ import annotations

import io
import json
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch._utils import IMPORT_MAPPING, NAME_MAPPING

from effnets.errors import WeightsError
from effnets.weights.inert import stub_of

# Far above every network, its class names included; a parsed header takes thirty times its length.
_MAX_HEADER = 4 << 20
# A training program's whole state has a tenth of it.
_MAX_INSTRUCTIONS = 1_000_000
_MAX_TUPLE = 10_000_000
# Each takes torch microseconds, the more types a file names; a pickle names each once, and gets it from its memo then.
_CALLS = {"REDUCE": 1, "NEWOBJ": 1, "BUILD": 1, "GLOBAL": 20}
_MAX_CALLS = 200_000
_ENCODE = "_codecs.encode"
_STORAGE_OF_PICKLE = "torch.storage._load_from_bytes"
# Where training programs put a network.
_PLACES = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")
_WORD = 40
# A legacy file: a magic number, a version, the writer's number formats, the content, the names of its storages.
_LEGACY_PICKLES = 5

# torch lets pickles call more than these; none of these allocates more than the file holds.
_BUILDERS = frozenset(
    {
        *("builtins.set", "builtins.complex", "collections.OrderedDict", "collections.Counter", _ENCODE),
        *("torch.Size", "torch.device", "torch.nn.parameter.Parameter", "torch.serialization._get_layout"),
        *(f"torch._utils._rebuild_{kind}" for kind in ("tensor", "tensor_v2", "tensor_v3")),
        *(f"torch._utils._rebuild_{kind}" for kind in ("parameter", "parameter_with_state")),
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
# Those that fill the object below what they take.
_FILLERS = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"})


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


def require_sound_pickle(path: Path) -> Mapping[str, type]:
    """Refuse a PyTorch file that unpacks to more than its size, or whose pickle does more than build tensors.

    Returns:
        A stub for each harmless type that it holds beside them, by the type's name, for `effnets.weights.inert`.

    Raises:
        ForeignCodeError: if it calls or holds what no state dict needs, and what is not known to be harmless.
        ValueError, EOFError, RuntimeError, BadZipFile: if it is damaged, or a memory bomb.
    """
    stubs: dict[str, type] = {}
    with path.open("rb") as file:
        # As torch decides: everything else is a legacy pickle.
        if file.read(4) != b"PK\x03\x04":
            file.seek(0)
            for _ in range(_LEGACY_PICKLES):
                if not file.peek(1):
                    break  # torch says what is missing
                stubs |= _Program(file, path.stat().st_size).follow()
            return stubs
    # torch's reader, not Python's: the two may read a forged archive differently.
    archive = torch._C.PyTorchFileReader(str(path))
    records = archive.get_all_records()
    size = _unpacked_size(archive, path)
    if size > path.stat().st_size:
        raise ValueError(f"its records unpack to {size:,} bytes, more than the file has; torch.save packs nothing")
    if "data.pkl" in records:
        program = archive.get_record("data.pkl")
        stubs = _Program(io.BytesIO(program), len(program)).follow()
    return stubs


def _unpacked_size(archive: Any, path: Path) -> int:
    if hasattr(archive, "get_record_size"):
        return sum(archive.get_record_size(record) for record in archive.get_all_records())
    # torch 2.10 has no get_record_size: use Python's reader.
    with zipfile.ZipFile(path) as directory:
        return sum(record.file_size for record in directory.infolist())


class ForeignCodeError(Exception):
    """A pickle holds more than tensors and harmless metadata.

    Attributes:
        found: what it is. way: an expression that reads the weights from ``{path}`` and runs what the file holds.
    """

    def __init__(self, found: str, way: str) -> None:
        super().__init__(found)
        self.found = found
        self.way = way


class _Item:
    """What is known of an object on the stack.

    Attributes:
        size: of tuples and calls, how many objects they are made of, each counted as often as it is met.
        length: how many it holds itself, or how many bytes a string has.
        value: the text of a string, the name of a global, the items of a tuple.
    """

    __slots__ = ("length", "size", "value")

    def __init__(self, size: int = 1, length: int = 0, value: object = None) -> None:
        self.size = size
        self.length = length
        self.value = value


class _Global(str):
    """The name of a global on the stack."""

    __slots__ = ()


class _Program:
    """A pickle's instructions, followed without an object being made."""

    def __init__(self, file: IO[bytes], length: int) -> None:
        self.file = file
        self.length = length
        self.calls = self.copied = self.copied_bytes = 0
        self.root = ""  # the first instruction that makes an object of nothing
        self.words: dict[str, None] = {}  # short strings, in their order
        self.stubs: dict[str, type] = {}

    def follow(self) -> dict[str, type]:
        """Return a stub for each foreign type; raise as `require_sound_pickle`."""
        stack: list[_Item] = []
        marks: list[int] = []
        memo: dict[int, _Item] = {}
        argument: Any
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self.file)):
            name = opcode.name
            if count == _MAX_INSTRUCTIONS:
                raise ValueError(f"more than {_MAX_INSTRUCTIONS:,} instructions, more than any network's")
            if name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
                memo[len(memo) if argument is None else argument] = stack[-1]
                continue
            if name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
                continue
            if name == "MARK":
                marks.append(len(stack))
                continue
            self.calls += _CALLS.get(name, 0)
            if self.calls > _MAX_CALLS:
                raise ValueError(f"more than {_MAX_CALLS:,} calls, more than any network's")
            taken, to_mark, given = _EFFECTS[name]
            if given and not (taken or to_mark or isinstance(argument, str | bytes)):
                self.root = self.root or name
                stack.append(_Item(value=[] if name == "EMPTY_TUPLE" else None))
                continue
            start = (marks.pop() if to_mark else len(stack)) - taken
            items = stack[start:]
            if name in _FILLERS:
                items[0].length += len(items) - 1
                if name == "BUILD":
                    self._count(items[1])
                stack[start:] = items[:1]
                continue
            item = _Item(size := min(1 + sum([item.size for item in items]), _MAX_TUPLE + 1))
            if name in ("GLOBAL", "STACK_GLOBAL"):
                item.value = self._global(argument or f"{items[0].value} {items[1].value}")
            elif name.startswith("TUPLE"):
                # A tuple twice in a tuple, nested thirty times: hashing it as a key takes hours.
                if size > _MAX_TUPLE:
                    raise ValueError("tuples of one another again and again, as in no state dict")
                item.length, item.value = len(items), items
            elif name in ("REDUCE", "NEWOBJ"):
                self._require_sound_call(*items)
            elif isinstance(argument, str | bytes):
                item.length, item.value = len(argument), argument
                if len(argument) < _WORD and isinstance(argument, str):
                    self.words[argument] = None
            stack[start:] = [item] * given
        return self.stubs

    def _global(self, argument: str) -> _Global:
        """Refuse what is neither needed to rebuild tensors nor known to be harmless."""
        module, _, attribute = argument.partition(" ")
        # As torch does: a program of today writes names of Python 2.
        module, attribute = NAME_MAPPING.get((module, attribute), (IMPORT_MAPPING.get(module, module), attribute))
        name = _Global(f"{module}.{attribute}")
        if (stub := stub_of(name)) is not None:
            self.stubs[str(name)] = stub
            return name
        dtype = module == "torch" and isinstance(getattr(torch, attribute, None), torch.dtype)
        storage = module.partition(".")[0] == "torch" and attribute.endswith("Storage")
        if not (name in _BUILDERS or dtype or storage):
            raise self._refusal(name)
        return name

    def _require_sound_call(self, function: _Item, arguments: _Item) -> None:
        """Refuse calls of what is no global, and those that make more of a file than it has."""
        name, given = function.value, arguments.value
        # A storage would be as large as the number it is given.
        if not (isinstance(name, _Global) and isinstance(given, list)) or name.endswith("Storage"):
            raise ValueError("it calls what no file of torch.save calls, or otherwise")
        if name == _ENCODE and not (len(given) == 2 and given[1].value == "latin1"):
            raise self._refusal(_ENCODE)
        for one in given:
            self._count(one)

    def _count(self, item: _Item) -> None:
        """Refuse copies of one object again and again: of a string, or of a list by a set."""
        if isinstance(item.value, str | bytes):
            self.copied_bytes += item.length
        else:
            self.copied += item.length
        if self.copied > _MAX_INSTRUCTIONS or self.copied_bytes > max(self.length, _MAX_HEADER):
            raise ValueError("it copies its own objects again and again, as no network's file does")

    def _refusal(self, name: str) -> ForeignCodeError:
        rest = self.file.read(_MAX_HEADER)
        module = b"_parameters" in rest and b"_modules" in rest
        shown = re.sub(r"[^\w.]", "?", name[:100])
        article = "an" if shown[0] in "aeiou" else "a"
        return ForeignCodeError(
            f"{article} {shown}, a whole module" if module else shown, self._way(name, rest, module)
        )

    def _way(self, name: str, rest: bytes, module: bool) -> str:
        """The expression that reads a plain state dict from the file ``{path}``, and runs what it holds."""
        if name == _STORAGE_OF_PICKLE:
            return 'pickle.load(open({path}, "rb"))'
        loaded = "torch.load({path}, weights_only=False)"
        if self.root != "EMPTY_DICT":
            return f"{loaded}.state_dict()" if module else loaded
        for place in _PLACES:
            if place in self.words or b"X" + len(place).to_bytes(4, "little") + place.encode() in rest:
                whole = module and list(self.words)[-1] == place
                return f'{loaded}["{place}"]' + (".state_dict()" if whole else "")
        return f"{{name: value for name, value in {loaded}.items() if isinstance(value, torch.Tensor)}}"


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
