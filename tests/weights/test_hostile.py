"""Files made to do harm: each refused in one line that names it, soon, in little room, and nothing in it is run."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
import zipfile
from collections import OrderedDict

import pytest
import torch

from effnets.weights.files import read_checkpoint, write_checkpoint
from effnets.weights.safety import _unpacked_size
from tests.support.hostile import judge


class Payload:
    """Makes a file when unpickled without care."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def saved(content, legacy=False):
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def repacked(content, compression=zipfile.ZIP_STORED, **records):
    """A file of torch.save's with some of its records replaced."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as source,
        zipfile.ZipFile(buffer, "w", compression, compresslevel=1) as z,
    ):
        for name in source.namelist():
            z.writestr(name, records.get(name.rpartition("/")[2], source.read(name)))
    return buffer.getvalue()


def packed(**records):
    return repacked(SMALL, zipfile.ZIP_DEFLATED, **records)


def called(function, *instructions):
    """A pickle of a state dict whose one tensor is what `function` makes."""
    return b"\x80\x02}X\x01\x00\x00\x00ac" + function + b"\n" + b"".join(instructions) + b"Rs."


SMALL = saved({"a.weight": torch.zeros(4)})
GIGABYTE = b"\x8a\x05" + (1 << 30).to_bytes(5, "little")
BYTES_OF_NUMBER = called(b"builtins\nbytearray", GIGABYTE, b"\x85")
# "aaaa…" in hex, in hex, …: twice as long each time.
DOUBLED = called(
    b"_codecs\nencode",
    *(b"c_codecs\nencode\n" * 29, b"C\x01a", *(b"X\x03\x00\x00\x00hex\x86R" for _ in range(29))),
    b"X\x03\x00\x00\x00hex\x86",
)
LEGACY_START = b"".join(
    pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "type_sizes": {}})
)


SPACE = b"cargparse\nNamespace\n"
TEXT = b"X" + (1 << 20).to_bytes(4, "little") + b"a" * (1 << 20)
LATIN = b"X\x06\x00\x00\x00latin1"


def repeated(shared, *calls, times):
    """A pickle of a list: `shared`, kept as 0, and what `calls` make of it again and again."""
    return b"\x80\x02}X\x01\x00\x00\x00a(" + shared + b"q\x00" + b"".join(calls) * times + b"l" + b"s."


def entries(number, opening, closing):
    return opening + b"(" + b"".join(b"J" + index.to_bytes(4, "little") for index in range(number)) + closing


def programs_with_stubs():
    """Name → a pickle that makes use of what is let in beside tensors: stubs, encoded text, sets."""
    one, key = b"X\x01\x00\x00\x001", b"X\x01\x00\x00\x00a"
    numbers, mapping = entries(90_000, b"]", b"e"), entries(90_000, b"}", b"u")
    return {
        "stub_given_command": called(SPACE[1:-1], b"cposix\nsystem\n\x85"),
        "stub_built_of_command": b"\x80\x02}" + key + SPACE + b")\x81}" + key + b"cposix\nsystem\nsbs.",
        "stub_called_again": called(SPACE[1:-1], b")R)"),
        "storage_called": called(b"torch.storage\nUntypedStorage", GIGABYTE, b"\x85"),
        "set_of_listed": called(b"__builtin__\nset", b"](]e"),
        "getattr": called(b"__builtin__\ngetattr", SPACE, one, b"\x86"),
        "eval": called(b"__builtin__\neval", one, b"\x85"),
        "encoded_again": repeated(TEXT, b"c_codecs\nencode\nh\x00" + LATIN + b"\x86R", times=900),
        "encoded_as_computed": called(b"_codecs\nencode", one, b"c_codecs\nencode\n", LATIN, LATIN, b"\x86R\x86"),
        "states": repeated(mapping, SPACE + b"q\x01", b"h\x01)\x81h\x00b", times=90_000),
        "ordered_states": repeated(mapping, b"ccollections\nOrderedDict\n)Rh\x00b", times=9_000),
        "calls": repeated(b"]", SPACE + b"q\x01", b"h\x01)\x81" * 9, times=30_000),
        "sets": repeated(numbers, b"c__builtin__\nset\nh\x00\x85R", times=9_000),
    }


def many_tuples():
    """A key of a dict that is a tuple of one tuple twice, forty levels deep."""
    levels = b"".join(b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86" for level in range(40))
    return b"\x80\x02})" + levels + b"K\x01s."


def stated_storage(numbers):
    """The pickle of four numbers that says they are so many."""
    with zipfile.ZipFile(io.BytesIO(SMALL)) as archive:
        program = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    assert program.count(b"K\x04Nt") + program.count(b"K\x04t") == 1
    place = program.index(b"K\x04")
    return program[:place] + b"\x8a\x05" + numbers.to_bytes(5, "little") + program[place + 2 :]


def hdf5_like():
    return b"\x89HDF\r\n\x1a\n" + random.Random(0).randbytes(100_000)


def laughs(levels):
    return "a0: &a0 [ha, ha]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, levels))


def hostile_files(canary):
    """Name → content of each."""
    evil = {"a.weight": torch.zeros(4), "extra": Payload(canary)}
    return {
        "command.pth": saved(evil),
        "command_legacy.pth": saved(evil, legacy=True),
        "command_plain.pth": pickle.dumps(evil),
        "command.h5": pickle.dumps(evil),
        "command.safetensors": pickle.dumps(evil),
        "module.pth": saved(torch.nn.Linear(2, 2)),
        "bomb.pth": packed(**{"data.pkl": stated_storage(160 << 20), "0": bytes(640 << 20)}),
        "bomb_program.pth": packed(**{"data.pkl": b"\x80\x02" + b"}0" * (4 << 20) + b"}."}),
        "long_program.pth": repacked(SMALL, **{"data.pkl": b"\x80\x02(" + b"}" * (8 << 20) + b"l."}),
        "bytes.pth": repacked(SMALL, **{"data.pkl": BYTES_OF_NUMBER}),
        "bytes_legacy.pth": LEGACY_START + BYTES_OF_NUMBER + pickle.dumps([], 2),
        "bytes_plain.pth": BYTES_OF_NUMBER,
        "doubled.pth": repacked(SMALL, **{"data.pkl": DOUBLED}),
        **{f"{name}.pth": repacked(SMALL, **{"data.pkl": program}) for name, program in programs_with_stubs().items()},
        "tuples.pth": repacked(SMALL, **{"data.pkl": many_tuples()}),
        "storage.pth": repacked(SMALL, **{"data.pkl": stated_storage(10 << 28)}),
        "storage_legacy.pth": LEGACY_START + stated_storage(10 << 28) + pickle.dumps(["0"], 2) + bytes(64),
        "expanded.pth": saved({"stem.conv.weight": torch.zeros(1).expand(16, 1 << 30, 1, 1)}),
        "names.pth": saved({"a\n" * 99: 1, (1, 2): torch.zeros(1)}),
        "random.h5": hdf5_like(),
        "laughs.yaml": laughs(12).encode(),
        "tag.yaml": f"a: !!python/object/apply:os.system ['touch {canary}']\n".encode(),
        "spaces.yaml": b" " * 100_000_000,
        "binary.yaml": random.Random(0).randbytes(10_000),
        "deep.yaml": b"a: " + b"[" * 500_000,
        "wide.yaml": b"a: [" + b"1," * 500_000 + b"]",
    }  # fmt: skip


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What becomes of the hostile files and folders, and whether any of them ran its command."""
    folder, canary = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("canary") / "ran"
    for name, content in hostile_files(canary).items():
        (folder / name).write_bytes(content)
    tables = {"pickled": pickle.dumps(Payload(canary)), "spaces": b" " * (2 << 20), "deep": b"a: {" * 99_999}
    for name, content in tables.items():
        (folder / name).mkdir()
        (folder / name / "model.yaml").write_bytes(content)
        write_checkpoint(folder / name / "model.safetensors", {"a.weight": torch.zeros(1)}, {})
    answers = judge(folder)
    assert not canary.exists()
    return folder, answers


