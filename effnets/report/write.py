"""`write_report`: the page, and its pictures as files."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from effnets.errors import ReportError
from effnets.report.summary import RunSummary

_PAGE, _PICTURES = "report.html", "report"


def write_report(folder: str | os.PathLike[str], run: RunSummary) -> Path:
    """Write ``report.html`` into `folder`, which is made if need be, and its pictures as PNG into ``report/``.

    The page holds everything: it needs no network and no script, and is read by day and by night, on a desk and on a
    telephone.

    Returns:
        The page.

    Raises:
        ReportError: the folder cannot be written, and what was there before is still there; or matplotlib is missing.
    """
    if not find_spec("matplotlib"):
        raise ReportError(
            "matplotlib is not installed, which draws the report; install it: pip install 'effnets[train]'"
        )
    from effnets.report.page import compose_report

    folder = Path(folder)
    page, pictures = compose_report(run)
    # The page last: who sees it sees the pictures of the same run.
    _write(folder, {**{f"{_PICTURES}/{name}": content for name, content in pictures.items()}, _PAGE: page})
    return folder / _PAGE


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """All under other names first, then quickly to their own."""
    mark = uuid.uuid4().hex
    written = {folder / name: folder / Path(name).parent / f".{mark}.{Path(name).name}" for name in files}
    try:
        (folder / _PICTURES).mkdir(parents=True, exist_ok=True)
        for (path, temporary), content in zip(written.items(), files.values(), strict=True):
            if path.is_dir():
                raise ReportError(f"{path}: is a folder, where the report wants to write a file; move it away")
            temporary.write_bytes(content)
        for path, temporary in written.items():
            temporary.replace(path)
    except OSError as error:
        if isinstance(error, ReportError):
            raise
        raise ReportError(
            f"{folder}: the report cannot be written ({error.strerror or error}); "
            "name a folder that may be written, with room left"
        ) from None
    finally:
        with suppress(OSError):
            for temporary in written.values():
                temporary.unlink(missing_ok=True)
