"""docs/costs.md says what the code counts."""

from __future__ import annotations

import subprocess
import sys

from tests.support import ROOT


def test_the_page_is_in_step():
    script = [sys.executable, str(ROOT / "scripts" / "cost_table.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
