"""The rooms of effnets: who imports whom, how many files there are, and how long they are."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support import ROOT

PACKAGE = ROOT / "effnets"
# A room imports only from rooms before it. The three at the beginning serve all others.
ORDER = [
    *("errors", "_version", "utils"),
    *("spec", "nn", "weights", "factory", "engines", "inference", "data", "evaluation", "deploy", "report", "train"),
    *("detection", "bench", "search", "serving", "bulk", "embeddings", "cli"),
]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports_of(path: Path) -> set[str]:
    """Every module of effnets that a file imports, at its top, within functions, and for type checkers alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("effnets"):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES or f"{full}.__init__" in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("effnets.")}
    return {name for name in found if name != "effnets"}


def graph() -> dict[str, dict[str, list[str]]]:
    """Room → room it imports → the files that do."""
    arrows: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for module, path in MODULES.items():
        if module in ("effnets.__init__", "effnets.__main__"):
            continue
        for target in imports_of(path):
            if room_of(target) != room_of(module):
                arrows[room_of(module)][room_of(target)].append(f"{module} → {target}")
    return arrows


def test_every_room_is_in_the_order():
    rooms = {room_of(module) for module in MODULES} - {"__init__", "__main__"}
    assert rooms == set(ORDER)


def test_rooms_import_only_from_rooms_before_them():
    wrong = [
        line
        for room, targets in graph().items()
        for target, lines in targets.items()
        for line in lines
        if ORDER.index(target) >= ORDER.index(room)
    ]
    assert not wrong, "\n".join(wrong)


def test_modules_of_a_room_import_each_other_in_no_circle():
    """At their top: what a function imports when it is called makes no circle."""
    arrows = {}
    for module, path in MODULES.items():
        top = ast.Module(body=[], type_ignores=[])
        top.body = [n for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.ImportFrom)]
        names = {node.module for node in top.body if node.module and node.module.startswith("effnets")}
        names |= {f"{node.module}.{alias.name}" for node in top.body for alias in node.names}
        arrows[module] = {name for name in names if name in MODULES and name != module}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join((*trail, module))
        if module not in done:
            for target in arrows[module]:
                visit(target, (*trail, module))
            done.add(module)

    for module in arrows:
        visit(module, ())


def test_the_top_level_has_few_entries():
    beside = {"__init__.py", "__main__.py", "_version.py", "py.typed", "__pycache__"}
    entries = sorted({path.name for path in PACKAGE.iterdir()} - beside - {"__init__.pyi"})
    assert len(entries) <= 21, entries


def test_files_are_few_and_short():
    lines = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values()}
    assert len(lines) <= 300
    assert sum(lines.values()) <= 50_000
    assert {path: count for path, count in lines.items() if count > 500} == {}


@pytest.mark.parametrize("room", [name for name in ORDER if (PACKAGE / name).is_dir()])
def test_every_room_says_what_it_is(room):
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8")))
    assert text
    assert text.splitlines()[0].endswith(".")
