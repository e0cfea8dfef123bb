"""Suppress what exporters and native libraries print."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator

# Held while an export changes what all threads share: loggers, torch's number of threads, `nn.Module.__call__`.
EXPORTING = threading.RLock()


@contextlib.contextmanager
def quiet_exporters() -> Iterator[None]:
    """Suppress what exporters print, log and warn of: the exported file is verified afterwards."""
    names = ("torch", "onnxscript", "onnx_ir", "absl", "jax", "executorch", "coremltools")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with (
        EXPORTING,
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),  # progress bars
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def quiet_native() -> Iterator[None]:
    """Suppress what native code of this process writes to its standard error meanwhile.

    LiteRT and ExecuTorch greet there at every load, and have no setting for it in Python.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
