"""The two files of a quantisation, the model and its report: both, or what was there before."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from effnets.deploy.output import check_place, write_file
from effnets.deploy.quantize_report import QuantizeReport
from effnets.errors import ExportError
from effnets.utils.atomic_file import find_target

__all__ = ["report_place", "write_both"]

# By these a report is known, of whatever version; all have had them.
_KEYS = {"model", "sha256", "gate", "agreement", "failures", "left", "layers", "calibration_images", "float_size"}


def report_place(target: Path) -> Path:
    """Where the report of the model `target` goes, if it can be written there: beside it, with the suffix .json.

    An earlier report is replaced, and no other JSON: programs keep their settings under such names.

    Raises:
        ExportError: it cannot be written there, or another file has the name.
    """
    path = target.with_suffix(".json")
    check_place(path)
    if path.exists() and not _is_report(path):
        raise ExportError(
            f"{path}: is there already, and is no report of int8, whose place it takes; move it away, or give the "
            f"model another name than {target.name}"
        )
    return path


def write_both(target: Path, data: bytes, report: QuantizeReport) -> None:
    """Write the report and then the model, so that no model is without its report.

    Raises:
        ExportError: one of them cannot be written; what was there before is there again.
    """
    path = report_place(target)
    before = path.read_bytes() if path.exists() else None
    write_file(path, (json.dumps(report.to_dict(), indent=1) + "\n").encode())
    try:
        write_file(target, data)
    except BaseException:
        # What hinders this as well is told already.
        with suppress(ExportError, OSError):
            if before is None:
                find_target(path).unlink()
            else:
                write_file(path, before)
        raise


def _is_report(path: Path) -> bool:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.keys() >= _KEYS
