"""Paths that cannot be written are reported before the work; links are followed, and what is not a file is left."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from effnets.deploy.export.base import check_path, check_writable, write_file
from effnets.errors import ExportError


def test_a_link_is_a_place_to_write_to(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    path = tmp_path / "model.onnx"
    path.symlink_to(folder / "model.onnx")
    assert check_path(path) == path
    write_file(path, b"content")
    assert path.is_symlink()
    assert (folder / "model.onnx").read_bytes() == b"content"


def test_a_link_into_no_folder_is_reported(tmp_path):
    path = tmp_path / "model.onnx"
    path.symlink_to(tmp_path / "gone" / "model.onnx")
    with pytest.raises(ExportError, match=f"^{re.escape(str(path))}: .*gone is not a folder; make it first"):
        check_writable(path)


def test_a_pipe_is_reported_and_left_alone(tmp_path):
    path = tmp_path / "plot.svg"
    os.mkfifo(path)
    with pytest.raises(ExportError, match=r"plot\.svg: cannot be written there; .*a pipe or a device, not a file"):
        check_writable(path)
    with pytest.raises(ExportError, match=r"plot\.svg: cannot be written \(it is a pipe or a device, not a file\)"):
        write_file(path, b"<svg/>")
    assert path.is_fifo()


def test_a_device_and_a_folder_are_reported(tmp_path):
    with pytest.raises(ExportError, match=r"/dev/null: cannot be written there; .*a device"):
        check_writable(Path("/dev/null"))
    with pytest.raises(ExportError, match=r"cannot be written there; .*[Dd]irectory"):
        check_writable(tmp_path)
