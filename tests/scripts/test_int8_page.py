"""The pages of int8 say what was measured."""

from __future__ import annotations

import runpy

from tests.support import ROOT


def test_the_setting_with_the_least_error_is_the_one_taken():
    trials = {"minmax": 0.05, "mse": 0.04, "mse, equalised": 0.06, "mse, equalised, biases corrected": 0.03}
    result = {"trials": trials, "method": "mse", "left": []}
    page = runpy.run_path(str(ROOT / "scripts" / "int8_page.py"))
    (line,) = page["_trials"]("tiny", result)
    assert line.endswith(". Taken: mse, equalised, biases corrected")