CODE = (
    r"refused: it holds {}, and its code will not be run; where you trust the file, make a plain one of it: "
    r'torch\.save\({}, "plain\.pth"\)'
)
PLAIN = r"torch\.load\('.*\.pth', weights_only=False\)"
TENSORS_OF = r"\{name: value for name, value in " + PLAIN + r"\.items\(\) if isinstance\(value, torch\.Tensor\)\}"
DAMAGED = r"not a whole PyTorch file \(\w+: {}.*\); fetch it again"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("command.pth", CODE.format("posix.system", TENSORS_OF)),
        ("command_legacy.pth", CODE.format("posix.system", TENSORS_OF)),
        ("command_plain.pth", CODE.format("torch.storage._load_from_bytes", r"pickle\.load\(open\('.*', \"rb\"\)\)")),
        ("command.h5", r"not a whole HDF5 file of Keras \(.*\); fetch it again"),
        ("command.safetensors", r"not a whole safetensors file \(its header claims .*\); fetch it again"),
        (
            "module.pth",
            CODE.format(r"a torch\.nn\.modules\.linear\.Linear, a whole module", PLAIN + r"\.state_dict\(\)"),
        ),
        ("bomb.pth", DAMAGED.format("its records unpack to 671,0.* more than the file has; torch.save packs nothing")),
        ("bomb_program.pth", DAMAGED.format("its records unpack to 8,38")),
        ("long_program.pth", DAMAGED.format("more than 1,000,000 instructions")),
        ("bytes.pth", CODE.format("builtins.bytearray", TENSORS_OF)),
        ("bytes_legacy.pth", CODE.format("builtins.bytearray", TENSORS_OF)),
        ("bytes_plain.pth", CODE.format("builtins.bytearray", TENSORS_OF)),
        ("doubled.pth", CODE.format("_codecs.encode", TENSORS_OF)),
        ("stub_given_command.pth", CODE.format("posix.system", TENSORS_OF)),
        ("stub_built_of_command.pth", CODE.format("posix.system", TENSORS_OF)),
        ("stub_called_again.pth", DAMAGED.format("it calls what no file of torch.save calls")),
        ("storage_called.pth", DAMAGED.format("it calls what no file of torch.save calls")),
        ("set_of_listed.pth", DAMAGED.format("it calls what no file of torch.save calls")),
        ("getattr.pth", CODE.format("builtins.getattr", TENSORS_OF)),
        ("eval.pth", CODE.format("builtins.eval", TENSORS_OF)),
        ("encoded_again.pth", DAMAGED.format("it copies its own objects again and again")),
        ("encoded_as_computed.pth", CODE.format("_codecs.encode", TENSORS_OF)),
        ("states.pth", DAMAGED.format("it copies its own objects again and again")),
        ("ordered_states.pth", DAMAGED.format("it copies its own objects again and again")),
        ("calls.pth", DAMAGED.format("more than 200,000 calls, more than any network's")),
        ("sets.pth", DAMAGED.format("it copies its own objects again and again")),
        ("tuples.pth", DAMAGED.format("tuples of one another")),
        ("storage.pth", DAMAGED.format("")),
        ("storage_legacy.pth", DAMAGED.format("")),
        (
            "expanded.pth",
            r"stem\.conv\.weight claims 17,179,869,184 numbers and repeats a few; save tensor\.contiguous",
        ),
        ("names.pth", r"not a state dict: (a ){29}a, <tuple> are not tensors; save model\.state_dict\(\)"),
        ("random.h5", r"not a whole HDF5 file of Keras \(.*\); fetch it again"),
        ("laughs.yaml", r"1:5: anchors \(&name\) are not read here; use 'base' to inherit from another model"),
        (
            "tag.yaml",
            r"1:4: tags \(tag:yaml\.org,2002:python/object/apply:os\.system\) are not read here; remove it",
        ),
        ("spaces.yaml", "too long for a config; the limit is 1,048,576 bytes"),
        ("binary.yaml", r"not UTF-8 text \(byte \d+\); save it as UTF-8"),
        ("deep.yaml", r"1:\d+: nested deeper than 16 levels"),
        ("wide.yaml", "1: a: an entry is a mapping, such as .*"),
        ("pickled", r"(not UTF-8 text|not valid YAML).*"),
        ("spaces", "too long for a config; the limit is 1,048,576 bytes"),
        ("deep", r"1:\d+: nested deeper than 16 levels"),
    ],
)
def test_hostile(answers, name, message):
    folder, found = answers
    file = folder / name / "model.yaml" if (folder / name).is_dir() else folder / name
    assert re.fullmatch(rf"refused {re.escape(str(file))}:( |(?=\d)){message}.*", found[name]), found[name]


