"""What an installed effnets must be able to do with its core dependencies alone; run it outside of the repository."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import effnets
from effnets.inference.labels import class_names


def main() -> None:
    home = Path(effnets.__file__).parent
    assert (home / "configs" / "models" / "mixnet.yaml").is_file(), f"{home} has no configs"
    assert (home / "configs" / "schema.json").is_file(), f"{home} has no schema"
    assert (home / "configs" / "weights" / "pins.yaml").is_file(), f"{home} has no registry of weights"
    assert (home / "py.typed").is_file(), f"{home} is not marked as typed"
    assert importlib.util.find_spec("timm") is None, "timm is installed: this is no core environment"
    names = effnets.list_models()
    assert effnets.load_spec("rexnetr_200.sw_in12k").num_classes == len(class_names(11821)) == 11821
    for name in names:
        effnets.create_model(name, device="meta")
    model = effnets.create_model("mixnet_s")
    effnets.save_weights(model, "mixnet_s.safetensors")
    again = effnets.create_model("mixnet_s", weights="mixnet_s.safetensors").eval()
    pixels = torch.zeros(64, 64, 3, dtype=torch.uint8).numpy()
    assert len(effnets.predict(again, pixels)[0]) == 5
    check_demo()
    print(f"{len(names)} models built from {home}, one saved, loaded and run")


def check_demo() -> None:
    """The first command of a newcomer, without network and extras: it does what it can, and says what is missing."""
    with tempfile.TemporaryDirectory() as folder:
        demo = subprocess.run(
            [sys.executable, "-m", "effnets", "demo"],
            cwd=folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    for sentence in ("drawings are named as they were meant", "'effnets[train]'", "'effnets[export]'", "Done, after"):
        assert sentence in demo.stdout, f"effnets demo does not say {sentence!r}:\n{demo.stdout}"


if __name__ == "__main__":
    main()
