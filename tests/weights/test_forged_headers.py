"""Safetensors files that claim what they do not hold: each refused in one line, before room is made for its tensors."""

from __future__ import annotations

import json
import random
import re
import struct

import torch

from tests.support.hostile import judge

MUTANTS = 500


def framed(header, data=b"", length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def mutant(number):
    """The kind of a damage, and a safetensors file that has it; its numbers are drawn."""
    draw = random.Random(number)
    ends = [0]
    header = {"__metadata__": {"format": "pt"}}
    for index in range(draw.randint(2, 6)):
        shape = [draw.randint(1, 5) for _ in range(draw.randint(1, 4))]
        ends.append(ends[-1] + 4 * torch.Size(shape).numel())
        header[f"layer{index}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": ends[-2:]}
    data = bytes(ends[-1])
    name = draw.choice(list(header)[1:])
    one = header[name]
    text = json.dumps(header)
    large = draw.choice([1 << 63, 1 << 64, (1 << 63) + draw.randint(0, 9), 1 << 200])
    begin, end = one["data_offsets"]

    def changed(**values):
        return framed({**header, name: {**one, **values}}, data)

    kinds = {
        "claims a terabyte": lambda: changed(shape=[1 << 38], data_offsets=[begin, begin + (1 << 40)]),
        "overlaps": lambda: framed({**header, "more": one}, data),
        "begins early": lambda: changed(data_offsets=[begin - 4, end] if begin else [begin, end + 4]),
        "out of file": lambda: changed(data_offsets=[begin + len(data), end + len(data)]),
        "ends first": lambda: changed(data_offsets=[end, begin]),
        "unknown dtype": lambda: changed(dtype=draw.choice(["F33", "f32", "", 32, None, "object"])),
        "wrong dtype": lambda: changed(dtype=draw.choice(["F16", "F64", "I8", "BOOL", "C64"])),
        "shape is not bytes": lambda: changed(shape=[*one["shape"], draw.randint(2, 9)]),
        "named twice": lambda: framed(
            text[:-1].encode() + f', "{name}": {json.dumps({**one, "shape": [(end - begin) // 4, 1]})}}}'.encode(), data
        ),
        "deep": lambda: framed(b'{"a":' + draw.choice([b"[", b'{"a":']) * draw.randint(200, 300_000), data),
        "huge header": lambda: framed(header, data, length=draw.choice([1 << 63, 1 << 40, 1 << 27, (1 << 64) - 1])),
        "header of spaces": lambda: framed(text.encode() + b" " * draw.randint(5 << 20, 20 << 20), data),
        "not UTF-8": lambda: framed(text.encode().replace(b"layer", draw.choice([b"\xff", b"\xc3\x28"])), data),
        "negative": lambda: changed(shape=[-1, *one["shape"]]),
        "negative offset": lambda: changed(data_offsets=[-draw.randint(1, 9), end]),
        "fraction": lambda: changed(shape=[float(one["shape"][0]) + draw.choice([0.0, 0.5]), *one["shape"][1:]]),
        "no number": lambda: changed(data_offsets=[begin, draw.choice(["9", None, True, [], float("inf")])]),
        "2^63": lambda: changed(shape=[0, large], data_offsets=[begin, begin]),
        "2^63 alone": lambda: framed({"a": {"dtype": "F32", "shape": [0, large], "data_offsets": [0, 0]}}),
        "2^64 in all": lambda: framed(
            {"a": {"dtype": "U8", "shape": [1 << draw.randint(40, 62), 1 << 32], "data_offsets": [0, 0]}}
        ),
        "key missing": lambda: framed({**header, name: {"dtype": "F32", "shape": one["shape"]}}, data),
        "no mapping": lambda: framed(draw.choice([[], None, 7, [header], "x"]), data),
        "odd metadata": lambda: framed({**header, "__metadata__": draw.choice([7, {"a": 1}, {"a": {}}])}, data),
        "bytes left over": lambda: framed(header, data + bytes(draw.randint(1, 99))),
        "many names": lambda: framed(
            ("{" + ",".join(f'"a{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(90_000)) + "}")
            .encode()
        ),
    }  # fmt: skip
    kind = list(kinds)[number % len(kinds)]
    return kind, kinds[kind]()


def test_forged_safetensors(tmp_path):
    kinds = {}
    for number in range(MUTANTS):
        kind, content = mutant(number)
        kinds[f"{number:03}.safetensors"] = kind
        (tmp_path / f"{number:03}.safetensors").write_bytes(content)
    answers = judge(tmp_path)
    assert answers.keys() == kinds.keys()
    for name, answer in answers.items():
        whole = rf"refused {re.escape(str(tmp_path / name))}: (not a whole safetensors file \([^\n]+\); fetch it again)"
        assert re.fullmatch(whole, answer), f"{kinds[name]}: {answer}"
