"""Ten thousand damaged inputs: each ends in a network or in an error of ours, quickly and without a warning."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence

import pytest

from effnets.errors import ConfigError, EffnetsError
from effnets.spec.block_string import decode_block, encode_block, override_block
from effnets.spec.models import load_spec
from effnets.spec.plan import make_plan
from effnets.spec.yaml import read_yaml
from effnets.utils.paths import configs_dir

# One thousand block strings and one thousand documents a part: 10,000 inputs in all.
PARTS = 5
CASES = 1_000
SECONDS = 2.0

pytestmark = pytest.mark.filterwarnings("error")

CHARACTERS = [
    *"0123456789.-+/_krsecnapx \t\n:,[]{}#&*!|>'\"%@`~?",
    *"٣²½éρ中\u200b\ufeff\u2028\x85\x07\x1b\0\ud800\uffff😀",
]
TOKENS = [
    *[
        "ir",
        "ds",
        "dsa",
        "cn",
        "lb",
        "r256",
        "r257",
        "r0",
        "k3.5.7.9",
        "k63",
        "k1",
        "k",
        "k4",
        "k3.3.3.3.3.3.3.3.3.3.3",
    ],
    *["s1", "s2", "s3", "e64", "e0.01", "e1", "e999", "c1", "c65536", "c999999", "se1", "se1/1000000", "se1/0", "se0"],
    *["a1.1", "a1.1.1.1.1.1.1.1.1.1.1.1.1.1.1.1", "p1.1.1", "nsw", "nre", "nxx", "n", "exponential", "dilated"],
    *["skip", "noskip", "", "_", "__"],
]
YAML_TOKENS = [
    *["0", "-1", "1e999", "1e-999", "0.01", "64", "65536", "9" * 18, "9" * 25, "-0.0", ".inf", ".nan", "0x10", "true"],
    *["null", "~", "no", "[]", "{}", "[[[[[[[[[[[[[[[[[[", "'", '"', "&a", "*a", "!!int", "!!python/object:os.system"],
    *["<<:", "---", "...", "? ", ": ", "- ", "base:", "base: mixnet_m", "width:", "depth: 64", "divisor: 1024", "_"],
    *["every_block: k5", "every_block: exponential", "resolution: 64", "channels: {start: 1, growth: 65536}"],
    *["channels: null", "mean: [1, 2]", "stem: 65536", "%YAML 1.1", '"\\ud800"', '"\\UFFFFFFFF"', "blocks: []", "#"],
]


def mutate(rng: random.Random, pieces: list[str], alphabet: Sequence[str]) -> None:
    """Delete, duplicate, replace, insert or exchange one of `pieces`."""
    if not pieces:
        pieces.append(rng.choice(alphabet))
    place = rng.randrange(len(pieces))
    match rng.randrange(5):
        case 0:
            del pieces[place]
        case 1:
            pieces.insert(place, pieces[place])
        case 2:
            pieces[place] = rng.choice(alphabet)
        case 3:
            pieces.insert(place, rng.choice(alphabet))
        case _:
            other = rng.randrange(len(pieces))
            pieces[place], pieces[other] = pieces[other], pieces[place]


def shipped_entries() -> list[str]:
    """The text of each entry of the shipped files, comments and all."""
    entries = []
    for path in sorted((configs_dir() / "models").glob("*.yaml")):
        parts = re.split(r"(?m)^(?=[a-z_])", path.read_text(encoding="utf-8"))
        entries += parts[1:]
    return entries


def shipped_rows() -> list[str]:
    return re.findall(r"(?m)^ +- (\S+)", "".join(shipped_entries()))


ENTRIES = shipped_entries()
ROWS = shipped_rows()


def damaged_row(rng: random.Random) -> str:
    text = rng.choice(ROWS)
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.5:
            tokens = text.split("_")
            mutate(rng, tokens, TOKENS)
            text = "_".join(tokens)
        else:
            characters = list(text)
            mutate(rng, characters, CHARACTERS)
            text = "".join(characters)
    return text


def damaged_document(rng: random.Random) -> str:
    text = "".join(rng.sample(ENTRIES, rng.randint(1, 3)))
    for _ in range(rng.randint(1, 4)):
        match rng.randrange(4):
            case 0:
                pieces = list(text)
                mutate(rng, pieces, CHARACTERS)
            case 1:
                pieces = re.split(r"(\W)", text)
                mutate(rng, pieces, YAML_TOKENS)
            case 2:
                pieces = text.splitlines(keepends=True)
                mutate(rng, pieces, [*ENTRIES, *(f"  {token}\n" for token in YAML_TOKENS)])
            case _:  # a damaged row in place of a whole one: the document stays YAML more often
                pieces = re.split(r"((?<=- )\S+)", text)
                rows = range(1, len(pieces), 2)
                if rows:
                    pieces[rng.choice(rows)] = damaged_row(rng)
        text = "".join(pieces)
    return text


def try_row(text: str) -> int:
    """How many of the two readings succeeded: as a row, and as a piece laid over one."""
    successes = 0
    try:
        block = decode_block(text)
    except EffnetsError as error:
        assert str(error).startswith("block string ")  # noqa: PT017
    else:
        assert decode_block(encode_block(block)) == block
        successes += 1
    try:
        override_block(decode_block("ir_r1_k3_s1_e6_c8"), text)
    except EffnetsError:
        return successes
    return successes + 1


def run(kind: str, part: int, make: Callable[[random.Random], str], attempt: Callable[[str], int]) -> int:
    """Put `CASES` inputs to `attempt`; any exception it lets through is shown with the input and its seed."""
    successes = 0
    for case in range(CASES):
        seed = f"{kind} {part} {case}"
        text = make(random.Random(seed))
        start = time.perf_counter()
        try:
            successes += attempt(text)
        except Exception as error:
            raise AssertionError(f"random.Random({seed!r}): {type(error).__name__}: {error}\n{text!r}") from error
        seconds = time.perf_counter() - start
        assert seconds < SECONDS, f"random.Random({seed!r}): {seconds:.1f} s\n{text!r}"
    return successes


@pytest.mark.parametrize("part", range(PARTS))
def test_damaged_block_strings(part):
    successes = run("row", part, damaged_row, try_row)
    # Neither all nor none: the mutations reach past the first check.
    assert 50 < successes < CASES


@pytest.mark.parametrize("part", range(PARTS))
def test_damaged_documents(part, tmp_path):
    path = tmp_path / "my.yaml"

    def attempt(text: str) -> int:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            document = read_yaml(path).value
        except EffnetsError as error:
            assert str(path) in str(error)  # noqa: PT017
            return 0
        names = list(document) if isinstance(document, dict) else [None]
        return sum(try_model(str(path) if name is None else f"{path}:{name}") for name in names)

    successes = run("document", part, damaged_document, attempt)
    assert 100 < successes < 3 * CASES


def try_model(path: str) -> bool:
    try:
        make_plan(load_spec(path))
    except ConfigError as error:
        assert str(error)  # noqa: PT017
        return False
    except EffnetsError:
        return False
    return True


def test_the_shipped_material_is_whole(tmp_path):
    assert len(ENTRIES) > 100
    assert len(ROWS) > 80
    path = tmp_path / "my.yaml"
    path.write_text("".join(ENTRIES), encoding="utf-8")
    assert len(read_yaml(path).value) == len(ENTRIES)
    for row in ROWS:
        assert encode_block(decode_block(row)) == row
