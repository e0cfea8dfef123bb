"""Processes that fetch weights: huggingface_hub reads its environment once, so every client is one of its own."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PROGRAM = """
import json, os, sys, time
arguments = json.loads(sys.argv[1])
if arguments.pop("linkless", False):
    def refuse(*arguments, **options):
        raise OSError("this filesystem has no links")
    os.symlink = refuse
if arguments.pop("xetless", False):
    import importlib.metadata
    version = importlib.metadata.version
    def without_xet(name):
        if name in ("hf_xet", "hf-xet"):
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)
    importlib.metadata.version = without_xet
    sys.modules["hf_xet"] = None
from effnets.errors import EffnetsError
from effnets.weights.fetch import fetch
from effnets.spec.specs import WeightsSpec
from effnets.spec.specs import PreprocessSpec
import resource, signal
limit = arguments.pop("limit", None)
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
weights = WeightsSpec(model="m", tag="t", dialect="timm", licence="mit", preprocess=PreprocessSpec(), **arguments)
begin = time.monotonic()
try:
    file = fetch(weights)
    answer = {"path": str(file.path), "source": file.source, "sha256": file.sha256}
except EffnetsError as error:
    answer = {"error": type(error).__name__, "message": str(error)}
print(json.dumps({**answer, "seconds": time.monotonic() - begin}))
"""


PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


def obey_permissions() -> None:
    """Let what this process is about to execute be bound by permissions, also if it is root's."""
    if os.geteuid() == 0:
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


@dataclass
class Machine:
    """A user's machine: its caches in `folder`, its Hub at `endpoint`; root is nobody special there if `obedient`."""

    folder: Path
    endpoint: str
    obedient: bool = False

    @property
    def cache(self) -> Path:
        return self.folder / "hf" / "hub"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def environment(self, **changes: str) -> dict[str, str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        pins = self.folder / "pins.yaml"
        pins.write_text("{}\n")  # the registry's own are of the real files
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "EFFNETS_"))},
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(self.folder / "hf"),
            "EFFNETS_HOME": str(self.home),
            "EFFNETS_PINS": str(pins),
            "HF_HUB_DOWNLOAD_TIMEOUT": "2",
            "HF_HUB_ETAG_TIMEOUT": "2",
            "NO_PROXY": "127.0.0.1",
            **changes,
        }

    def start(self, program: str, *arguments: str, **changes: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            env=self.environment(**changes),
            preexec_fn=obey_permissions if self.obedient else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_fetch(self, environment: dict[str, str] | None = None, **spec: object) -> subprocess.Popen[str]:
        spec = {"source": "hf-hub:org/repo", **spec}
        return self.start(PROGRAM, json.dumps(spec), **(environment or {}))

    def fetch(self, environment: dict[str, str] | None = None, **spec: object) -> dict:
        return finish(self.start_fetch(environment, **spec))

    def leftovers(self) -> list[str]:
        """Files of the caches that hold weights or parts of them: all but locks, notes and tags."""
        unimportant = (".lock", ".sha256", "CACHEDIR.TAG")
        roots = (self.cache, self.home / "files")
        return [
            str(path.relative_to(self.folder))
            for root in roots
            for path in sorted(root.rglob("*"))
            if (path.is_file() or path.is_symlink())
            and not path.name.endswith(unimportant)
            and "refs" not in path.parts
        ]


def finish(process: subprocess.Popen[str]) -> dict:
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


def wait_for(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
