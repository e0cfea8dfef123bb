"""Benchmarks on systems that tell less of themselves than Linux does."""

from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner

from effnets.bench import comparison, memory
from effnets.cli import main
from effnets.utils.machine import load_average, load_since
from tests.support.small_benchmarks import quick, write_table

QUICKLY = ["--engines=torch", "--against=", "--batch=1", "--rounds=1", "--image-size=32", "--threads=1"]


@pytest.fixture
def tiny(tmp_path):
    return write_table(tmp_path, "tiny")


def test_the_load_is_that_of_the_system():
    assert load_average() == pytest.approx(os.getloadavg()[0], abs=5)
    begin, end = load_since(1.5)
    assert (begin, end >= 0) == (1.5, True)


def unknown(*_arguments):
    raise OSError("the load average cannot be obtained")


@pytest.mark.parametrize("how", ["there is none", "it fails"])
def test_without_a_load_the_report_leaves_it_out(tiny, monkeypatch, how):
    assert "; load " in quick(tiny, engines=("torch",), against=()).markdown()
    if how == "it fails":
        monkeypatch.setattr(os, "getloadavg", unknown)
    else:
        monkeypatch.delattr(os, "getloadavg")
    found = quick(tiny, engines=("torch",), against=())
    assert found.load is None
    assert "interleaved rounds in time\n" in found.markdown()
    assert json.loads(json.dumps(found.to_dict()))["load"] is None


def test_where_the_system_tells_no_peak_memory_the_rest_is_measured(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(memory, "find_spec", lambda _name: None)
    monkeypatch.setattr(comparison, "peak_memory", None)
    result = CliRunner().invoke(main, ["bench", tiny, *QUICKLY])
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert "effnets rewritten" in result.stdout
    assert "peak MB" not in result.stdout
    assert result.stderr.count("not measured: peak memory, which this system does not tell of a process") == 1
    assert quick(tiny, engines=("torch",), against=()).missing == (), "nothing is missing that nobody asked for"


def test_a_peak_without_proc(tmp_path, monkeypatch):
    pytest.importorskip("resource")
    known = memory._peak()
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    assert memory.measures_peak()
    # getrusage may include the process that started this one.
    assert memory._peak() > 0.5 * known