def test_none_is_forgotten(answers):
    """Every file made has its message above."""
    named = {call["name"] if isinstance(call, dict) else call[0] for call in test_hostile.pytestmark[0].args[1]}
    assert named == answers[1].keys()


def test_programs_of_trainers_are_read(tmp_path):
    """What has a counter, sets and shared tuples beside its weights: an optimizer's state, in both formats."""
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW([{"params": [p], "lr": 0.1} for p in network.parameters() for _ in range(1)])
    optimizer.zero_grad()
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"state_dict": network.state_dict(), "optimizer": optimizer.state_dict(), "seen": {1, 2}, "epoch": 3}
    state |= {"groups": [{"betas": (betas := (0.9, 0.999)), "pair": (betas, index)} for index in range(99)]}
    for legacy in (False, True):
        path = tmp_path / f"{legacy}.pth"
        path.write_bytes(saved(state, legacy))
        assert read_checkpoint(path).tensors.keys() == {"weight", "bias"}


def test_both_readers_tell_the_unpacked_size(tmp_path):
    class OlderReader:
        """torch 2.10's: it does not say."""

    path = tmp_path / "bomb.pth"
    path.write_bytes(packed(**{"data.pkl": stated_storage(1 << 20), "0": bytes(4 << 20)}))
    sizes = {_unpacked_size(reader, path) for reader in (torch._C.PyTorchFileReader(str(path)), OlderReader())}
    assert len(sizes) == 1
    assert sizes.pop() > 4 << 20


