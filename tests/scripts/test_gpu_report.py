"""The report on a GPU: rehearsed on a CPU, within its time, tolerant of what is missing."""

from __future__ import annotations

import importlib
import json
import time

import pytest

from tests.support import ROOT

pytest.importorskip("triton", reason="triton is on Linux alone")


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return [importlib.import_module(name) for name in ("gpu_report", "gpu_report_rows", "gpu_report_parts")]


def run(scripts, tmp_path, *arguments):
    status = scripts[0].main(["--dry-run", "--output", str(tmp_path), *arguments])
    return status, json.loads((tmp_path / "gpu.json").read_text()), (tmp_path / "GPU.md").read_text()


def test_the_cheapest_parts(scripts, tmp_path, capsys):
    parts = ["--models", "mixnet_xs_32px", "--parts", "ceiling,kernels,networks,layers,training"]
    status, content, page = run(scripts, tmp_path, *parts)
    assert status == 0, page
    assert content["dry_run"]
    sections = {row["section"] for row in content["rows"]}
    assert sections == {"ceiling", "kernels", "networks", "layers", "training"}
    assert all(row["state"] in ("ok", "missing") for row in content["rows"])
    assert page.startswith("# effnets on a GPU\n\n**A rehearsal on a CPU")
    for heading in ("Ceilings", "The kernels against float64", "Networks against float64", "Training steps"):
        assert f"## {heading}\n" in page
    assert "timm has no mixnet_xs_32px" in page  # a peer that lacks the network
    assert "gpu_report" not in capsys.readouterr().err


def test_the_time_is_kept(scripts, tmp_path):
    begin = time.perf_counter()
    status, content, page = run(scripts, tmp_path, "--seconds", "9", "--models", "mixnet_xs_32px")
    assert time.perf_counter() - begin < 30
    assert status == 0
    assert "## Left out" in page
    assert {row["state"] for row in content["rows"]} >= {"left out"}


def test_errors_missing_packages_and_wrong_results_are_rows(scripts, tmp_path, monkeypatch):
    _, rows, parts = scripts
    report = rows.Report(tmp_path, 60, dry=True)

    def fail():
        raise ValueError("no such\nthing")

    assert report.attempt("engines", {"model": "a"}, fail)["note"] == "ValueError: no such"
    assert report.attempt("engines", {"model": "b"}, parts.missing("no tensorrt"))["state"] == "missing"
    report.attempt("kernels", {"layer": "c"}, lambda: {"output": 0.5, "state": "wrong"})
    assert [row["state"] for row in report.wrong] == ["failed", "wrong"]
    page = (tmp_path / "GPU.md").read_text()
    assert "## Failed\n\n- engines: a failed ValueError: no such\n" in page
    assert "## Missing\n\n- engines: b missing no tensorrt\n" in page
    assert "| c |  | 0.5 |  |  |" in page
    with pytest.raises(TimeoutError), rows.time_limit(0.1):
        time.sleep(5)
    monkeypatch.setattr(parts, "find_spec", lambda _: None)
    with pytest.raises(rows.MissingError, match="timm is not installed"):
        parts.timm_of(parts.network_of("mixnet_xs_32px"))


def test_without_a_gpu_it_says_so(scripts, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scripts[2].torch.cuda, "is_available", lambda: False)
    assert scripts[0].main(["--output", str(tmp_path / "out")]) == 1
    assert "torch finds no GPU; --dry-run rehearses the report on a CPU" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        scripts[0].main(["--dry-run", "--parts", "all"])
