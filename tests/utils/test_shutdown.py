"""A signal ends a program after it has cleaned up."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from effnets.utils.shutdown import exit_on_sigterm


def test_sigterm_becomes_an_exit_and_only_meanwhile():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as exit_, exit_on_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert exit_.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_export_that_is_ended_leaves_nothing(tmp_path):
    """It is ended while the new folder is there and not yet complete."""
    program = (
        "import os, signal; from effnets.cli import main; from effnets.deploy.export import web; "
        "web.find_ort = lambda *_: {}; "
        "web.export_onnx = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM); "
        f"main(['export', 'mixnet_xs_32px', {str(tmp_path / 'page')!r}, '--web'])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 128 + signal.SIGTERM, result.stderr
    assert not list(tmp_path.iterdir())