def test_stubs_make_nothing_of_what_they_are_given(tmp_path):
    """Arrays that claim to be huge, a hundred thousand objects, deep and long names: little time and room."""
    array = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + GIGABYTE + GIGABYTE + b"\x86" + GIGABYTE
    whole = saved({"a.weight": torch.zeros(4), "more": "HERE"})
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        program = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    place = b"X\x04\x00\x00\x00HERE"
    assert place in program
    many = b"](" + SPACE + b"q\x63" + b"h\x63)\x81}b" * 90_000 + b"e"
    for name, given in {"array": array + b"\x87R", "many": many}.items():
        (tmp_path / f"{name}.pth").write_bytes(repacked(whole, **{"data.pkl": program.replace(place, given)}))
    (tmp_path / "names.pth").write_bytes(saved({"a." * 200 + str(index): torch.zeros(0) for index in range(9000)}))
    shared = {"w": torch.zeros(1)}
    shared["again"] = shared
    (tmp_path / "cycle.pth").write_bytes(saved({str(index): shared for index in range(9000)}))
    assert set(judge(tmp_path).values()) == {"accepted"}


def test_attributes_in_place_of_methods_are_not_looked_up(tmp_path):
    content = OrderedDict(model=OrderedDict({"a.weight": torch.nn.Parameter(torch.ones(4))}))
    methods = {"items", "keys", "get", "values", "numel", "detach", "untyped_storage", "data_ptr", "stride"}
    for owner in (content, content["model"], content["model"]["a.weight"]):
        owner.__dict__.update(dict.fromkeys(map(str.upper, methods), 1))
    with zipfile.ZipFile(io.BytesIO(saved(content))) as archive:
        program = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    for method in methods:
        assert method.upper().encode() in program
        program = program.replace(method.upper().encode(), method.encode())
    path = tmp_path / "w.pth"
    path.write_bytes(repacked(saved(content), **{"data.pkl": program}))
    assert torch.equal(read_checkpoint(path).tensors["a.weight"], torch.ones(4))
