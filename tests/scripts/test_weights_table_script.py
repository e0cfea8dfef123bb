"""weights.md and the plots say what the registry says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from effnets.spec.models import list_models
from effnets.spec.weights import find_weights
from tests.support import ROOT

SCRIPT = [sys.executable, str(ROOT / "scripts" / "make_weights_table.py")]
PAGE = (ROOT / "weights.md").read_text(encoding="utf-8")
PLOTS = [ROOT / "docs" / "accuracy-madds.svg", ROOT / "docs" / "accuracy-params.svg"]


def test_the_page_and_the_plots_are_in_step():
    # The page is about the shipped pins, whatever pins its reader has.
    environment = {**os.environ, "EFFNETS_PINS": "gone.yaml"}
    done = subprocess.run([*SCRIPT, "--check"], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr


def test_the_page_has_every_tag_once():
    assert sorted(re.findall(r"^\| `([^`]+)` \|", PAGE, flags=re.MULTILINE)) == list_models(pretrained=True)


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.stem)
def test_the_plots_have_every_figure_and_stand_in_the_documents(plot):
    tips = [element.text for element in ElementTree.parse(plot).getroot().iter("{http://www.w3.org/2000/svg}title")]
    with_figure = [entry for entry in map(find_weights, list_models(pretrained=True)) if entry.top1 is not None]
    assert sorted(tips[1:]) == sorted(f"{entry.name}: {entry.top1:.1f} %" for entry in with_figure)
    assert f"](docs/{plot.name})" in PAGE
    assert f"]({plot.name})" in (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
