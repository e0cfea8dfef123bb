"""Public names, signatures, commands and options are those of version 0.1.0, or more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.public_api import commands, public_names

STORED = json.loads((Path(__file__).parent / "assets" / "public_api.json").read_text(encoding="utf-8"))
# Taken away or given another default on purpose, with the version that did.
CHANGED = {
    ("finetune", "listener"): "0.2.0: callbacks",
    ("predict", "batch_size"): "0.2.0: by the device",
    ("evaluate", "batch_size"): "0.2.0: by the device",
}


@pytest.fixture(scope="module")
def names():
    return public_names()


@pytest.mark.parametrize("name", STORED["names"])
def test_a_name_keeps_its_signature(names, name):
    stored, now = STORED["names"][name], names[name]
    assert set(stored.get("members", [])) <= set(now.get("members", []))
    assert set(stored.get("bases", [])) <= set(now.get("bases", []))
    expected = {key: value for key, value in stored.get("parameters", {}).items() if (name, key) not in CHANGED}
    actual = now.get("parameters", {})
    assert {key: actual.get(key) for key in expected} == expected
    order = [key for key in actual if key in expected and actual[key][0] != "KEYWORD_ONLY"]
    assert order == [key for key in expected if expected[key][0] != "KEYWORD_ONLY"]
    added = {key: value for key, value in actual.items() if key not in stored.get("parameters", {})}
    assert all(default != "required" for _, default in added.values()), "a new parameter needs a default"


def test_no_name_is_gone(names):
    assert set(STORED["names"]) <= set(names)


def test_commands_keep_their_options():
    now = commands()
    assert set(STORED["commands"]) <= set(now)
    for command, stored in STORED["commands"].items():
        for name, expected in stored.items():
            actual = now[command][name]
            assert set(expected["options"]) <= set(actual["options"]), command
            assert (actual["required"], actual["many"]) == (expected["required"], expected["many"]), (command, name)
            assert set(expected["choices"] or []) <= set(actual["choices"] or []), (command, name)
        added = [name for name, option in now[command].items() if name not in stored and option["required"]]
        assert not added, f"{command}: {added} are new and required"
